"""The next token at each step: cross-entropy, accuracy, perplexity, bits a byte."""

import math
from typing import Any, Literal

from compressm_cli.data.interface import DataSpec, Split, TaskConfig
from compressm_cli.objectives.classification import ACCURACY, Classification, ClassScores
from compressm_cli.objectives.objective import Metric
from compressm_cli.objectives.teacher import TaughtConfig

PERPLEXITY = Metric("perplexity", "perplexity", unknown="it is beyond the floating-point numbers", least=1.0)
BITS_PER_BYTE = Metric(
    "bits_per_byte", "bits a byte", unknown="the task does not know how many bytes a token is", least=0.0
)


class LanguageConfig(TaughtConfig):
    """``objective: {kind: language}``: cross-entropy of the next token at each step."""

    kind: Literal["language"] = "language"
    primary: Literal["accuracy", "perplexity", "bits_per_byte"] = "accuracy"
    """The metric that decides which model is the best, and whether a cut is kept. Perplexity is the exponential of the
    loss; bits a byte are known where the tokens are bytes."""


class Language(Classification):
    """Cross-entropy of tokens; labels are token numbers (rows, steps)."""

    Config = LanguageConfig
    METRICS = (ACCURACY, PERPLEXITY, BITS_PER_BYTE)

    @classmethod
    def problem(cls, config: Any, spec: DataSpec, task: TaskConfig | None) -> str | None:
        if spec.targets is None and not (spec.per_step and spec.classes == spec.vocabulary):
            return "language takes a token for each step, and these labels are classes; write kind: classification"
        if config.primary == BITS_PER_BYTE.name and _bytes_per_token(task) is None:
            return (
                "primary: bits_per_byte takes a task that knows how many bytes a token is, such as text_lm; "
                "write primary: perplexity"
            )
        return super().problem(config, spec, task)

    def scores(self, split: Split) -> "LanguageScores":
        return LanguageScores(self, split.device)


class LanguageScores(ClassScores):
    """Loss, accuracy and what follows from the loss."""

    def metrics(self) -> dict[str, float | None]:
        loss, size = self.mean_loss(), _bytes_per_token(self._objective.task)
        bits = None if size is None else loss / math.log(2) / size
        return {**super().metrics(), PERPLEXITY.name: perplexity(loss), BITS_PER_BYTE.name: bits}


def perplexity(loss: float) -> float | None:
    """None where it is beyond the floating-point numbers."""
    try:
        return math.exp(loss)
    except OverflowError:
        return None


def _bytes_per_token(task: TaskConfig | None) -> float | None:
    return None if task is None else task.bytes_per_token
