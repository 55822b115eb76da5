"""Stacks of layers with an encoder and a head."""

from compressm_cli.models.sequence import SequenceModel, build_model, pool_statistics

__all__ = ["SequenceModel", "build_model", "pool_statistics"]
