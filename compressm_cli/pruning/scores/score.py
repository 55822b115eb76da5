"""The interface of scores: what a unit is worth, comparable between all units of a network."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from compressm_cli.pruning.groups import Group
from compressm_cli.pruning.workload import Workload


@dataclass
class Judged:
    """The scores of the units of groups, by name; and why others have none."""

    scores: dict[str, Tensor] = field(default_factory=dict)
    """(units,), float64 on the CPU, at least 0: what is kept longest has the largest score per cost."""
    unknown: dict[str, str] = field(default_factory=dict)


class Score(ABC):
    """One way to judge units. To add one: subclass, and name it in ``SCORES``."""

    HOW: ClassVar[str]
    """By what units are chosen, in a clause."""
    PRICE: ClassVar[str | None] = None
    """Why its sums are no predicted increase of the loss; None where they are one."""

    def __init__(self, workload: Workload, folded: bool, seed: int = 0) -> None:
        """``folded``: whether what units gave is folded into what reads them."""
        self.workload, self.folded = workload, folded
        self.generator = torch.Generator().manual_seed(seed)

    @abstractmethod
    def judge(self, model: nn.Module, groups: Sequence[Group]) -> Judged:
        """Look at the model, which is left as it is, and at the calibration batches, one after the other."""


def shares(values: Tensor) -> Tensor:
    """Of their sum, so that all layers are worth the same together; equal ones where all are zero."""
    total = float(values.sum())
    return values / total if total > 0 else torch.full_like(values, 1 / len(values))
