"""Which rows go into which split: fixed by a seed, in proportion to the classes."""

from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Rows = Annotated[int, Field(ge=1, le=10_000_000)]


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A random order of the rows in which every stretch holds the classes in about their proportions.

    labels: (rows,) int64. Returns (rows,) int64, a permutation. Cutting it anywhere gives splits of
    exact size in which a class has, up to one row, its share.
    """
    # RandomState, not Generator: NumPy promises that its stream never changes between versions.
    random = np.random.RandomState(seed)
    classes = labels.numpy()
    quantile = np.full(len(classes), 0.5)  # of the one row of a class
    by_class = np.argsort(classes, kind="stable")
    ends = np.flatnonzero(np.diff(classes[by_class])) + 1
    starts = np.r_[0, ends]
    sizes = np.diff(np.r_[starts, len(classes)])
    several = sizes > 1
    for start, size in zip(starts[several], sizes[several], strict=True):
        members = random.permutation(by_class[start : start + size])
        quantile[members] = (np.arange(len(members)) + 0.5) / len(members)
    return torch.from_numpy(np.lexsort((random.permutation(len(classes)), quantile)))


def hold_out(labels: Tensor, held: list[int], seed: int) -> list[Tensor]:
    """Row numbers of splits of the sizes ``held``, and last of the rows that remain; all disjoint."""
    order = stratified_order(labels, seed)
    return list(order.split([*held, len(order) - sum(held)]))
