"""Checkpoints of others read, and ours written for others."""

from typing import TYPE_CHECKING

from compressm_cli.core.lazy import exporter

if TYPE_CHECKING:
    from compressm_cli.exchange.exporting import TARGETS, export
    from compressm_cli.exchange.loading import is_model_folder, load

__getattr__ = exporter(__name__, {"exporting": ("TARGETS", "export"), "loading": ("is_model_folder", "load")})

__all__ = ["TARGETS", "export", "is_model_folder", "load"]
