"""Reading run folders and checkpoints back, as data."""

from compressm_cli.reports.comparison import ComparisonReport, compare
from compressm_cli.reports.spectrum import SpectrumReport, analyze, open_model
from compressm_cli.reports.verdict import Tolerances

__all__ = [
    "ComparisonReport",
    "SpectrumReport",
    "Tolerances",
    "analyze",
    "compare",
    "open_model",
]
