"""The models, by the name that a recipe gives them."""

from collections.abc import Mapping
from typing import Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.registry import Registry
from compressm_cli.models.config import ModelConfig
from compressm_cli.models.decoder import Decoder
from compressm_cli.models.encoder import Encoder
from compressm_cli.models.encoder_decoder import EncoderDecoder
from compressm_cli.models.external import External
from compressm_cli.models.interface import Model
from compressm_cli.models.resnet import ResNet
from compressm_cli.models.sequence import SequenceModel
from compressm_cli.models.vit import VisionTransformer

MODELS: Registry[Model] = Registry(
    "model",
    "kind",
    Model,
    ModelConfig,
    {
        "sequence": SequenceModel,
        "decoder": Decoder,
        "encoder": Encoder,
        "encoder_decoder": EncoderDecoder,
        "external": External,
        "resnet": ResNet,
        "vit": VisionTransformer,
    },
)


def build_model(config: Any, data: Any, orders: Mapping[str, int] | None = None) -> Model:
    """The model of a recipe's ``model:`` for a data set's ``DataSpec``, with fresh weights (``Model.build``).

    BadInputError where one reads sequences and the other gives images, or the reverse.
    """
    if config.reads not in (None, data.reads):
        advice = (
            "write data.as_images: true (tasks digits, smnist and scifar, and files with folders of images)"
            if config.reads == "images"
            else f"leave out data.as_images, or write kind: {' or '.join(_readers('images'))}"
        )
        raise BadInputError(
            f"model.kind: {config.kind} reads {config.reads}, and the data are {data.reads}; {advice}"
        )
    return MODELS[config.kind].build(config, data, orders)


def _readers(rows: str) -> list[str]:
    """The models that read such rows."""
    return [name for name, entry in MODELS.entries().items() if getattr(entry.config, "reads", None) == rows]
