"""Whether data that are loaded again are those that a run or a model was trained on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.checkpoint.validation import DamagedError, read_fingerprint
from compressm_cli.core.errors import BadInputError, command
from compressm_cli.data.checksum import text_checksum
from compressm_cli.data.encodings import Classes
from compressm_cli.data.interface import CLASSES, SPLITS, Dataset, Fingerprint, TaskConfig
from compressm_cli.data.labels import first_order
from compressm_cli.engine.distributed.group import Group
from compressm_cli.runs.folder import Run


class OtherDataError(BadInputError):
    """The data are not those that a run or a model was trained on."""


def recorded(run: Run, info: dict[str, Any]) -> Fingerprint | None:
    """What ``run.json`` says of the data; None where an older version wrote it. BadInputError where it is damaged."""
    try:
        return read_fingerprint(info)
    except DamagedError as error:
        raise BadInputError(f"{run.folder / 'run.json'}: {error}; take that entry out") from error


def require_shared(dataset: Dataset, group: Group) -> None:
    """BadInputError where not all processes of a run have the same data; collective."""
    mains = group.broadcast(dataset.fingerprint)

    def check() -> None:
        if found := mains.differences(dataset.fingerprint):
            raise BadInputError(
                f"process {group.rank} of {group.size} has other data than process 0: {'; '.join(found)}; "
                "give all machines the same files"
            )

    group.together(check)


def as_before(before: Fingerprint | None, dataset: Dataset) -> Dataset:
    """The data, their classes in the order of a model or run whose data are known by ``before``.

    That is another one where an earlier version trained it, which ordered decimals as texts.
    """
    names = list(dataset.class_names or [])
    known = None if before is None else before.checksums.get(CLASSES)
    earlier = first_order(names)
    if names == earlier or known != text_checksum(earlier):
        return dataset
    assert dataset.encoding is not None, "what has names of classes has an encoding"
    places = {name: place for place, name in enumerate(earlier)}
    numbers = torch.tensor([places[name] for name in names])
    splits = {
        key: replace(split, labels=numbers[split.labels])
        for key in SPLITS
        for split in [getattr(dataset, key)]
    }
    encoding = dataset.encoding.model_copy(update={"outputs": Classes(names=earlier)})
    return replace(dataset, **splits, class_names=earlier, encoding=encoding)


def require_same(run: Run, before: Fingerprint, dataset: Dataset, task: TaskConfig) -> None:
    """OtherDataError where a run would go on with other data than those that it was trained on."""
    if found := before.differences(dataset.fingerprint):
        places = task.places()
        name = next((f"data.{key}=PATH" for key in places), None)
        advice = (
            "go on where the versions are those of its run.json"
            if name is None
            else f"put them back as they were, or name where they are with {name}"
        )
        raise OtherDataError(
            f"{run.folder}: {_named(task)} the data that this run was trained on: {'; '.join(found)}; {advice}; "
            f"for these data begin a new run: {command('train', run.recipe_path)}"
        )


def names_data(overrides: Sequence[str]) -> bool:
    """Whether changes of a recipe say which data to take."""
    return any(text.startswith(("data.", "data=")) for text in overrides)


def relation(checkpoint: Checkpoint, dataset: Dataset, task: TaskConfig, wanted: bool) -> str:
    """What data of a task, loaded for a model, are to it, in words: those that it was trained on, or which others.

    Others must be ``wanted``, by whoever names them: else OtherDataError.
    """
    places = ", ".join(task.places().values()) or f"the task {task.task}"
    if checkpoint.fingerprint is None:
        return f"{places} (not known whether the model was trained on the same: it does not say)"
    found = checkpoint.fingerprint.differences(dataset.fingerprint)
    if not found:
        return f"{places} (the same as the model was trained on)"
    if not wanted:
        raise OtherDataError(
            f"{_named(task)} the data that the model was trained on: {'; '.join(found)}; put them back as they "
            "were, or say which data to take with data.KEY=VALUE"
        )
    return f"{places} (other than the model was trained on: {'; '.join(found)})"


def _named(task: TaskConfig) -> str:
    places = " and ".join(task.places().values())
    return f"{places}: these are not" if places else f"the task {task.task} does not give"
