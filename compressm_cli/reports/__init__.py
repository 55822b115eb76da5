"""Reading run folders and checkpoints back: reports as data, and their tables, figures and pages."""

from compressm_cli.reports.comparison import ComparisonReport, compare
from compressm_cli.reports.plots import run_plots
from compressm_cli.reports.spectrum import SpectrumReport, analyze, open_model
from compressm_cli.reports.verdict import Tolerances

__all__ = [
    "ComparisonReport",
    "SpectrumReport",
    "Tolerances",
    "analyze",
    "compare",
    "open_model",
    "run_plots",
]
