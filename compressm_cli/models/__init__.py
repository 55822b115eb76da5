"""Stacks of layers with an encoder and a head."""

from compressm_cli.models.classifier import SequenceClassifier, build_model

__all__ = ["SequenceClassifier", "build_model"]
