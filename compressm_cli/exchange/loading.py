"""``load``: a checkpoint from a file of ours or from a folder of transformers or mamba-ssm."""

from pathlib import Path
from typing import TYPE_CHECKING

from compressm_cli.core.errors import BadInputError

if TYPE_CHECKING:  # what reads a model is imported when there is one to be read
    from compressm_cli.checkpoint import Checkpoint


def is_model_folder(path: Path) -> bool:
    """Whether a path is a folder that ``load`` is for: no run of ours, which has no such files."""
    from compressm_cli.exchange.tensors import CONFIG, SAFETENSORS

    return path.is_dir() and any((path / name).is_file() for name in (CONFIG, SAFETENSORS))


def load(path: Path) -> "Checkpoint":
    """Read a model: a checkpoint (.pt), what ``export`` wrote, or a folder of transformers or mamba-ssm.

    A foreign model becomes a checkpoint with a recipe of its own: task ``tokens``, one training step, no compression.
    Weights are float32, whatever they were. Nothing in the files is executed. Raises BadInputError, in one line, for
    what cannot be read or represented.
    """
    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.exchange import own

    if path.is_dir():
        return _load_folder(path)
    return own.load(path) if path.suffix == ".safetensors" else Checkpoint.load(path)


def _load_folder(folder: Path) -> "Checkpoint":
    from compressm_cli.exchange import huggingface, mamba_ssm, own, ragged
    from compressm_cli.exchange.foreign import SUPPORTED
    from compressm_cli.exchange.tensors import CONFIG, SAFETENSORS, read_config

    if not is_model_folder(folder):
        raise BadInputError(
            f"{folder}: no model in this folder: neither {CONFIG} nor {SAFETENSORS}; {SUPPORTED}"
        )
    if not (folder / CONFIG).is_file():
        return own.load(folder / SAFETENSORS)
    config = read_config(folder)
    if "model_type" in config:
        return (ragged if config["model_type"] == ragged.MODEL_TYPE else huggingface).load(folder, config)
    if "d_model" in config and "n_layer" in config:
        return mamba_ssm.load(folder, config)
    raise BadInputError(
        f"{folder / CONFIG}: neither model_type, as transformers writes, nor d_model and n_layer, as mamba-ssm does; "
        f"{SUPPORTED}"
    )
