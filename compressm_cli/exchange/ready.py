"""``compressm_cli.load``: a model that can be called."""

from pathlib import Path

from torch import nn

from compressm_cli.exchange import loading
from compressm_cli.runs.folder import Run


def load(place: str | Path | Run) -> nn.Module:
    """The model of a checkpoint, a run, or a folder of another library: on the CPU, in evaluation mode.

    ``place`` is a file (.pt, .safetensors), a run (``outputs/NAME/v0001``, a ``Run``), the newest of a folder of runs
    (``outputs/NAME``), or a model's folder of transformers or mamba-ssm. For the recipe, the data and the sizes beside
    the weights there is ``compressm_cli.exchange.load``. Raises BadInputError, in one line, for what is no model, and
    TypeError for what is no place.
    """
    return loading.load(place).build_model().eval()
