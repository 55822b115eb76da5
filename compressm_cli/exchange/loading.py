"""``load``: a checkpoint from a file of ours, a run, or a model of transformers or mamba-ssm."""

from pathlib import Path
from typing import TYPE_CHECKING

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import described
from compressm_cli.exchange.names import CONFIG, SAFETENSORS

if TYPE_CHECKING:  # what reads a model is imported when there is one to be read
    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.runs.folder import Run


def load(place: "str | Path | Run") -> "Checkpoint":
    """Read a model: a checkpoint (.pt), what ``export`` wrote, a run, or a model of transformers or mamba-ssm.

    Of a run, or of the newest in a folder of runs, it is the final checkpoint, else the newest one. A foreign model
    is a folder, or one file of weights with ``config.json`` beside it; it becomes a checkpoint with a recipe of its
    own: task ``tokens``, one training step, no compression. Weights are float32, whatever they were. Nothing in the
    files is executed. Raises BadInputError, in one line, for what cannot be read or represented, and TypeError for what
    is no place.
    """
    from compressm_cli.exchange.places import is_model_folder
    from compressm_cli.runs.folder import Run

    if not isinstance(place, str | Path | Run):
        raise TypeError(
            f"load: a model's place is a path, as text or a pathlib.Path, or a Run, not {described(place)}"
        )
    path = place.folder if isinstance(place, Run) else Path(place)
    if is_model_folder(path):
        return _load_folder(path)
    if path.is_dir():
        return _load_run(path)
    return _load_file(path)


def is_network_of_others(path: Path) -> bool:
    """Whether a path is a folder of transformers whose network is none that ``load`` makes a model of ours of."""
    from compressm_cli.exchange.places import is_model_folder

    if not is_model_folder(path) or not (path / CONFIG).is_file():
        return False
    from compressm_cli.exchange.huggingface import MODEL_TYPES
    from compressm_cli.exchange.ragged import MODEL_TYPE
    from compressm_cli.exchange.tensors import read_config

    return read_config(path).get("model_type", MODEL_TYPE) not in (MODEL_TYPE, *MODEL_TYPES)


def _load_file(path: Path) -> "Checkpoint":
    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.exchange import own

    if path.is_file() and (path.parent / CONFIG).is_file() and not own.is_own(path):
        return _load_foreign(path.parent, path)
    return own.load(path) if path.suffix == ".safetensors" else Checkpoint.load(path)


def _load_run(folder: Path) -> "Checkpoint":
    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.exchange.places import find_checkpoint

    try:
        file, _, _ = find_checkpoint(folder)
    except BadInputError as error:
        raise BadInputError(
            f"{error}; and no model in this folder: neither {CONFIG} nor {SAFETENSORS}"
        ) from error
    return Checkpoint.load(file)


def _load_folder(folder: Path) -> "Checkpoint":
    from compressm_cli.exchange import own

    if not (folder / CONFIG).is_file():
        return own.load(folder / SAFETENSORS)
    return _load_foreign(folder)


def _load_foreign(folder: Path, file: Path | None = None) -> "Checkpoint":
    """The model that a folder's configuration tells, with its weights or those of one file."""
    from compressm_cli.exchange import huggingface, mamba_ssm, networks, ragged
    from compressm_cli.exchange.foreign import SUPPORTED
    from compressm_cli.exchange.tensors import read_config

    config = read_config(folder)
    if "model_type" in config:
        if file is None and is_network_of_others(folder):
            return networks.load(folder, config)
        reader = ragged if config["model_type"] == ragged.MODEL_TYPE else huggingface
        return reader.load(folder, config, file)
    if "d_model" in config and "n_layer" in config:
        return mamba_ssm.load(folder, config, file)
    raise BadInputError(
        f"{folder / CONFIG}: neither model_type, as transformers writes, nor d_model and n_layer, as mamba-ssm does; "
        f"{SUPPORTED}"
    )
