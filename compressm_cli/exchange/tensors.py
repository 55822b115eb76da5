"""Named tensors in files: read without executing anything of theirs, written whole."""

import io
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from compressm_cli.checkpoint.archive import ArchiveError, read_archive, shorten_line
from compressm_cli.core.contents import found_instead
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import write_atomically
from compressm_cli.core.json_files import MAX_JSON, read_json
from compressm_cli.core.text import shorten
from compressm_cli.exchange.names import CONFIG, PICKLED, SAFETENSORS, WEIGHTS
from compressm_cli.exchange.places import training_folder

WITHIN = ("state_dict", "model")
"""Where tools that train keep the weights beside other things."""
PART = re.compile(r"-\d{5}-of-\d{5}\.")
"""In names of files of a model in several."""
MAX_NAME = 500
"""Characters of a tensor's name."""


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder; BadInputError where it is none."""
    path = folder / CONFIG
    content = read_json(path)
    if not isinstance(content, dict):
        raise BadInputError(f"{path}: found a {type(content).__name__}, not a mapping")
    return content


def read_weights(folder: Path, file: Path | None = None) -> dict[str, Tensor]:
    """All tensors of a model's folder: one file or shards with an index, safetensors or pickled; or of one ``file``.

    Raises BadInputError where there are none, or a file is damaged or holds anything but tensors.
    """
    if file is not None:
        return read_tensors(file)
    for name in (SAFETENSORS, PICKLED):
        if (folder / name).is_file():
            return read_tensors(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _read_shards(folder / f"{name}.index.json")
    raise BadInputError(
        f"{folder}: no weights; looked for {SAFETENSORS} and {PICKLED}, whole or with an index{_instead(folder)}"
    )


def _instead(folder: Path) -> str:
    """What a folder has instead of weights of the usual names, to be added to a message."""
    others = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHTS)
    if parts := [name for name in others if PART.search(name)]:
        return (
            f"; found {', '.join(parts[:3])}, parts of which the index (*.index.json) is missing: get it too"
        )
    if others:
        return f"; found {', '.join(others[:5])}: to read one of these, give the file itself"
    return "".join(f"; it is {told}" for told in [training_folder(folder)] if told)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, by its suffix safetensors or pickled."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    return _read_pickled(path)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file and its metadata."""
    safetensors = _safetensors()
    if not path.is_file():  # opening a pipe would wait for its writer
        raise BadInputError(f"{path}: not a readable safetensors file: it is not a file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return _named(tensors, path), dict(file.metadata() or {})
    # Types of numbers that this PyTorch has not are a KeyError or AttributeError.
    except (
        OSError,
        safetensors.SafetensorError,
        LookupError,
        AttributeError,
        ValueError,
        RuntimeError,
    ) as error:
        told = found_instead(path) or _shortfall(path) or shorten_line(error)
        raise BadInputError(f"{path}: not a readable safetensors file: {told}") from error


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write the file atomically; no two tensors may share memory."""
    _safetensors()
    from safetensors.torch import save

    write_atomically(path, save({name: t.contiguous() for name, t in tensors.items()}, metadata=metadata))


def write_pickled(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a state dict as torch.save does, atomically."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    write_atomically(path, buffer.getvalue())


def write_config(folder: Path, config: dict[str, Any]) -> Path:
    """Write ``config.json`` atomically."""
    path = folder / CONFIG
    write_atomically(path, (json.dumps(config, indent=2, allow_nan=False) + "\n").encode())
    return path


def _shortfall(path: Path) -> str | None:
    """That the file is shorter than its header says; None where it is not, or has no header."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MAX_JSON:
                return None
            header = json.loads(file.read(length))
        ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
        size, whole = path.stat().st_size, 8 + length + max(ends, default=0)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return f"it is truncated: {size:,} bytes of {whole:,}" if size < whole else None


def _safetensors() -> ModuleType:
    try:
        import safetensors
    except ImportError as error:
        raise BadInputError(
            "safetensors files need the package safetensors; install it with: pip install 'compressm[export]'"
        ) from error
    return safetensors


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        content = read_archive(path)
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: no such file") from error
    except ArchiveError as error:
        raise BadInputError(
            f"{path}: not a readable file of tensors alone (code in it is never run): {error}"
        ) from error
    return _named(_state_dict(content, path), path)


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors of what a file holds, or of what it has as ``state_dict`` or ``model``."""
    if isinstance(content, dict):
        if all(isinstance(value, Tensor) for value in content.values()):
            return {str(name): tensor for name, tensor in content.items()}
        within = [key for key in WITHIN if isinstance(content.get(key), dict)]
        if len(within) == 1:
            return _state_dict(content[within[0]], path)
        found = f"a mapping with {', '.join(shorten(key) for key in list(content)[:5])}"
    else:
        found = f"a {type(content).__name__}"
    raise BadInputError(
        f"{path}: found something else than named tensors in it, alone or as state_dict or model: {found}"
    )


def _named(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    for name in tensors:
        if len(name) > MAX_NAME:
            raise BadInputError(f"{path}: a tensor's name has {len(name)} characters; at most {MAX_NAME}")
    return tensors


def _read_shards(index: Path) -> dict[str, Tensor]:
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(
        isinstance(p, str) and p == Path(p).name for p in places.values()
    ):
        raise BadInputError(f"{index}: no weight_map from tensors to files beside it")
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(places.values())):
        tensors |= read_tensors(index.parent / file)
    missing = sorted(set(places) - set(tensors))
    if missing:
        raise BadInputError(
            f"{index}: the files lack {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
        )
    return tensors
