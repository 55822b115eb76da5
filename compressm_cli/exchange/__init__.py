"""Checkpoints of others read, and ours written for others."""

from compressm_cli.exchange.exporting import TARGETS, export
from compressm_cli.exchange.loading import is_model_folder, load

__all__ = ["TARGETS", "export", "is_model_folder", "load"]
