"""The public interface of ``compressm_cli`` under the name of the command."""

from typing import TYPE_CHECKING, Any

import compressm_cli
from compressm_cli import __all__ as __all__

if TYPE_CHECKING:
    from compressm_cli import *  # noqa: F403

__version__ = compressm_cli.__version__


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(compressm_cli, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
