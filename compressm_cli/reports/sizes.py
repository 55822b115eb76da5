"""What models of a recipe cost at several orders: counted as a run counts itself, not estimated."""

from dataclasses import dataclass

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.checkpoint.skeleton import fresh_model
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.precision import resolve_device
from compressm_cli.engine.workload import Workload
from compressm_cli.objectives import objective_of
from compressm_cli.ops.forms import CostModel


@dataclass(frozen=True)
class ModelSize:
    """The whole model at some orders: counted, not estimated."""

    energy_threshold: float | None
    """None for the model as it is."""
    orders: dict[str, int]
    total_order: int
    parameters: int
    inference_flops: int
    """Of one sequence of full length."""
    training_step_flops: int
    """Of one batch of the recipe's size, with the forms of recurrences that training on this machine chooses."""
    step_seconds: float | None = None
    """Of a training step on this machine, measured; None where that was not asked for."""


class Sizes:
    """Counts models of a checkpoint's recipe, as a run on this machine counts them; each order once."""

    def __init__(self, checkpoint: Checkpoint, data: DataSpec) -> None:
        self._recipe, self._data, self._sizes = checkpoint.recipe, data, checkpoint.sizes
        wanted = self._recipe.train.batch_size
        self.batch_size = min(wanted, data.rows[0] or wanted)
        """Sequences of a training step: the recipe's, or all there are."""
        objective = objective_of(self._recipe, data)
        self._work = Workload(self._recipe.train, data, self.batch_size, Group(), objective)
        self._costs: CostModel | None = None
        self._known: list[ModelSize] = []

    def of(self, orders: dict[str, int]) -> ModelSize:
        """The size at these orders."""
        known = next((size for size in self._known if size.orders == orders), None)
        if known is None:
            known = self._counted(orders)
            self._known.append(known)
        return known

    def _counted(self, orders: dict[str, int]) -> ModelSize:
        model = fresh_model(self._recipe.model, self._data, orders, self._sizes)
        if not self._known:
            self._costs = self._work.costs_here(model, resolve_device("auto"))
        counted = self._work.measures(model, model, self._costs)
        return ModelSize(
            energy_threshold=None,
            orders=dict(orders),
            total_order=sum(orders.values()),
            parameters=counted["parameters"],
            inference_flops=counted["inference"],
            training_step_flops=counted["step"],
        )
