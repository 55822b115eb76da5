"""The in-training compression methods, each of which says what is to be cut."""

from typing import TYPE_CHECKING

from compressm_cli.core.lazy import exporter

if TYPE_CHECKING:
    from compressm_cli.methods.registry import METHODS

__getattr__ = exporter(__name__, {"registry": ("METHODS",)})

__all__ = ["METHODS"]
