"""The models, by the name that a recipe gives them."""

from collections.abc import Mapping
from typing import Any

from compressm_cli.core.registry import Registry
from compressm_cli.models.config import ModelConfig
from compressm_cli.models.decoder import Decoder
from compressm_cli.models.encoder import Encoder
from compressm_cli.models.external import External
from compressm_cli.models.interface import Model
from compressm_cli.models.sequence import SequenceModel

MODELS: Registry[Model] = Registry(
    "model",
    "kind",
    Model,
    ModelConfig,
    {"sequence": SequenceModel, "decoder": Decoder, "encoder": Encoder, "external": External},
)


def build_model(config: Any, data: Any, orders: Mapping[str, int] | None = None) -> Model:
    """The model of a recipe's ``model:`` for a data set's ``DataSpec``, with fresh weights (``Model.build``)."""
    return MODELS[config.kind].build(config, data, orders)
