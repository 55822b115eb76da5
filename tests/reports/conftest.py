"""Runs written without training."""

from made_runs import make_run

__all__ = ["make_run"]
