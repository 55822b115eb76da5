"""compressm: train sequence models that shrink while they learn.

What is named here is the public interface; it is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from compressm_cli.compressor import Change, Compressor, compress
    from compressm_cli.core.axes import Axis, Slot
    from compressm_cli.exchange import load
    from compressm_cli.methods.method import CheckContext, Method, MethodConfig, StepContext
    from compressm_cli.models.interface import Model, ModelConfig
    from compressm_cli.structure.edits import Keep, MaskEntries, Park, Project, Train, Wake
    from compressm_cli.structure.map import StructureMap
    from compressm_cli.structure.modules import Insert, Replace
    from compressm_cli.structure.plan import Plan
    from compressm_cli.structure.surgery import apply_edits, resize

_PLACES = {
    "compressor": ("Change", "Compressor", "compress"),
    "core.axes": ("Axis", "Slot"),
    "exchange": ("load",),
    "methods.method": ("CheckContext", "Method", "MethodConfig", "StepContext"),
    "models.interface": ("Model", "ModelConfig"),
    "structure.edits": ("Keep", "MaskEntries", "Park", "Project", "Train", "Wake"),
    "structure.map": ("StructureMap",),
    "structure.modules": ("Insert", "Replace"),
    "structure.plan": ("Plan",),
    "structure.surgery": ("apply_edits", "resize"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "Axis",
    "Change",
    "CheckContext",
    "Compressor",
    "Insert",
    "Keep",
    "MaskEntries",
    "Method",
    "MethodConfig",
    "Model",
    "ModelConfig",
    "Park",
    "Plan",
    "Project",
    "Replace",
    "Slot",
    "StepContext",
    "StructureMap",
    "Train",
    "Wake",
    "__version__",
    "apply_edits",
    "compress",
    "load",
    "resize",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
