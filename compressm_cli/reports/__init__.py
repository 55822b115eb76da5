"""Reading run folders and checkpoints back, as data."""

from typing import TYPE_CHECKING

from compressm_cli.core.lazy import exporter

if TYPE_CHECKING:
    from compressm_cli.reports.comparison import ComparisonReport, compare
    from compressm_cli.reports.spectrum import SpectrumReport, analyze, open_model
    from compressm_cli.reports.verdict import Tolerances

__getattr__ = exporter(
    __name__,
    {
        "comparison": ("ComparisonReport", "compare"),
        "spectrum": ("SpectrumReport", "analyze", "open_model"),
        "verdict": ("Tolerances",),
    },
)

__all__ = [
    "ComparisonReport",
    "SpectrumReport",
    "Tolerances",
    "analyze",
    "compare",
    "open_model",
]
