"""The tasks: where sequences and their labels come from, by the name that a recipe gives them."""

from compressm_cli.core.registry import Registry
from compressm_cli.data.delay import Delay
from compressm_cli.data.digits import Digits
from compressm_cli.data.files import Files
from compressm_cli.data.imdb import Imdb
from compressm_cli.data.induction_heads import InductionHeads
from compressm_cli.data.interface import IGNORE, Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.listops import ListOps
from compressm_cli.data.mnist1d import Mnist1D
from compressm_cli.data.mqar import Mqar
from compressm_cli.data.scifar import SequentialCifar
from compressm_cli.data.selective_copying import SelectiveCopying
from compressm_cli.data.smnist import SequentialMnist
from compressm_cli.data.text_lm import TextLm
from compressm_cli.data.token_files import TokenFiles
from compressm_cli.data.translation import Translation

TASKS: Registry[TaskConfig] = Registry(
    "task",
    "task",
    TaskConfig,
    TaskConfig,
    {
        "digits": Digits,
        "mnist1d": Mnist1D,
        "smnist": SequentialMnist,
        "scifar": SequentialCifar,
        "listops": ListOps,
        "imdb": Imdb,
        "selective_copying": SelectiveCopying,
        "induction_heads": InductionHeads,
        "mqar": Mqar,
        "translation": Translation,
        "delay": Delay,
        "text_lm": TextLm,
        "tokens": TokenFiles,
        "files": Files,
    },
)

__all__ = ["IGNORE", "TASKS", "DataSpec", "Dataset", "Split", "TaskConfig"]
