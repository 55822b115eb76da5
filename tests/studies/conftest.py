"""Tiny recipes, and runs of them."""

from tiny_runs import rough_flops, tiny, train

__all__ = ["rough_flops", "tiny", "train"]
