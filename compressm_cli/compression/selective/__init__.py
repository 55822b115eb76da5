"""Reductions of selective layers: one module a family, one function a variant."""

from typing import cast

from torch import Tensor

from compressm_cli.compression.hankel_config import HankelConfig
from compressm_cli.compression.selective.channel import ChannelReduction
from compressm_cli.compression.selective.group import GroupReduction
from compressm_cli.compression.selective.reduction import SelectiveReduction
from compressm_cli.compression.selective.vector import VectorReduction
from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.layers.selective import ChannelTrace, HeadTrace, SelectiveLayer, VectorTrace

__all__ = ["FAMILIES", "SelectiveReduction", "selective_reduction"]

FAMILIES: dict[type, type[SelectiveReduction]] = {
    ChannelTrace: ChannelReduction,
    HeadTrace: GroupReduction,
    VectorTrace: VectorReduction,
}


MOST_STEPS = 2048
"""Calibration steps that are used: a Gramian pools all channels or heads, so that some thousand steps fix it."""


def selective_reduction(
    layer: StateSpaceLayer, config: HankelConfig, inputs: list[Tensor]
) -> SelectiveReduction:
    """The reduction of a selective layer that saw ``inputs`` (batch, length, H) on calibration batches.

    Raises ValueError where there are none, or values that are not finite, or for a variant that its family lacks.
    """
    if not inputs:
        raise ValueError("there are no calibration batches to measure a selective layer on")
    selective = cast(SelectiveLayer, layer)
    traces = [selective.trace(u) for u in _some_steps(inputs)]
    return FAMILIES[type(traces[0])](selective, config, inputs, traces)


def _some_steps(inputs: list[Tensor]) -> list[Tensor]:
    """The first rows of the batches, at least one, as long as they have no more than ``MOST_STEPS`` steps."""
    left = MOST_STEPS
    kept: list[Tensor] = []
    for u in inputs:
        rows = min(u.shape[0], max(left // u.shape[1], 0 if kept else 1))
        if rows:
            kept.append(u[:rows])
        left -= rows * u.shape[1]
    return kept
