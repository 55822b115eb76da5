"""Plans: edits, and a record of each look, with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compressm_cli.layers.interface import STATES, state_axis
from compressm_cli.structure.edits import Edit


@dataclass
class UnitRecord:
    """What a method found at one thing that it may change, and why it did what it did.

    A line of ``compression.jsonl``, of any method.
    """

    unit: str
    """What it is about: the name of an axis, or of whatever else the method judges, such as a parameter or a module."""
    kind: str
    """What is counted: the kind of the axis, or another word, such as entries."""
    before: int
    """How many there were."""
    after: int
    """How many are left; as before, where nothing was done."""
    reason: str
    """One readable clause, for a cut as well as for none."""
    scores: list[float] = field(default_factory=list)
    """What the method chose by, a number for each unit as they were; empty where it had none."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the method alone knows to say, as its ``Details`` are declared; keys of the line beside the others."""
    seconds: float = 0.0

    @property
    def title(self) -> str:
        """The name to show: states go by the name of their layer."""
        return self.unit.removesuffix(STATES) if self.kind == "state" else self.unit

    @property
    def is_change(self) -> bool:
        """Whether something was done."""
        return self.after != self.before

    def line(self) -> dict[str, Any]:
        """The record as the log has it; that of states also under the names that earlier versions gave it."""
        earlier = {"layer": self.title, "order_before": self.before, "order_after": self.after}
        return {
            **(earlier if self.kind == "state" else {}),
            **{name: getattr(self, name) for name in ("unit", "kind", "before", "after", "reason")},
            **({"scores": self.scores} if self.scores else {}),
            **self.details,
            "seconds": self.seconds,
        }


LINE = frozenset({
    "step", "unit", "kind", "layer", "order_before", "order_after", "before", "after", "reason", "scores", "seconds",
    "accepted",
})  # fmt: skip
"""Keys of a line in the log that are not those of details."""


def line_of_today(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the log as this version writes it: earlier ones knew layers and their states alone."""
    if "unit" in line:
        return dict(line)
    now = {"unit": state_axis(line["layer"]), "kind": "state"}
    return {**now, "before": line["order_before"], "after": line["order_after"], **line}


@dataclass
class Plan:
    """What a method wants changed at one moment, as data."""

    edits: list[Edit] = field(default_factory=list)
    records: list[UnitRecord] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.edits)
