"""How much of a run one process does at once, and what a model costs then: forms of recurrences, FLOPs."""

from typing import Any

import torch
from torch import nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.forms import choose_forms, costs_here, forget_forms
from compressm_cli.measure.flops import inference_flops, training_step_flops
from compressm_cli.measure.probe import example_batch
from compressm_cli.objectives.objective import Objective
from compressm_cli.ops.forms import CostModel
from compressm_cli.ops.scan import load_kernels
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.structure import surgery

EVALUATION_BATCH = 4
"""Rows of an evaluation batch, in those that training takes at once: no gradients are kept."""


def evaluation_rows(config: TrainConfig, batch_size: int | None = None, processes: int = 1) -> int:
    """Rows that a process passes through the model at once in evaluations, where batches of training are so large."""
    return EVALUATION_BATCH * config.rows(batch_size, processes)


class Workload:
    """The sizes of a run's batches; BadInputError where a part of one would have no rows."""

    def __init__(
        self,
        config: TrainConfig,
        data: DataSpec,
        batch_size: int,
        group: Group,
        objective: Objective | None = None,
    ) -> None:
        """Without an ``objective`` the loss is cross-entropy."""
        self._config, self._data, self._group, self._batch_size = config, data, group, batch_size
        self._objective = objective
        self.parts = group.size * config.accumulate
        if batch_size < self.parts:
            raise BadInputError(
                f"train.batch_size: {batch_size} rows for {group.size} processes with train.accumulate: "
                f"{config.accumulate}; there must be {self.parts} or more"
            )

    def require_statistics(self, split: Split) -> None:
        """BadInputError where a pass of training could have a single step, of which there is no variance."""
        rows = self._batch_size // self._config.accumulate
        if split.is_of_images:
            if rows < 2:
                raise BadInputError(
                    f"train.batch_size: {self._batch_size} with train.accumulate: {self._config.accumulate} may pass "
                    "a single image at once, whose statistics batch normalization would take; write a larger "
                    "batch_size"
                )
            return
        shortest = split.length if split.lengths is None else int(split.lengths.min())
        if rows < 2 and shortest < 2:
            raise BadInputError(
                f"model.norm: batch needs two steps or more at once; train.batch_size: {self._batch_size} with "
                f"train.accumulate: {self._config.accumulate} and rows of {shortest} may pass fewer; write a larger "
                "batch_size or norm: layer"
            )

    @property
    def rows_of_all(self) -> int:
        """Rows that all processes together pass through the model at once, in training."""
        return -(-self._batch_size // self._config.accumulate)

    @property
    def rows(self) -> int:
        """Rows that one process passes through the model at once, in training."""
        return self._config.rows(self._batch_size, self._group.size)

    @property
    def evaluation_rows(self) -> int:
        """Rows that one process passes through the model at once in evaluations."""
        return evaluation_rows(self._config, self._batch_size, self._group.size)

    def costs(self, model: nn.Module, device: torch.device) -> CostModel | None:
        """The main process's: on every machine the recurrences take the same forms. Collective."""
        costs = self._group.from_main(lambda: self.costs_here(model, device))
        if costs is not None:
            load_kernels(device)
        return costs

    def costs_here(self, model: nn.Module, device: torch.device) -> CostModel | None:
        """This machine's; None where there is nothing to choose."""
        return costs_here(model, self._config.form, device, self._config.precision)

    def measures(self, model: nn.Module, plain: nn.Module, costs: CostModel | None) -> dict[str, Any]:
        """What is counted of a model, in ``plain`` of the same shapes; sets the forms of its recurrences."""
        forget_forms(model)
        forget_forms(plain)
        inference = inference_flops(plain, example_batch(self._data, 1))
        batch = example_batch(self._data, self._batch_size)
        how = (self._config.form, costs, self.rows, self._data.length)
        choose_forms(plain, *how)
        return {
            "orders": surgery.orders(model),
            "parameters": sum(p.numel() for p in model.parameters()),
            "forms": choose_forms(model, *how),
            "step": training_step_flops(plain, batch, self._objective),
            "inference": inference,
        }
