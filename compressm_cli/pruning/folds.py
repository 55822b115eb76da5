"""Folds: what units gave that leave goes into the matrix that reads them, as well as it can be told from what stays."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressm_cli.pruning.consumers import Consumer, Moment, consumers_of, moments_of
from compressm_cli.pruning.groups import Group
from compressm_cli.pruning.workload import Workload
from compressm_cli.structure.edits import Add
from compressm_cli.structure.map import tensors_of

RIDGE = 1e-6
"""Added to the diagonal of a Gram matrix, as a share of the mean of that."""


@dataclass(frozen=True)
class Fold:
    """What became of the matrix that reads units which leave."""

    module: str
    inputs: int
    """Of the matrix, before the cut."""
    removed: int
    error_silent: float | None
    """The mean squared error of its output over the calibration batches where they are silent, as a share of the
    output's variance; None where it was not measured."""
    error: float | None
    """The same after the fold."""
    reason: str
    """What was folded, or why nothing was."""


def gram(moment: Moment, centred: bool) -> Tensor:
    """Of inputs (d, d): about their mean where a bias takes that up."""
    return moment.covariance if centred else moment.second


def ridge_of(seen: Tensor) -> float:
    """What is added to the diagonal of a Gram matrix (d, d); above 0."""
    return RIDGE * float(seen.diagonal().mean().clamp(min=1e-30)) if len(seen) else 0.0


def regression(moment: Moment, removed: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    """The ridge regression of removed inputs (r,) on all others: slopes (r, kept) and intercepts (r,).

    Without ``centred`` there are no intercepts: they are zeros.
    """
    kept = others(removed, len(moment.mean))
    seen = gram(moment, centred)
    inner = seen[kept][:, kept]
    ridge = ridge_of(inner) * torch.eye(len(kept), dtype=inner.dtype)
    slopes = torch.linalg.solve(inner + ridge, seen[kept][:, removed]).T
    intercepts = moment.mean[removed] - slopes @ moment.mean[kept]
    return slopes, intercepts if centred else torch.zeros_like(intercepts)


def others(removed: Tensor, count: int) -> Tensor:
    """The numbers below ``count`` that are not removed, ascending."""
    mask = torch.ones(count, dtype=torch.bool)
    mask[removed] = False
    return mask.nonzero().flatten()


def folds(
    model: nn.Module, kept: Sequence[tuple[Group, Tensor]], workload: Workload
) -> tuple[list[Add], list[Fold]]:
    """The edits that fold what leaves with all units but those ``kept`` of each group, and what they come to.

    Inputs of a map are regressed on those that stay as the whole model has them, all maps at once; so they are the best
    for each cut by itself.
    """
    edits, found, readers = list[Add](), list[Fold](), dict[Consumer, list[Tensor]]()
    for group, units in kept:
        gone = others(units, group.size)
        consumers, reasons = consumers_of(model, group)
        for one in consumers:
            readers.setdefault(one, []).append(one.entries(group, gone))
        for reason in reasons:
            found.append(Fold(group.name, group.size, len(gone), None, None, f"nothing folded: {reason}"))
    wanted, shared = dict[Consumer, Tensor](), _shared(model)
    for one, entries in readers.items():
        removed = torch.cat(entries).unique()
        if names := [n for n in (one.weight, one.bias) if n in shared]:
            why = f"nothing folded: {names[0]} is shared with another module"
            found.append(Fold(one.module, one.width, len(removed), None, None, why))
        else:
            wanted[one] = removed
    for one, moment in moments_of(model, wanted, workload):
        made, fold = _folded(model, one, wanted[one], moment)
        edits += made
        found.append(fold)
    return edits, found


def _folded(model: nn.Module, one: Consumer, removed: Tensor, moment: Moment | str) -> tuple[list[Add], Fold]:
    if isinstance(moment, str):
        return [], Fold(one.module, one.width, len(removed), None, None, f"nothing folded: {moment}")
    matrix, kept, centred = one.matrix(model), others(removed, one.width), one.bias is not None
    slopes, intercepts = regression(moment, removed, centred)
    change = torch.zeros_like(matrix)
    change[:, kept] = matrix[:, removed] @ slopes
    edits = [Add(one.weight, one.shaped(change, model.get_parameter(one.weight)))]
    if one.bias is not None:
        edits.append(Add(one.bias, matrix[:, removed] @ intercepts))
    own = gram(moment, centred)
    variance = float((matrix @ own * matrix).sum())
    silent = squared_error(matrix, removed, moment, torch.zeros_like(slopes), torch.zeros_like(intercepts))
    error = squared_error(matrix, removed, moment, slopes, intercepts)
    share = [value / variance if variance > 0 else 0.0 for value in (silent, error)]
    what = "into the matrix and the bias" if centred else "into the matrix; it has no bias"
    return edits, Fold(one.module, one.width, len(removed), share[0], share[1], what)


def squared_error(
    matrix: Tensor, removed: Tensor, moment: Moment, slopes: Tensor, intercepts: Tensor
) -> float:
    """The mean squared error of the output of ``matrix`` (outputs, d) where removed inputs are told from the others."""
    kept = others(removed, matrix.shape[1])
    second, mean = moment.second, moment.mean
    cross = second[removed][:, kept] @ slopes.T + torch.outer(mean[removed], intercepts)
    drift = slopes @ mean[kept]
    told = (
        slopes @ second[kept][:, kept] @ slopes.T
        + torch.outer(drift, intercepts)
        + torch.outer(intercepts, drift)
        + torch.outer(intercepts, intercepts)
    )
    left = second[removed][:, removed] - cross - cross.T + told
    return max(0.0, float((matrix[:, removed] @ left * matrix[:, removed]).sum()))


def _shared(model: nn.Module) -> set[str]:
    """Names of parameters that have several."""
    names: dict[int, list[str]] = {}
    for name, tensor in tensors_of(model).items():
        names.setdefault(id(tensor), []).append(name)
    return {name for own in names.values() if len(own) > 1 for name in own}
