"""How a model does on each of the real numbers that it says, as a table."""

from collections.abc import Sequence

from compressm_cli.core.text import printable
from compressm_cli.engine.targets import TargetReport
from compressm_cli.objectives.regression import MAE, MSE, R2
from compressm_cli.render.table import Table


def target_table(split: str, targets: Sequence[TargetReport], most: int, elsewhere: str) -> Table:
    """A row a target; of more than ``most`` the first ones and the last, since ``elsewhere`` has all."""
    rows, notes = [_cells(target) for target in targets], []
    if len(rows) > most:
        notes = [f"{len(rows) - most + 1:,} more are in {elsewhere}"]
        rows = [*rows[: most - 2], ["...", "", "", ""], rows[-1]]
    return Table(f"{split}, each number in its own unit", ["", "MSE", "MAE", "R2"], rows, notes)


def _cells(target: TargetReport) -> list[str]:
    pairs = ((MSE, target.mse), (MAE, target.mae), (R2, target.r2))
    return [printable(target.name), *(metric.precisely(value) for metric, value in pairs)]
