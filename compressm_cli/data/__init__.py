"""The tasks: where sequences and their labels come from, by the name that a recipe gives them."""

from compressm_cli.data.digits import Digits
from compressm_cli.data.files import Files
from compressm_cli.data.imdb import Imdb
from compressm_cli.data.interface import Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.listops import ListOps
from compressm_cli.data.mnist1d import Mnist1D
from compressm_cli.data.scifar import SequentialCifar
from compressm_cli.data.smnist import SequentialMnist

TASKS: dict[str, type[TaskConfig]] = {
    "digits": Digits,
    "mnist1d": Mnist1D,
    "smnist": SequentialMnist,
    "scifar": SequentialCifar,
    "listops": ListOps,
    "imdb": Imdb,
    "files": Files,
}

__all__ = ["TASKS", "DataSpec", "Dataset", "Split", "TaskConfig"]
