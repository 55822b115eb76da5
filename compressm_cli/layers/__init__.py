"""The state space layers, and the modules of other networks whose units can be cut."""

from typing import TYPE_CHECKING

from compressm_cli.core.lazy import exporter

if TYPE_CHECKING:
    from compressm_cli.layers.attention import Attention
    from compressm_cli.layers.convolution import Convolution, ResidualBlock, ResidualStage
    from compressm_cli.layers.cross_attention import CrossAttention
    from compressm_cli.layers.feed_forward import FeedForward, SwiGLU
    from compressm_cli.layers.gla import GLA, GLAConfig
    from compressm_cli.layers.lru import LRU, LRUConfig
    from compressm_cli.layers.mamba import Mamba, MambaConfig
    from compressm_cli.layers.mamba2 import Mamba2, Mamba2Config
    from compressm_cli.layers.registry import LAYERS
    from compressm_cli.layers.residual import Residual
    from compressm_cli.layers.s4d import S4D, S4DConfig
    from compressm_cli.layers.s5 import S5, S5Config
    from compressm_cli.layers.state import State

__getattr__ = exporter(
    __name__,
    {
        "attention": ("Attention",),
        "cross_attention": ("CrossAttention",),
        "convolution": ("Convolution", "ResidualBlock", "ResidualStage"),
        "feed_forward": ("FeedForward", "SwiGLU"),
        "gla": ("GLA", "GLAConfig"),
        "lru": ("LRU", "LRUConfig"),
        "mamba": ("Mamba", "MambaConfig"),
        "mamba2": ("Mamba2", "Mamba2Config"),
        "registry": ("LAYERS",),
        "residual": ("Residual",),
        "s4d": ("S4D", "S4DConfig"),
        "s5": ("S5", "S5Config"),
        "state": ("State",),
    },
)

__all__ = [
    "GLA",
    "LAYERS",
    "LRU",
    "S4D",
    "S5",
    "Attention",
    "Convolution",
    "CrossAttention",
    "FeedForward",
    "GLAConfig",
    "LRUConfig",
    "Mamba",
    "Mamba2",
    "Mamba2Config",
    "MambaConfig",
    "Residual",
    "ResidualBlock",
    "ResidualStage",
    "S4DConfig",
    "S5Config",
    "State",
    "SwiGLU",
]
