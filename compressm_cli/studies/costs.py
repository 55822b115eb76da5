"""Sizes whose training steps cost what is wanted, found by counting."""

from collections.abc import Callable, Sequence

import torch

from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.precision import resolve_device
from compressm_cli.engine.teaching import taught
from compressm_cli.engine.workload import Workload
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe

Count = Callable[[Recipe], int]
"""FLOPs of a training step of a recipe's model, before any cut."""


def counter(recipe: Recipe) -> Count:
    """Counts the steps of this recipe with other models, as its runs on this machine do; each model once."""
    spec, _ = recipe.data.described()
    batch_size = min(recipe.train.batch_size, spec.rows[0] or recipe.train.batch_size)
    work = Workload(recipe.train, spec, batch_size, Group(), taught(recipe, spec, torch.device("meta")))
    known: dict[str, int] = {}

    def count(other: Recipe) -> int:
        key = other.model.model_dump_json()
        if key not in known:
            with torch.device("meta"):
                model = build_model(other.model, spec)
            costs = work.costs_here(model, resolve_device(recipe.device))
            known[key] = int(work.measures(model, model, costs)["step"])
        return known[key]

    return count


def nearest(candidates: Sequence[Recipe], wanted: float, count: Count) -> Recipe:
    """Of recipes that cost ever more, that with the cost of a step nearest to what is wanted."""
    low, high = 0, len(candidates) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(candidates[middle]) <= wanted else (low, middle)
    return min(candidates[low : high + 1], key=lambda one: abs(count(one) - wanted))
