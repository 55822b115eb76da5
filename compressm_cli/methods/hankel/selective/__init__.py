"""Reductions of selective layers: one module a family, one function a variant."""

from typing import cast

from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.layers.selective import ChannelTrace, HeadTrace, SelectiveLayer, VectorTrace
from compressm_cli.methods.hankel.config import HankelConfig
from compressm_cli.methods.hankel.selective.channel import ChannelReduction
from compressm_cli.methods.hankel.selective.group import GroupReduction
from compressm_cli.methods.hankel.selective.reduction import SelectiveReduction
from compressm_cli.methods.hankel.selective.vector import VectorReduction

__all__ = ["FAMILIES", "SelectiveReduction", "selective_reduction"]

FAMILIES: dict[type, type[SelectiveReduction]] = {
    ChannelTrace: ChannelReduction,
    HeadTrace: GroupReduction,
    VectorTrace: VectorReduction,
}


def selective_reduction(layer: StateSpaceLayer, config: HankelConfig) -> SelectiveReduction:
    """The reduction of a selective layer, to be shown what the layer sees on calibration batches.

    Raises ValueError for a variant that its family lacks.
    """
    selective = cast(SelectiveLayer, layer)
    return FAMILIES[selective.trace_kind](selective, config)
