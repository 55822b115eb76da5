"""What a run tells whoever watches it."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from compressm_cli.objectives.classification import ACCURACY
from compressm_cli.objectives.objective import Metric
from compressm_cli.structure.plan import UnitRecord

Verdict = Literal["applied", "nothing", "trial", "accepted", "rejected", "undone"]


@dataclass(frozen=True)
class Beginning:
    """What a run begins with, or goes on with."""

    recipe_name: str
    seed: int
    total_steps: int
    """About how many, where a budget decides."""
    orders: dict[str, int]
    """Of the layers, by name."""
    device: str
    primary: Metric = ACCURACY
    """By which models are judged."""


class View(Protocol):
    """What the training loop tells; a view may be told of steps as often as there are any."""

    def start(self, beginning: Beginning) -> None:
        """A run begins, or goes on."""

    def expect(self, total_steps: int) -> None:
        """The run will have about so many steps: what a cut saves of a budget becomes more of them."""

    def step(self, step: int, loss: float, learning_rate: float, step_seconds: float) -> None:
        """A step was trained; counted from 1, and less than before where a cut was undone."""

    def evaluation(self, step: int, loss: float, value: float | None) -> None:
        """The validation split was evaluated; ``value`` is that of the primary metric, None where it is not known."""

    def compression(self, step: int, records: list[UnitRecord], verdict: Verdict) -> None:
        """The method looked at the model; or, with ``accepted`` or ``rejected``, a trial ended."""

    def message(self, text: str) -> None:
        """Anything else worth a line."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is done; shows its summary and closes."""

    def close(self) -> None:
        """Give the terminal back, however the run ended; more than once does no harm."""


class SilentView:
    """Shows nothing."""

    def start(self, beginning: Beginning) -> None: ...

    def expect(self, total_steps: int) -> None: ...

    def step(self, step: int, loss: float, learning_rate: float, step_seconds: float) -> None: ...

    def evaluation(self, step: int, loss: float, value: float | None) -> None: ...

    def compression(self, step: int, records: list[UnitRecord], verdict: Verdict) -> None: ...

    def message(self, text: str) -> None: ...

    def finish(self, summary: dict[str, Any]) -> None: ...

    def close(self) -> None: ...
