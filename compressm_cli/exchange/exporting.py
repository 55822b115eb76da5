"""``export``: a checkpoint of ours as a folder for others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.axes import declared
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.core.files import unwritable, write_atomically
from compressm_cli.data.byte_tokenizer import PADDING, byte_tokenizer
from compressm_cli.data.encodings import Bytes, Tokenizer
from compressm_cli.data.tokenizer import TOKENIZER
from compressm_cli.exchange import huggingface, mamba_ssm, own, ragged
from compressm_cli.exchange.names import PICKLED, SAFETENSORS
from compressm_cli.exchange.saving_folders import save_folder
from compressm_cli.exchange.stock import stock_model
from compressm_cli.exchange.tensors import write_config, write_pickled, write_safetensors
from compressm_cli.models import External

Target = Literal["hf", "hf-ragged", "mamba-ssm", "safetensors"]
TARGETS: tuple[str, ...] = get_args(Target)

Writer = Callable[[Path], list[Path]]
TOKENIZER_CONFIG = "tokenizer_config.json"
FOR_TRANSFORMERS = {"format": "pt"}
"""Metadata without which transformers refuses a safetensors file."""


def export(
    checkpoint: Checkpoint, target: Target, folder: Path, dtype: torch.dtype = torch.float32
) -> list[Path]:
    """Write the model to a new or empty folder; returns the files.

    ``hf`` and ``mamba-ssm``: stock models, layers of different orders padded to the largest. ``hf-ragged``: for
    transformers with a modeling file beside it, every layer as it is. ``safetensors``: our names, any model of ours.
    ``dtype`` is that of all real weights. Raises BadInputError, before anything is written, for a model that the
    target cannot hold, with what can, and for a folder that is not empty; RunFailedError where it cannot be written.
    """
    writer = _WRITERS[target](checkpoint, dtype)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(f"{folder}: exists and is not an empty folder; choose another --output")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = writer(folder)
        return [*_write_tokenizer(checkpoint, target, folder), *written]
    except OSError as error:
        raise RunFailedError(unwritable(folder, error, "choose another --output")) from error


def _write_tokenizer(checkpoint: Checkpoint, target: Target, folder: Path) -> list[Path]:
    """What makes tokens of texts as the model was trained on them, for others; our own file has it within."""
    inputs = None if checkpoint.encoding is None else checkpoint.encoding.inputs
    if target == "safetensors" or not isinstance(inputs, Bytes | Tokenizer):
        return []
    # Without a class transformers takes that of the first Mamba models, which adds tokens of its own.
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    text = inputs.json_text if isinstance(inputs, Tokenizer) else byte_tokenizer()
    if isinstance(inputs, Bytes):
        settings |= {"pad_token": PADDING, "split_special_tokens": True}
    contents = {TOKENIZER_CONFIG: json.dumps(settings, indent=2), TOKENIZER: text}
    for name, content in contents.items():
        write_atomically(folder / name, content.encode())
    return [folder / name for name in contents]


def _hf(checkpoint: Checkpoint, dtype: torch.dtype) -> Writer:
    if isinstance(checkpoint.recipe.model, External.Config):
        return _external(checkpoint, dtype)
    model = stock_model(checkpoint, "hf", dtype)
    config, weights = huggingface.config_of(model), huggingface.weights_of(model)

    def write(folder: Path) -> list[Path]:
        write_safetensors(folder / SAFETENSORS, weights, FOR_TRANSFORMERS)
        return [folder / SAFETENSORS, write_config(folder, config)]

    return write


def _external(checkpoint: Checkpoint, dtype: torch.dtype) -> Writer:
    """The network of a folder, as a folder again."""
    config: Any = checkpoint.recipe.model
    if config.network_class is not None:
        raise BadInputError(
            f"--to hf cannot hold this model: {config.network_class} is no network of transformers; use "
            "--to safetensors"
        )
    model = checkpoint.build_model()
    assert isinstance(model, External)
    axes = list(declared(model))
    return lambda folder: save_folder(model.network, folder, dtype=dtype, axes=axes)


def _ragged(checkpoint: Checkpoint, dtype: torch.dtype) -> Writer:
    config, weights = ragged.config_of(checkpoint, dtype), ragged.weights_of(checkpoint, dtype)

    def write(folder: Path) -> list[Path]:
        write_safetensors(folder / SAFETENSORS, weights, FOR_TRANSFORMERS)
        write_atomically(folder / ragged.CODE, ragged.code())
        return [folder / SAFETENSORS, folder / ragged.CODE, write_config(folder, config)]

    return write


def _mamba_ssm(checkpoint: Checkpoint, dtype: torch.dtype) -> Writer:
    model = stock_model(checkpoint, "mamba-ssm", dtype)
    config, weights = mamba_ssm.config_of(model), mamba_ssm.weights_of(model)

    def write(folder: Path) -> list[Path]:
        write_pickled(folder / PICKLED, weights)
        return [folder / PICKLED, write_config(folder, config)]

    return write


def _safetensors(checkpoint: Checkpoint, dtype: torch.dtype) -> Writer:
    weights, metadata = own.weights_of(checkpoint, dtype), own.metadata_of(checkpoint)

    def write(folder: Path) -> list[Path]:
        write_safetensors(folder / SAFETENSORS, weights, metadata)
        return [folder / SAFETENSORS]

    return write


_WRITERS: dict[str, Callable[[Checkpoint, torch.dtype], Writer]] = {
    "hf": _hf,
    "hf-ragged": _ragged,
    "mamba-ssm": _mamba_ssm,
    "safetensors": _safetensors,
}
