"""A text on which all models of a comparison are judged, whatever they were trained on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from compressm_cli.objectives import Metric as Score
from compressm_cli.reports.arms import Member
from compressm_cli.reports.metrics import Metric, Reading

TITLES = {"text_bits_per_byte": "bits a byte", "text_byte_perplexity": "byte perplexity"}
"""Rows of a comparison, the first of which models are judged by then."""


@dataclass(frozen=True)
class JudgedText:
    """How well each model of a comparison predicts a text, each byte of which is counted once."""

    source: str
    bytes: int
    context: int
    """Tokens that each model was shown at once: the same of all, the most that all of them take."""
    notes: list[str]
    """What makes a number doubtful."""
    values: list[Mapping[str, float]] = field(repr=False)
    """Of each model, in the order in which they were given, by the keys of ``TITLES``."""


Judge = Callable[[Sequence[Member]], JudgedText]


def primary_of_text() -> Score:
    """What the models of a comparison are judged by."""
    title = f"{TITLES['text_bits_per_byte']} of the text"
    return Score("bits_per_byte", title, least=0.0)


def text_metrics(text: JudgedText, members: Sequence[Member]) -> list[Metric]:
    """The rows; ``members`` are those that ``text`` was asked of, in their order."""
    by_member = {id(member): values for member, values in zip(members, text.values, strict=True)}

    def row(key: str, title: str) -> Metric:
        def read(member: Member) -> Reading:
            return by_member[id(member)][key], None

        return Metric(key, f"{title} of the text", "number", read, score=True)

    return [row(key, title) for key, title in TITLES.items()]
