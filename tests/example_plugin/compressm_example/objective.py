"""An objective: ``objective: {kind: smoothed, smoothing: 0.1}``."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from compressm_cli.data import IGNORE, Split
from compressm_cli.objectives.classification import Classification, ClassificationConfig
from compressm_cli.objectives.objective import Reduction


class SmoothedConfig(ClassificationConfig):
    """``objective: {kind: smoothed}``: classes, with labels that are not quite certain."""

    kind: Literal["smoothed"] = "smoothed"
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of a label that all classes have together."""


class Smoothed(Classification):
    """Cross-entropy with label smoothing (Szegedy et al. 2016); judged as classification is."""

    Config = SmoothedConfig

    def loss(self, outputs: Tensor, batch: Split, reduction: Reduction = "mean") -> Tensor:
        return nn.functional.cross_entropy(
            outputs.flatten(0, -2).float(),
            batch.labels.flatten(),
            ignore_index=IGNORE,
            reduction=reduction,
            label_smoothing=self.config.smoothing,
        )
