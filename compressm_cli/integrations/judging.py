"""The models of a comparison judged on one text."""

from collections.abc import Sequence
from pathlib import Path

from compressm_cli.integrations.opening import open_language_model
from compressm_cli.integrations.perplexity import BITS, PERPLEXITY, perplexity
from compressm_cli.reports.arms import Member
from compressm_cli.reports.texts import Judge, JudgedText

BATCH = 16
"""Windows of the text at once."""
KEYS = {"text_bits_per_byte": BITS, "text_byte_perplexity": PERPLEXITY}


def judge_of(text: Path, device: str = "auto") -> Judge:
    """What judges models on a file of text, all with as much of it before each token as all of them are shown.

    Raises BadInputError, when it is asked, for what is no language model or no text.
    """

    def judge(members: Sequence[Member]) -> JudgedText:
        models = [open_language_model(member.checkpoint_path, None, device) for member in members]
        context = min(model.context for model in models)
        found = []
        for model in models:
            model.context = context
            found.append(perplexity(model, text, BATCH))
        scores = [
            {score.metric: score.value for score in one.scores if score.value is not None} for one in found
        ]
        return JudgedText(
            source=str(text),
            bytes=found[0].count,
            context=context,
            notes=[
                f"{model.name}: {note}"
                for model, one in zip(models, found, strict=True)
                for note in one.notes
            ],
            values=[{key: one[name] for key, name in KEYS.items()} for one in scores],
        )

    return judge
