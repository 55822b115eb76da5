"""Checkpoints of others read, and ours written for others."""

from typing import TYPE_CHECKING

from compressm_cli.core.lazy import exporter

if TYPE_CHECKING:
    from compressm_cli.exchange.exporting import TARGETS, export
    from compressm_cli.exchange.loading import is_network_of_others, load
    from compressm_cli.exchange.places import is_model_folder

__getattr__ = exporter(
    __name__,
    {
        "exporting": ("TARGETS", "export"),
        "loading": ("is_network_of_others", "load"),
        "places": ("is_model_folder",),
    },
)

__all__ = ["TARGETS", "export", "is_model_folder", "is_network_of_others", "load"]
