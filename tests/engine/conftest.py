"""Runs small enough to be trained many times over."""

from tiny_runs import rough_flops, same_weights, tiny, train

__all__ = ["rough_flops", "same_weights", "tiny", "train"]
