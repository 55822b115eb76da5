"""Real numbers, for each sequence or for each scored step of it: mean squared error, mean absolute error, R2."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from compressm_cli.data.interface import DataSpec, Split, TaskConfig
from compressm_cli.objectives.objective import (
    Metric,
    Objective,
    ObjectiveConfig,
    Reduction,
    Scores,
    TargetScores,
)

MSE = Metric("mse", "mean squared error", least=0.0)
MAE = Metric("mae", "mean absolute error", least=0.0)
R2 = Metric(
    "r2",
    "R2",
    higher_is_better=True,
    unit="share",
    unknown="the labels of a target are all the same",
    most=1.0,
)


class RegressionConfig(ObjectiveConfig):
    """``objective: {kind: regression}``: squared error of real numbers for each sequence."""

    kind: Literal["regression"] = "regression"
    primary: Literal["mse", "mae", "r2"] = "mse"
    """The metric that decides which model is the best, and whether a cut is kept."""


class ForecastingConfig(ObjectiveConfig):
    """``objective: {kind: forecasting}``: squared error of real numbers for each scored step."""

    kind: Literal["forecasting"] = "forecasting"
    primary: Literal["mse", "mae", "r2"] = "mse"
    """The metric that decides which model is the best, and whether a cut is kept."""


class Regression(Objective):
    """Squared error; labels are real numbers (rows, targets), NaN where nothing is scored."""

    Config: ClassVar[type[ObjectiveConfig]] = RegressionConfig
    METRICS = (MSE, MAE, R2)
    LOSS = Metric("loss", "squared error", least=0.0)
    PER_STEP = False

    @classmethod
    def problem(cls, config: Any, spec: DataSpec, task: TaskConfig | None) -> str | None:
        if spec.targets is None:
            return (
                f"{config.kind} takes real numbers, and these labels are classes; write kind: classification"
            )
        if spec.per_step != cls.PER_STEP:
            where, kind = ("step", "forecasting") if spec.per_step else ("sequence", "regression")
            return f"{config.kind} is not for labels of each {where}, which these are; write kind: {kind}"
        return None

    def loss(self, outputs: Tensor, batch: Split, reduction: Reduction = "mean") -> Tensor:
        total = errors(outputs.float(), batch).square().sum()
        return total if reduction == "sum" else total / batch.scored.sum()

    def scores(self, split: Split) -> "RealScores":
        return RealScores(self, split)


class Forecasting(Regression):
    """Squared error over the steps that are scored, the horizon; labels (rows, steps, targets), NaN elsewhere."""

    Config = ForecastingConfig
    PER_STEP = True


def errors(outputs: Tensor, batch: Split) -> Tensor:
    """Outputs minus labels, both (rows, targets) or (rows, steps, targets); zero where nothing is scored."""
    if outputs.shape != batch.labels.shape:
        raise ValueError(f"outputs {tuple(outputs.shape)} for labels {tuple(batch.labels.shape)}")
    return torch.where(batch.scored, outputs - batch.labels, 0.0)


class RealScores(Scores):
    """Loss, mean squared and absolute error over all numbers, and R2, the mean of those of the targets."""

    def __init__(self, objective: Objective, split: Split) -> None:
        device, targets = split.device, split.labels.shape[-1]
        super().__init__(objective, device)
        # Spread is counted around about the middle of the labels, which all processes have: near it nothing cancels.
        flat = split.labels.reshape(-1, targets)
        self._middle = flat.double().nanmean(dim=0).nan_to_num().to(device)
        self._counts, self._squares, self._absolutes, self._around, self._spread = (
            torch.zeros(targets, dtype=torch.float64, device=device) for _ in range(5)
        )

    def update(self, outputs: Tensor, batch: Split) -> None:
        super().update(outputs, batch)
        wrong = errors(outputs.double(), batch).flatten(0, -2)
        around = torch.where(batch.scored, batch.labels.double() - self._middle, 0.0).flatten(0, -2)
        self._counts += batch.scored.flatten(0, -2).sum(dim=0)
        self._squares += wrong.square().sum(dim=0)
        self._absolutes += wrong.abs().sum(dim=0)
        self._around += around.sum(dim=0)
        self._spread += around.square().sum(dim=0)

    def sums(self) -> list[Tensor]:
        return [*super().sums(), self._counts, self._squares, self._absolutes, self._around, self._spread]

    def metrics(self) -> dict[str, float | None]:
        count = float(self._counts.sum())
        return {
            MSE.name: float(self._squares.sum()) / count,
            MAE.name: float(self._absolutes.sum()) / count,
            R2.name: self._r2(),
        }

    def by_target(self) -> list[TargetScores]:
        columns = zip(
            *(sums.tolist() for sums in (self._counts, self._squares, self._absolutes)),
            self._r2s(),
            strict=True,
        )
        return [
            TargetScores(squares / count, absolutes / count, r2) if count else TargetScores(None, None, None)
            for count, squares, absolutes, r2 in columns
        ]

    def _r2(self) -> float | None:
        """None where the labels of a target are all the same: nothing is there to be explained."""
        shares = self._r2s()
        return None if None in shares else float(torch.tensor(shares, dtype=torch.float64).mean())

    def _r2s(self) -> list[float | None]:
        """Of each target."""
        spread = self._spread - self._around.square() / self._counts
        # What is left of equal labels by rounding is not their spread.
        is_known = spread > 1e-12 * self._spread
        shares = 1.0 - self._squares / spread
        return [float(share) if known else None for share, known in zip(shares, is_known, strict=True)]
