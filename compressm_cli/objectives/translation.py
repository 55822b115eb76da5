"""A text for a text: cross-entropy of the tokens of the target; BLEU and exact matches of greedy translations."""

from functools import cache
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec, Split, TaskConfig
from compressm_cli.objectives.classification import ACCURACY, Classification, ClassScores, cross_entropy
from compressm_cli.objectives.greedy import greedy
from compressm_cli.objectives.objective import Metric, Objective, Reduction
from compressm_cli.objectives.teacher import TaughtConfig

BLEU = Metric("bleu", "BLEU", higher_is_better=True, least=0.0, most=100.0)
EXACT_MATCH = Metric(
    "exact_match",
    "exact matches",
    higher_is_better=True,
    unit="share",
    plural="exact matches",
    least=0.0,
    most=1.0,
)
ORDER = 4
"""The longest n-grams that BLEU counts."""


class TranslationConfig(TaughtConfig):
    """``objective: {kind: translation}``: cross-entropy of each token of a target, whose beginning is given."""

    kind: Literal["translation"] = "translation"
    primary: Literal["bleu", "exact_match", "accuracy"] = "bleu"
    """The metric that decides which model is the best, and whether a cut is kept. BLEU is that of sacrebleu, 0 to 100,
    and with ``exact_match``, the share of translations that are the target to the last token, of greedy translations;
    accuracy is that of each token after the right ones before it."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the probability that training divides equally among all tokens; models are evaluated without."""
    decoded_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """Rows of a split that are translated for BLEU and exact matches, all along it; all where there are fewer."""


class Translation(Classification):
    """Cross-entropy of tokens; labels are token numbers (rows, steps), of the steps of targets."""

    Config = TranslationConfig
    METRICS = (BLEU, EXACT_MATCH, ACCURACY)

    def __init__(
        self, config: Any = None, spec: DataSpec | None = None, task: TaskConfig | None = None
    ) -> None:
        super().__init__(config, spec, task)
        _bleu()

    @classmethod
    def problem(cls, config: Any, spec: DataSpec, task: TaskConfig | None) -> str | None:
        if spec.source is None:
            kind = "language" if spec.per_step and spec.classes == spec.vocabulary else "classification"
            kind = kind if spec.targets is None else "regression"
            return (
                f"translation takes pairs of source and target, and these rows are none; write kind: {kind}"
            )
        return None

    @classmethod
    def definitions(cls) -> dict[str, str]:
        return {BLEU.name: str(_bleu().get_signature())}

    def loss(self, outputs: Tensor, batch: Split, reduction: Reduction = "mean") -> Tensor:
        return cross_entropy(outputs, batch.labels, reduction, self.config.label_smoothing)

    def judge(self) -> Objective:
        if not self.config.label_smoothing:
            return self
        return type(self)(self.config.model_copy(update={"label_smoothing": 0.0}), self.spec, self.task)

    def scores(self, split: Split) -> "TranslationScores":
        return TranslationScores(self, split)


class TranslationScores(ClassScores):
    """Loss and accuracy of all rows; of some of them BLEU and exact matches, by counts that add up."""

    def __init__(self, objective: Objective, split: Split) -> None:
        super().__init__(objective, split.device)
        count = min(objective.config.decoded_rows, len(split))
        self._wanted = torch.arange(count) * len(split) // count
        # Of n-grams that are right, and of all that are said, by their length; words that are said, and of targets.
        self._ngrams = torch.zeros(2 * ORDER + 2, dtype=torch.long, device=split.device)
        self._exact, self._decoded = (torch.zeros_like(self.labels) for _ in range(2))

    def ask(self, model: Any, batch: Split, numbers: Tensor) -> None:
        chosen = torch.isin(numbers.cpu(), self._wanted).nonzero()[:, 0]
        if len(chosen):
            self._judge(model, batch.rows(chosen.to(batch.labels.device)))

    def _judge(self, model: Any, rows: Split) -> None:
        """Count what translations of some rows are."""
        spec = self._objective.spec
        assert spec is not None, "the source's length is that of a data set"
        assert spec.source is not None, "which has pairs"
        said = greedy(model, rows.inputs[:, : spec.source + 1], spec.classes - 1, spec.length - spec.source)
        targets = [labels[scored].tolist() for labels, scored in zip(rows.labels, rows.scored, strict=True)]
        pairs = [
            (_ended(one, spec), _ended(two, spec)) for one, two in zip(said.tolist(), targets, strict=True)
        ]
        self._decoded += len(pairs)
        self._exact += sum(one == two for one, two in pairs)
        texts = [[self._text(tokens) for tokens in side] for side in zip(*pairs, strict=True)]
        found = _bleu().corpus_score(texts[0], [texts[1]])
        counts = [*found.counts, *found.totals, found.sys_len, found.ref_len]
        self._ngrams += torch.tensor(counts, device=self._ngrams.device)

    def _text(self, tokens: list[int]) -> str:
        task = self._objective.task
        return " ".join(map(str, tokens)) if task is None else task.target_text(tokens)

    def sums(self) -> list[Tensor]:
        return [*super().sums(), self._ngrams, self._exact, self._decoded]

    def metrics(self) -> dict[str, float | None]:
        decoded = int(self._decoded)
        exact = int(self._exact) / decoded if decoded else None
        return {
            **super().metrics(),
            BLEU.name: bleu(self._ngrams.tolist()) if decoded else None,
            EXACT_MATCH.name: exact,
        }


def bleu(counts: list[int]) -> float:
    """BLEU of a corpus: n-grams of each length that are right, that are said; words that are said, and of targets."""
    method = _bleu()
    found = method.compute_bleu(
        correct=counts[:ORDER],
        total=counts[ORDER : 2 * ORDER],
        sys_len=counts[-2],
        ref_len=counts[-1],
        smooth_method=method.smooth_method,
        smooth_value=method.smooth_value,
        effective_order=method.effective_order,
        max_ngram_order=method.max_ngram_order,
    )
    return float(found.score)


@cache
def _bleu() -> Any:
    """sacrebleu's, with its defaults; BadInputError where it is not installed."""
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise BadInputError(
            "objective: translation is judged by BLEU, which needs the package sacrebleu; install it with: "
            "pip install 'compressm[translation]'"
        ) from error
    method = metrics.BLEU(max_ngram_order=ORDER)
    method.corpus_score([""], [[""]])  # its signature knows the number of references from then on
    return method


def _ended(tokens: list[int], spec: DataSpec) -> list[int]:
    """Tokens before the end, without the padding and the beginning, which stand for no text."""
    end = spec.classes - 1
    whole = tokens[: tokens.index(end)] if end in tokens else tokens
    return [token for token in whole if token not in (0, end - 1)]
