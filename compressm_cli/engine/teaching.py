"""A teacher that a recipe names: read, held against the data, and put beside the labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Ids, Tokenizer
from compressm_cli.data.interface import Dataset, DataSpec
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.inheriting import finished, pinned, weights_of
from compressm_cli.engine.oneshot import require_same_shape
from compressm_cli.exchange.loading import load
from compressm_cli.objectives import Objective, objective_config, objective_of
from compressm_cli.objectives.distillation import Distillation
from compressm_cli.objectives.teacher import TeacherConfig
from compressm_cli.recipe import Recipe

KEY = "teacher"
"""Of run.json: the checksum of the teacher's weights."""


@dataclass(frozen=True)
class Teacher:
    """A teacher as it was read, once a run."""

    checkpoint: Checkpoint
    checksum: str


def teacher_of(recipe: Recipe) -> TeacherConfig | None:
    """What the recipe's objective says of one."""
    return getattr(objective_config(recipe), "teacher", None)


def placed(recipe: Recipe) -> Recipe:
    """``Recipe.located``, with the file that a run's or a folder's newest finished run has where the teacher is one, or
    the model that it begins with.

    So a newer run in that folder makes it another recipe. A teacher that is not there stays as it is.
    """
    located = pinned(recipe.located())
    if (teacher := teacher_of(located)) is None:
        return located
    try:
        file = finished(Path(teacher.model))
    except BadInputError:
        return located
    return _with_teacher(located, teacher.model_copy(update={"model": str(file)}))


def alone(recipe: Recipe) -> Recipe:
    """The recipe without its teacher, for what is told of the model alone."""
    return recipe if teacher_of(recipe) is None else _with_teacher(recipe, None)


def taught(recipe: Recipe, spec: DataSpec, device: torch.device, read: Teacher | None = None) -> Objective:
    """The recipe's objective as it is trained by, its teacher on this device where it has one.

    ``read`` is the teacher where it was read before. BadInputError where it cannot be, or is no model of such data.
    """
    objective, teacher = objective_of(recipe, spec), teacher_of(recipe)
    if teacher is None:
        return objective
    checkpoint = _read(teacher, spec) if read is None else read.checkpoint
    model = checkpoint.build_model().to(device)
    return Distillation(objective, model, teacher.temperature, teacher.weight)


def checked(recipe: Recipe, dataset: Dataset) -> Teacher | None:
    """The recipe's teacher; None where there is none.

    BadInputError where it cannot be read, or its inputs or classes are not encoded as those of the data.
    """
    teacher = teacher_of(recipe)
    if teacher is None:
        return None
    checkpoint = _read(teacher, dataset.spec)
    if (problem := _otherwise(checkpoint, recipe, dataset)) is not None:
        raise BadInputError(f"{_place(teacher)}: {problem}; name one that was trained on such data")
    return Teacher(checkpoint, weights_of(checkpoint))


def shared(recipe: Recipe, dataset: Dataset, group: Group) -> Teacher | None:
    """``checked`` in every process; BadInputError where not all have the same teacher. Collective."""
    teacher = teacher_of(recipe)
    if teacher is None:
        return None
    own = group.together(lambda: checked(recipe, dataset))
    assert own is not None
    mains = group.broadcast(own.checksum)

    def check() -> None:
        if mains != own.checksum:
            raise BadInputError(
                f"process {group.rank} of {group.size} has another teacher in {teacher.model} than process 0; give all "
                "machines the same files"
            )

    group.together(check)
    return own


def require_same(info: dict[str, Any], now: Teacher | None, recipe: Recipe) -> None:
    """BadInputError where a run would go on with another teacher than the one that its run.json tells."""
    teacher = teacher_of(recipe)
    if teacher is not None and now is not None and info.get(KEY) not in (None, now.checksum):
        raise BadInputError(
            f"{_place(teacher)}: not the weights that this run began with; put them back, or say where they are with "
            "objective.teacher.model=PATH"
        )


def is_other(info: dict[str, Any], recipe: Recipe) -> bool:
    """Whether the recipe's teacher, where it is still there, is another one than run.json tells of."""
    teacher = teacher_of(recipe)
    if teacher is None or info.get(KEY) is None:
        return False
    try:
        return bool(info[KEY] != weights_of(load(finished(Path(teacher.model)))))
    except BadInputError:
        return False


def _with_teacher(recipe: Recipe, teacher: TeacherConfig | None) -> Recipe:
    objective = objective_config(recipe).model_copy(update={"teacher": teacher})
    return recipe.model_copy(update={"objective": objective})


def _read(teacher: TeacherConfig, spec: DataSpec) -> Checkpoint:
    try:
        checkpoint = load(finished(Path(teacher.model)))
        require_same_shape(checkpoint, spec)
    except BadInputError as error:
        raise BadInputError(f"objective.teacher.model: {error}") from error
    return checkpoint


def _otherwise(checkpoint: Checkpoint, recipe: Recipe, dataset: Dataset) -> str | None:
    """What of a teacher's data means something else than ours, or may; None where they mean the same."""
    theirs, ours, encoding = checkpoint.recipe.data.task, recipe.data.task, dataset.encoding
    if checkpoint.encoding is None or encoding is None:
        if theirs != ours:
            return f"was trained on the task {theirs}, and this is {ours}"
        # Numbers of tokens are those of any vocabulary of so many.
        is_of_tokens = encoding is not None and isinstance(encoding.inputs, Ids | Tokenizer)
        if checkpoint.encoding is not encoding and not is_of_tokens:
            return "does not say how its data were encoded"
        return None
    if checkpoint.encoding.outputs != encoding.outputs:
        return "was trained on other names of classes, or in another order"
    if not checkpoint.encoding.suits(encoding):
        return "reads its inputs otherwise: by another tokenizer, size or standardization"
    return None


def _place(teacher: TeacherConfig) -> str:
    return f"objective.teacher.model: {teacher.model}"
