"""The interface of every objective: what is learned from the labels, and what a model is judged by."""

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.gradients import is_autocast
from compressm_cli.core.quantities import Unit
from compressm_cli.data.interface import DataSpec, Split, TaskConfig

T = TypeVar("T")
Reduction = Literal["mean", "sum"]
Draw = tuple[int, int]
"""The seed of a run and a step of it, by which what is random in a batch is drawn."""


@dataclass(frozen=True)
class Metric:
    """A number that a model is judged by."""

    name: str
    """Its key in files: letters, digits and ``_``."""
    title: str
    higher_is_better: bool = False
    unit: Unit = "number"
    plural: str = ""
    unknown: str = ""
    """Where there is no value."""
    least: float | None = None
    """The smallest value that there can be, and the largest; None where there is no such bound."""
    most: float | None = None

    def is_possible(self, value: float) -> bool:
        """Whether a value is within the bounds, but for rounding."""
        low, high = (
            0.0 if bound is None else 1e-6 * max(1.0, abs(bound)) for bound in (self.least, self.most)
        )
        return (self.least is None or value >= self.least - low) and (
            self.most is None or value <= self.most + high
        )

    @property
    def range(self) -> str:
        """The bounds, as an error tells them: ``from 0 to 1``; empty where there are none."""
        if self.least is not None and self.most is not None:
            return f"from {self.least:g} to {self.most:g}"
        if self.least is not None:
            return f"of at least {self.least:g}"
        return "" if self.most is None else f"of at most {self.most:g}"

    def record(self) -> dict[str, Any]:
        """As files tell it."""
        return {key: getattr(self, key) for key in ("name", "title", "higher_is_better", "unit")}

    @property
    def titles(self) -> str:
        """Several of them."""
        return self.plural or self.title

    def is_better(self, value: float | None, best: float | None) -> bool:
        """Whether a value exceeds the best until now; one that is not known, or no number, never does."""
        if value is None or not math.isfinite(value):
            return False
        return best is None or (value > best if self.higher_is_better else value < best)

    def is_kept(self, before: float | None, after: float | None, tolerance: float, relative: bool) -> bool:
        """Whether it became worse by no more than the tolerance, perhaps a share of what it was before.

        Not where it is not known any more, or no number.
        """
        if after is None or not math.isfinite(after):
            return False
        if before is None or not math.isfinite(before):
            return True
        fall = before - after if self.higher_is_better else after - before
        allowed = tolerance * abs(before) if relative else tolerance
        # A fall of exactly the tolerance is accepted, whatever its last bit.
        return fall <= allowed + 1e-9 * max(abs(before), abs(after))

    def shown(self, value: float | None) -> str:
        """A value as a terminal shows it."""
        if value is None:
            return "not known"
        return f"{value:.1%}" if self.unit == "share" else f"{value:.4g}"

    def precisely(self, value: float | None) -> str:
        """The same with another two digits."""
        if value is None:
            return "not known"
        return f"{100 * value:.2f} %" if self.unit == "share" else f"{value:.6g}"

    def exactly(self, value: float | None) -> str:
        """A value as reasons give it."""
        if value is None:
            return "not known"
        return f"{value:.4f}" if self.unit == "share" else f"{value:.6g}"


class ObjectiveConfig(Config):
    """The part of a recipe that all objectives share (``objective:``)."""

    kind: str
    primary: str

    def located(self, folder: Path) -> Self:
        """The same with relative paths made absolute: they start at ``folder``."""
        return self

    def places(self) -> dict[str, str]:
        """The user's files and folders that are read, by key."""
        return {}


