"""What a run of the method was: its cost, its orders and when it cut, which the other arms are made to match."""

from dataclasses import dataclass

from compressm_cli.core.errors import BadInputError
from compressm_cli.runs.folder import Run


@dataclass(frozen=True)
class Cut:
    """A cut that was kept."""

    share: float
    """Where in the run it was made, between 0 and 1."""
    step: int
    orders: list[int]
    """Of each layer after it."""


@dataclass(frozen=True)
class Reference:
    """A finished run of the method with one seed."""

    steps: int
    flops: int
    """Of all its training steps."""
    final_step_flops: int
    """Of one, at the end."""
    seconds: float
    """Of all that it did."""
    start: list[int]
    """The order of each layer at the start, and at the end."""
    final: list[int]
    cuts: list[Cut]
    others: list[str]
    """What else it has fewer or more of at the end, such as neurons."""

    @classmethod
    def of(cls, run: Run) -> "Reference":
        """BadInputError where the run's record is not what it must be."""
        summary = run.read_summary()
        try:
            start, final = summary["orders"]["start"], summary["orders"]["final"]
            axes = summary.get("axes") or {"start": {}, "final": {}}
            kinds = sorted({*axes["start"], *axes["final"]} - {"states"})
            return cls(
                steps=summary["steps"],
                flops=summary["flops"]["training"],
                final_step_flops=summary["flops"]["training_final_per_step"],
                seconds=summary["seconds"]["total"],
                start=list(start.values()),
                final=list(final.values()),
                cuts=_cuts(run, summary["steps"], start),
                others=[k for k in kinds if axes["start"].get(k) != axes["final"].get(k)],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInputError(
                f"{run.folder / 'summary.json'}: the run's record is damaged: {error!r}"
            ) from error

    @property
    def last_cut(self) -> int:
        """The step of it; the last step where nothing was cut."""
        return self.cuts[-1].step if self.cuts else self.steps


def _cuts(run: Run, steps: int, start: dict[str, int]) -> list[Cut]:
    """The cuts of states that were kept, in their order."""
    progress = {line["step"]: line["progress"] for line in run.read_metrics() if "progress" in line}
    now, found = dict(start), []
    by_step: dict[int, dict[str, int]] = {}
    for line in run.read_compression():
        if line.get("accepted") and line.get("kind", "state") == "state" and line.get("layer") in now:
            by_step.setdefault(line["step"], {})[line["layer"]] = line["order_after"]
    for step, orders in sorted(by_step.items()):
        if any(now[layer] != order for layer, order in orders.items()):
            now |= orders
            found.append(Cut(progress.get(step, step / steps), step, list(now.values())))
    return found
