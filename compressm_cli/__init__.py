"""compressm: train sequence models that shrink while they learn.

What is named here is the public interface; it is imported when it is first used.
"""

from typing import TYPE_CHECKING

from compressm_cli.core.lazy import exporter

__version__ = "0.1.0"

if TYPE_CHECKING:
    from compressm_cli.compressor import Change, Compressor, compress
    from compressm_cli.core.axes import Axis, Slot
    from compressm_cli.exchange.ready import load
    from compressm_cli.methods.config import MethodConfig
    from compressm_cli.methods.method import CheckContext, Method, StepContext
    from compressm_cli.models.config import ModelConfig
    from compressm_cli.models.interface import Model
    from compressm_cli.pruning import Pruned, Workload, prune
    from compressm_cli.reports.predictor import Predictor
    from compressm_cli.structure.discovery import Discovery, discover
    from compressm_cli.structure.edits import Add, Keep, MaskEntries, Park, Train, Wake
    from compressm_cli.structure.map import StructureMap
    from compressm_cli.structure.modules import Insert, Replace
    from compressm_cli.structure.plan import Plan
    from compressm_cli.structure.projection import Project
    from compressm_cli.structure.surgery import apply_edits, resize

__getattr__ = exporter(
    __name__,
    {
        "compressor": ("Change", "Compressor", "compress"),
        "core.axes": ("Axis", "Slot"),
        "exchange.ready": ("load",),
        "methods.config": ("MethodConfig",),
        "methods.method": ("CheckContext", "Method", "StepContext"),
        "models.config": ("ModelConfig",),
        "models.interface": ("Model",),
        "pruning": ("Pruned", "Workload", "prune"),
        "reports.predictor": ("Predictor",),
        "structure.discovery": ("Discovery", "discover"),
        "structure.edits": ("Add", "Keep", "MaskEntries", "Park", "Train", "Wake"),
        "structure.map": ("StructureMap",),
        "structure.modules": ("Insert", "Replace"),
        "structure.projection": ("Project",),
        "structure.plan": ("Plan",),
        "structure.surgery": ("apply_edits", "resize"),
    },
)

__all__ = [
    "Add",
    "Axis",
    "Change",
    "CheckContext",
    "Compressor",
    "Discovery",
    "Insert",
    "Keep",
    "MaskEntries",
    "Method",
    "MethodConfig",
    "Model",
    "ModelConfig",
    "Park",
    "Plan",
    "Predictor",
    "Project",
    "Pruned",
    "Replace",
    "Slot",
    "StepContext",
    "StructureMap",
    "Train",
    "Wake",
    "Workload",
    "__version__",
    "apply_edits",
    "compress",
    "discover",
    "load",
    "prune",
    "resize",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
