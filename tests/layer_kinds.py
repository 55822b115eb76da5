"""The kinds of layers by what they promise, and settings with which a small one of each can be built."""

from typing import Any

from plugin_package import examples

from compressm_cli.layers import LAYERS
from compressm_cli.layers.selective import SelectiveLayer
from compressm_cli.layers.time_invariant import TimeInvariantLayer

TIME_INVARIANT = [kind for kind, layer in LAYERS.items() if issubclass(layer, TimeInvariantLayer)]
SELECTIVE = [kind for kind, layer in LAYERS.items() if issubclass(layer, SelectiveLayer)]

SMALL: dict[str, dict[str, Any]] = {"mamba2": {"head_dim": 4}, "gla": {"heads": 2}, **examples("layer")}
"""Settings beside the order for a model_dim of 6 or 8; a layer that needs none is left out."""
