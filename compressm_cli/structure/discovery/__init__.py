"""Axes of networks that declare none."""

from compressm_cli.structure.discovery.discovering import Discovery, discover
from compressm_cli.structure.discovery.search import TraceError

__all__ = ["Discovery", "TraceError", "discover"]
