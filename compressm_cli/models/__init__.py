"""The models, by the name that a recipe gives them."""

from collections.abc import Mapping
from typing import Any

from compressm_cli.core.registry import Registry
from compressm_cli.models.interface import Model, ModelConfig, blocks_of
from compressm_cli.models.sequence import SequenceModel, has_batch_statistics, pool_statistics

MODELS: Registry[Model] = Registry("model", "kind", Model, ModelConfig, {"sequence": SequenceModel})


def build_model(config: Any, data: Any, orders: Mapping[str, int] | None = None) -> Model:
    """The model of a recipe's ``model:`` for a data set's ``DataSpec``, with fresh weights (``Model.build``)."""
    return MODELS[config.kind].build(config, data, orders)


__all__ = [
    "MODELS",
    "Model",
    "ModelConfig",
    "SequenceModel",
    "blocks_of",
    "build_model",
    "has_batch_statistics",
    "pool_statistics",
]
