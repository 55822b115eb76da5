"""Folders of transformers whose networks are not ours: opened as they are, with nothing of them executed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import shorten
from compressm_cli.exchange.names import CONFIG
from compressm_cli.exchange.places import found_in_folder
from compressm_cli.exchange.tensors import read_config
from compressm_cli.models.of_transformers import (
    CUT,
    Task,
    configured,
    library,
    quiet,
    said_by,
    takes,
    task_of,
)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
)
"""What makes tokens of texts; copied as they are where a network is saved."""


@dataclass
class Folder:
    """An opened folder: its network in float32, on the CPU, in evaluation mode, and what lies beside it."""

    path: Path
    model: nn.Module
    """A ``PreTrainedModel``."""
    config: dict[str, Any]
    """What ``config.json`` says."""

    @property
    def task(self) -> Task | None:
        """What its outputs are: scores of the next tokens, or of classes; None for anything else."""
        return task_of(self.config)

    @property
    def tokenizer_files(self) -> list[Path]:
        """What makes tokens of texts for it, of the files that are there."""
        return [self.path / name for name in TOKENIZER_FILES if (self.path / name).is_file()]

    def example(self, rows: int = 2, length: int = 8, seed: int = 0) -> dict[str, Any]:
        """Keyword arguments with which the network can be called: random tokens, or images."""
        return example_of(self.model, rows, length, seed)


def open_folder(path: Path, trust_code: bool = False) -> Folder:
    """Open a folder that ``save_pretrained`` wrote: ``config.json`` beside safetensors, or pickled tensors alone.

    The class is that of ``architectures`` in transformers. Code in the folder is run with ``trust_code`` only. Raises
    BadInputError where there is no such folder, where transformers has no such network, and where the weights are not
    exactly those that it has: none stays random.
    """
    config = config_of(path)
    with quiet():
        model, told = _loaded(path, config, trust_code)
    _require_all(path, model, told)
    if wrong := [name for name, value in model.state_dict().items() if not _is_finite(value)]:
        raise BadInputError(f"{path}: {wrong[0]} has values that are not finite")
    return Folder(path, model.eval(), config)


def config_of(path: Path) -> dict[str, Any]:
    """``config.json`` of a folder of transformers; BadInputError, with what is there instead, where there is none."""
    if not path.is_dir():
        raise BadInputError(f"{path}: no such folder; give one that has a {CONFIG} and weights beside it")
    if not (path / CONFIG).is_file():
        told = found_in_folder(path) or f"no {CONFIG} in this folder, which tells what network it is of"
        raise BadInputError(f"{path}: {told}")
    return read_config(path)


def example_of(model: nn.Module, rows: int = 2, length: int = 8, seed: int = 0) -> dict[str, Any]:
    """Keyword arguments for a network of transformers: random tokens, the last one of several rows masked, or images.

    BadInputError where it takes something else.
    """
    whole: Any = model.config
    config, names = whole.get_text_config(), takes(model)
    generator = torch.Generator().manual_seed(seed)
    main = getattr(model, "main_input_name", "input_ids")
    if getattr(whole, "is_encoder_decoder", False) or main not in ("input_ids", "pixel_values"):
        raise BadInputError(
            f"{type(model).__name__}: takes {main}"
            f"{' and decodes them' if main == 'input_ids' else ''}; only networks of tokens or images alone can be used"
        )
    given: dict[str, Any] = {}
    if main == "pixel_values":
        side = getattr(whole, "image_size", 32)
        high, wide = side if isinstance(side, list | tuple) else (side, side)
        given[main] = torch.randn(rows, getattr(whole, "num_channels", 3), high, wide, generator=generator)
    else:
        positions = getattr(config, "max_position_embeddings", None) or length
        size = (rows, min(length, int(positions)))
        given[main] = _tokens(size, int(config.vocab_size), getattr(config, "pad_token_id", None), generator)
        if "attention_mask" in names:
            given["attention_mask"] = torch.ones(size, dtype=torch.int64)
            if rows > 1:  # code that runs where rows are padded alone is to be gone through, too
                given["attention_mask"][-1, -1] = 0
    if "use_cache" in names:
        given["use_cache"] = False
    return given


def _tokens(
    size: tuple[int, int], vocabulary: int, padding: int | None, generator: torch.Generator
) -> Tensor:
    found = torch.randint(0, vocabulary, size, generator=generator)
    return found if padding is None else torch.where(found == padding, (found + 1) % vocabulary, found)


def _loaded(path: Path, config: dict[str, Any], trust_code: bool) -> tuple[Any, dict[str, Any]]:
    """The network and what was told of its weights."""
    transformers = library()
    settings: dict[str, Any] = {
        "dtype": torch.float32,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are told one by one, and refused
        "local_files_only": True,
        "trust_remote_code": trust_code,
    }
    if code := _code_of(config):
        if not trust_code:
            raise BadInputError(
                f"{path}: {CONFIG} names code in this folder (auto_map: {shorten(code)}), which is never run unasked; "
                "where you have read and trust it, say so (trust_code)"
            )
        return _or_unreadable(path, getattr(transformers, code).from_pretrained, settings)
    network, settings["config"] = configured(config, path / CONFIG)
    del settings["trust_remote_code"]
    return _or_unreadable(path, network.from_pretrained, settings)


def _require_all(path: Path, model: nn.Module, told: dict[str, Any]) -> None:
    """BadInputError where the weights are not exactly those of the network."""
    network = f"the network is a {type(model).__name__}, as {CONFIG} says"
    for key, what in (("missing_keys", "the weights lack"), ("unexpected_keys", "there is no place for")):
        if names := sorted(told.get(key) or ()):
            more = f" and {len(names) - 1} more" if names[1:] else ""
            raise BadInputError(f"{path}: {what} {names[0]}{more}; {network}")
    for name, found, wanted in sorted(told.get("mismatched_keys") or ()):
        raise BadInputError(
            f"{path}: {name} has the shape {tuple(found)}, and must have {tuple(wanted)}; {network}"
        )


def _code_of(config: dict[str, Any]) -> str | None:
    """The first ``Auto`` class of a network whose code a folder brings; None where transformers has the network."""
    code = config.get("auto_map")
    known = config.get("model_type")
    if not isinstance(code, dict) or known == CUT or known in library().CONFIG_MAPPING:
        return None
    return next((str(name) for name in code if str(name).startswith("AutoModel")), "AutoModel")


def _or_unreadable(path: Path, load: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    try:
        return load(str(path), **settings)
    except Exception as error:  # damaged files, other shapes, sizes that no network can have
        raise BadInputError(f"{path}: cannot be read as {CONFIG} says: {said_by(error)}") from error


def _is_finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())
