"""compressm: train sequence models that shrink while they learn."""

__version__ = "0.1.0"
