"""One-shot compression of any network by the price of each unit, with folds."""

from compressm_cli.pruning.costs import Cost, Costs
from compressm_cli.pruning.folds import Fold
from compressm_cli.pruning.groups import Group, Groups
from compressm_cli.pruning.pruning import Pruned, planned, prune
from compressm_cli.pruning.report import AxesReport, AxisReport, axes_report
from compressm_cli.pruning.scores import SCORES, Judged, Score
from compressm_cli.pruning.workload import Workload

__all__ = [
    "SCORES",
    "AxesReport",
    "AxisReport",
    "Cost",
    "Costs",
    "Fold",
    "Group",
    "Groups",
    "Judged",
    "Pruned",
    "Score",
    "Workload",
    "axes_report",
    "planned",
    "prune",
]
