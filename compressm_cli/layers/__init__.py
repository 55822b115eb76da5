"""The state space layers, and the modules of other networks whose units can be cut."""

from typing import TYPE_CHECKING

from compressm_cli.core.lazy import exporter

if TYPE_CHECKING:
    from compressm_cli.layers.registry import LAYERS

__getattr__ = exporter(__name__, {"registry": ("LAYERS",)})

__all__ = ["LAYERS"]