class Processes(Protocol):
    """Who evaluates a split together."""

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by the sum of those of all processes."""

    def gather(self, value: T) -> list[T]:
        """That of each process, in their order."""


@dataclass(frozen=True)
class TargetScores:
    """How a model does on one of several real numbers, in the unit of the labels."""

    mse: float | None
    """None where no label of it is scored, as the mean absolute error."""
    mae: float | None
    r2: float | None
    """None where all its labels are the same."""


class Scores:
    """What the rows of a split come to, in sums and counts, so that means over several processes are exact."""

    def __init__(self, objective: "Objective", device: torch.device) -> None:
        self._objective = objective
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.labels = torch.zeros((), dtype=torch.long, device=device)
        """How many labels were scored."""

    def update(self, outputs: Tensor, batch: Split) -> None:
        """Take in what a model says of some rows."""
        self.loss += self._objective.loss(outputs, batch, "sum")
        self.labels += batch.scored.sum()

    def ask(self, model: Any, batch: Split, numbers: Tensor) -> None:
        """Take in what only the model itself can be asked for, of some rows and their ``numbers`` (rows,) in the split.

        It is called after ``update`` of them, in evaluation mode, without gradients.
        """

    def sums(self) -> list[Tensor]:
        """All that adds up over rows."""
        return [self.loss, self.labels]

    def reduce(self, processes: Processes) -> None:
        """Make these the scores of all rows, where each process has seen its part; collective."""
        processes.sum(*self.sums())

    def mean_loss(self) -> float:
        return float(self.loss) / int(self.labels)

    def metrics(self) -> dict[str, float | None]:
        """The objective's metrics by name; None where one cannot be known."""
        return {}

    def by_target(self) -> list[TargetScores] | None:
        """Of each of the real numbers that a label is; None where labels are classes, or it is not known."""
        return None


class Objective(ABC):
    """What is learned and judged. To add one: subclass, declare ``Config``, name it in ``OBJECTIVES``.

    ``METRICS`` are all that it may be judged by, ``LOSS`` says what its loss is.
    """

    Config: ClassVar[type[ObjectiveConfig]]
    METRICS: ClassVar[tuple[Metric, ...]]
    LOSS: ClassVar[Metric]
    hides_tokens: ClassVar[bool] = False
    """Whether the tokens that are to be told are hidden from the model, which may look at all steps then."""

    def __init__(
        self, config: Any = None, spec: DataSpec | None = None, task: TaskConfig | None = None
    ) -> None:
        """For the labels of a data set; ``task`` for what it knows of them beyond their shape.

        Raises BadInputError where these cannot be learned so.
        """
        if config is None:
            default: Any = self.Config
            config = default()
        self.config: Any = config
        self.spec, self.task = spec, task
        if spec is not None and (problem := self.problem(self.config, spec, task)):
            raise BadInputError(f"objective: {problem}")

    @classmethod
    def problem(cls, config: Any, spec: DataSpec, task: TaskConfig | None) -> str | None:
        """Why these labels cannot be learned so, and what to write; None where they can."""
        return None

    @classmethod
    def primary_of(cls, config: Any) -> Metric:
        """The metric that decides which model is the best, and whether a cut is kept.

        Raises ValueError where the objective has none of that name.
        """
        named = {metric.name: metric for metric in cls.METRICS}
        if config.primary not in named:
            raise ValueError(
                f"{cls.__name__}.METRICS has no {config.primary!r}, which its Config has as primary"
            )
        return named[config.primary]

    @property
    def primary(self) -> Metric:
        return self.primary_of(self.config)

    @classmethod
    def definitions(cls) -> dict[str, str]:
        """By the name of a metric what it is exactly, where other versions of a library could say another value."""
        return {}

    def learned(self, batch: Split, rows: Tensor, draw: Draw | None) -> Split:
        """What a model is shown of a batch, and what it is to say: the batch as it is, unless something is hidden.

        rows (rows,) are their numbers in the split. Whatever is drawn is a function of these and of ``draw``, so that
        processes agree and a resumed run sees the same; None in evaluation, which is always the same.
        """
        return batch

    def forward(self, model: Any, batch: Split) -> Tensor:
        """What a model says: (rows, outputs), or (rows, steps, outputs)."""
        outputs: Tensor = model(batch.inputs, batch.lengths)
        return outputs

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Split, reduction: Reduction = "mean") -> Tensor:
        """Over the scored labels; what training makes small."""

    def training_loss(self, model: Any, batch: Split, reduction: Reduction = "mean") -> Tensor:
        """The loss of what a model says, in the precision that autocast asks for; the loss itself is not lowered."""
        outputs = self.forward(model, batch)
        device = batch.labels.device
        with torch.autocast(device.type, enabled=False) if is_autocast(device) else nullcontext():
            return self.loss(outputs, batch, reduction)

    def judge(self) -> "Objective":
        """By which a model is evaluated; another one where training has more in mind than the labels."""
        return self

    def modules(self) -> list[nn.Module]:
        """Networks that its loss calls, which are not trained."""
        return []

    def on(self, device: torch.device) -> "Objective":
        """The same for models that are on this device; another one where it has tensors of its own."""
        return self

    def scores(self, split: Split) -> Scores:
        """Nothing yet, to be updated with the rows of a split."""
        return Scores(self, split.device)
