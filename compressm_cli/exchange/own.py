"""Safetensors with our own names, and in the metadata how to build the model: it holds every model of ours."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressm_cli import plugins
from compressm_cli.checkpoint import FORMAT as CHECKPOINT_FORMAT
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.checkpoint.archive import ArchiveError, read_archive
from compressm_cli.core.errors import BadInputError
from compressm_cli.exchange.names import ENCODER, HEAD
from compressm_cli.exchange.stock import cast
from compressm_cli.exchange.tensors import read_safetensors
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.recipe import recipe_to_mapping

KEY = "compressm"
"""Of the metadata, JSON: format, recipe, data, sizes, frozen, step, plugins, encoding and fingerprint (of the data)."""
FORMAT = 3
FORMATS = {1: 2, 2: 3, FORMAT: CHECKPOINT_FORMAT}
"""Formats of this file, and of the checkpoints that have the same content."""
MASKS = "masks:"


def metadata_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The metadata of ``model.safetensors``."""
    content = {
        "format": FORMAT,
        "recipe": recipe_to_mapping(checkpoint.recipe),
        "data": asdict(checkpoint.data),
        "sizes": checkpoint.sizes,
        "frozen": checkpoint.frozen,
        "step": checkpoint.step,
        "plugins": [asdict(origin) for origin in plugins.needed(checkpoint.recipe)],
        "fingerprint": None if checkpoint.fingerprint is None else asdict(checkpoint.fingerprint),
        "tied": checkpoint.recipe.model.tied_weights(),
        "encoding": None if checkpoint.encoding is None else checkpoint.encoding.model_dump(mode="json"),
    }
    return {KEY: json.dumps(content, allow_nan=False)}


def weights_of(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors``: weights and masks, without a tied head."""
    weights = cast(checkpoint.weights, dtype)
    for name in checkpoint.recipe.model.tied_weights():
        weights.pop(name)
    return weights | {f"{MASKS}{name}": mask for name, mask in checkpoint.masks.items()}


def is_own(path: Path) -> bool:
    """Whether a file is a checkpoint, or was written by ``--to safetensors``; False where it cannot be read."""
    if path.suffix == ".safetensors":
        try:
            return KEY in read_safetensors(path)[1]
        except BadInputError:
            return False
    try:
        content = read_archive(path)
    except (ArchiveError, FileNotFoundError):
        return False
    return isinstance(content, dict) and "format" in content


def load(path: Path) -> Checkpoint:
    """The checkpoint of a file that ``--to safetensors`` wrote; BadInputError where it is none."""
    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        raise BadInputError(
            f"{path}: not written by compressm, and there is no config.json beside it that tells the model"
        )
    try:
        content = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: damaged metadata: not JSON") from error
    if not isinstance(content, dict) or type(content.get("format")) is not int:
        raise BadInputError(f"{path}: damaged metadata: no format number in it")
    if content["format"] not in FORMATS:
        known = ", ".join(map(str, FORMATS))
        raise BadInputError(f"{path}: format {content['format']}; this version reads {known}")
    weights = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if not name.startswith(MASKS)
    }
    for name, other in _tied(content).items():
        if other in weights:
            weights[name] = weights[other]
    masks = {n.removeprefix(MASKS): t for n, t in tensors.items() if n.startswith(MASKS)}
    format_of_checkpoint = FORMATS[content["format"]]
    whole = {**content, "format": format_of_checkpoint, "weights": weights, "masks": masks, "training": None}
    return Checkpoint.of_content({"parked": None, **whole}, path)


def _tied(content: dict[str, Any]) -> dict[str, str]:
    """Names of weights that the file has under another name alone, with that; all of it is still to be validated."""
    if "tied" in content:
        tied = content.pop("tied")
        names = tied if isinstance(tied, dict) else {}
        return {name: other for name, other in names.items() if isinstance(other, str)}
    recipe = content.get("recipe")  # as earlier versions wrote it
    model = recipe.get("model") if isinstance(recipe, dict) else None
    sequence = SequenceConfig.model_fields["kind"].default
    if not isinstance(model, dict) or model.get("kind", sequence) != sequence:
        return {}
    return {HEAD: ENCODER} if model.get("tie_embeddings") is True else {}
