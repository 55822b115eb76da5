"""Safetensors with our own names, and in the metadata how to build the model: it holds every model of ours."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.data.interface import DataSpec
from compressm_cli.errors import BadInputError
from compressm_cli.exchange.names import ENCODER, HEAD
from compressm_cli.exchange.stock import cast
from compressm_cli.exchange.tensors import read_safetensors
from compressm_cli.recipe import recipe_from_mapping, recipe_to_mapping

KEY = "compressm"
"""Of the metadata: JSON of format, recipe, data, orders, frozen and step."""
FORMAT = 1
MASKS = "masks:"


def metadata_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The metadata of ``model.safetensors``."""
    content = {
        "format": FORMAT,
        "recipe": recipe_to_mapping(checkpoint.recipe),
        "data": asdict(checkpoint.data),
        "orders": checkpoint.orders,
        "frozen": checkpoint.frozen,
        "step": checkpoint.step,
    }
    return {KEY: json.dumps(content, allow_nan=False)}


def weights_of(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors``: weights and masks, without a tied head."""
    weights = cast(checkpoint.weights, dtype)
    if checkpoint.recipe.model.tie_embeddings:
        weights.pop(HEAD)
    return weights | {f"{MASKS}{name}": mask for name, mask in checkpoint.masks.items()}


def load(path: Path) -> Checkpoint:
    """The checkpoint of a file that ``--to safetensors`` wrote; BadInputError where it is none."""
    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        raise BadInputError(
            f"{path}: not written by compressm, and there is no config.json beside it that tells the model"
        )
    try:
        content = json.loads(metadata[KEY])
        if content["format"] != FORMAT:
            raise BadInputError(f"{path}: format {content['format']}; this version reads {FORMAT}")
        recipe = recipe_from_mapping(content["recipe"], str(path))
        data = DataSpec(**{**content["data"], "rows": tuple(content["data"]["rows"])})
        masks = {n.removeprefix(MASKS): t for n, t in tensors.items() if n.startswith(MASKS)}
        weights = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
            if not name.startswith(MASKS)
        }
        if recipe.model.tie_embeddings:
            weights[HEAD] = weights[ENCODER]
        return Checkpoint(
            recipe=recipe,
            data=data,
            orders=dict(content["orders"]),
            weights=weights,
            masks=masks,
            frozen=list(content["frozen"]),
            step=int(content["step"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{path}: damaged metadata: {error!r}") from error
