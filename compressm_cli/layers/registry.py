"""The state space layers, by the name that a recipe gives them."""

from compressm_cli.core.registry import Registry
from compressm_cli.layers.config import LayerConfig
from compressm_cli.layers.gla import GLA
from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.layers.lru import LRU
from compressm_cli.layers.mamba import Mamba
from compressm_cli.layers.mamba2 import Mamba2
from compressm_cli.layers.s4d import S4D
from compressm_cli.layers.s5 import S5

LAYERS: Registry[StateSpaceLayer] = Registry(
    "layer",
    "kind",
    StateSpaceLayer,
    LayerConfig,
    {
        "lru": LRU,
        "s4d": S4D,
        "s5": S5,
        "mamba": Mamba,
        "mamba2": Mamba2,
        "gla": GLA,
    },
)
