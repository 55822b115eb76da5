"""The models that a recipe may ask for, and what they promise."""

from typing import TYPE_CHECKING

from compressm_cli.core.lazy import exporter

if TYPE_CHECKING:
    from compressm_cli.models.config import ModelConfig
    from compressm_cli.models.decoder import Decoder
    from compressm_cli.models.encoder import Encoder
    from compressm_cli.models.encoder_decoder import EncoderDecoder
    from compressm_cli.models.external import NETWORKS, External
    from compressm_cli.models.interface import Model, blocks_of
    from compressm_cli.models.norms import has_batch_statistics, pool_statistics
    from compressm_cli.models.registry import MODELS, build_model
    from compressm_cli.models.resnet import ResNet
    from compressm_cli.models.sequence import SequenceModel
    from compressm_cli.models.stack import Stack
    from compressm_cli.models.vit import VisionTransformer

__getattr__ = exporter(
    __name__,
    {
        "config": ("ModelConfig",),
        "interface": ("Model", "blocks_of"),
        "registry": ("MODELS", "build_model"),
        "decoder": ("Decoder",),
        "external": ("NETWORKS", "External"),
        "encoder": ("Encoder",),
        "encoder_decoder": ("EncoderDecoder",),
        "norms": ("has_batch_statistics", "pool_statistics"),
        "resnet": ("ResNet",),
        "sequence": ("SequenceModel",),
        "stack": ("Stack",),
        "vit": ("VisionTransformer",),
    },
)

__all__ = [
    "MODELS",
    "NETWORKS",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "External",
    "Model",
    "ModelConfig",
    "ResNet",
    "SequenceModel",
    "Stack",
    "VisionTransformer",
    "blocks_of",
    "build_model",
    "has_batch_statistics",
    "pool_statistics",
]
