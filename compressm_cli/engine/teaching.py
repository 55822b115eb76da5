"""A teacher that a recipe names: read, held against the data, and put beside the labels."""

from typing import Any

import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.checksum import checksum
from compressm_cli.data.encodings import Encoding
from compressm_cli.data.interface import Dataset, DataSpec
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.oneshot import require_same_shape
from compressm_cli.exchange.loading import load
from compressm_cli.objectives import Objective, objective_config, objective_of
from compressm_cli.objectives.distillation import Distillation
from compressm_cli.objectives.teacher import TeacherConfig
from compressm_cli.recipe import Recipe

KEY = "teacher"
"""Of run.json: the checksum of the teacher's weights."""


def teacher_of(recipe: Recipe) -> TeacherConfig | None:
    """What the recipe's objective says of one."""
    return getattr(objective_config(recipe), "teacher", None)


def taught(recipe: Recipe, spec: DataSpec, device: torch.device) -> Objective:
    """The recipe's objective as it is trained by, its teacher on this device where it has one.

    BadInputError where that cannot be read, or is no model of such data.
    """
    objective, teacher = objective_of(recipe, spec), teacher_of(recipe)
    if teacher is None:
        return objective
    model = _read(teacher, spec).build_model().to(device)
    return Distillation(objective, model, teacher.temperature, teacher.weight)


def checked(recipe: Recipe, dataset: Dataset) -> str | None:
    """The checksum of the teacher's weights; None where there is none.

    BadInputError where it cannot be read, or its inputs or classes are not encoded as those of the data.
    """
    teacher = teacher_of(recipe)
    if teacher is None:
        return None
    checkpoint = _read(teacher, dataset.spec)
    if (problem := _otherwise(checkpoint, recipe, dataset.encoding)) is not None:
        raise BadInputError(f"{_place(teacher)}: {problem}; name one that was trained on such data")
    return checksum(*(torch.atleast_1d(tensor) for _, tensor in sorted(checkpoint.weights.items())))


def require_same(info: dict[str, Any], now: str | None, recipe: Recipe) -> None:
    """BadInputError where a run would go on with another teacher than the one that its run.json tells."""
    teacher = teacher_of(recipe)
    if teacher is not None and (before := info.get(KEY)) is not None and before != now:
        raise BadInputError(
            f"{_place(teacher)}: not the weights that this run began with; put them back, or say where they are with "
            "objective.teacher.model=PATH"
        )


def shared(recipe: Recipe, dataset: Dataset, group: Group) -> str | None:
    """``checked`` in every process; BadInputError where not all have the same teacher. Collective."""
    teacher = teacher_of(recipe)
    if teacher is None:
        return None
    own = group.together(lambda: checked(recipe, dataset))
    mains = group.broadcast(own)

    def check() -> None:
        if mains != own:
            raise BadInputError(
                f"process {group.rank} of {group.size} has another teacher in {teacher.model} than process 0; give all "
                "machines the same files"
            )

    group.together(check)
    return own


def _read(teacher: TeacherConfig, spec: DataSpec) -> Checkpoint:
    try:
        checkpoint = load(teacher.model)
        require_same_shape(checkpoint, spec)
    except BadInputError as error:
        raise BadInputError(f"objective.teacher.model: {error}") from error
    return checkpoint


def _otherwise(checkpoint: Checkpoint, recipe: Recipe, encoding: Encoding | None) -> str | None:
    """What of a teacher's data means something else than ours; None where they mean the same."""
    theirs, ours = checkpoint.recipe.data.task, recipe.data.task
    if checkpoint.encoding is None or encoding is None:
        return None if theirs == ours else f"was trained on the task {theirs}, and this is {ours}"
    if checkpoint.encoding.outputs != encoding.outputs:
        return "was trained on other names of classes, or in another order"
    if not checkpoint.encoding.suits(encoding):
        return "reads its inputs otherwise: by another tokenizer, size or standardization"
    return None


def _place(teacher: TeacherConfig) -> str:
    return f"objective.teacher.model: {teacher.model}"
