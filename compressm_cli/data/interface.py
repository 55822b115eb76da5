"""What a task gives to the training loop: tensors, decoded once, and a description of them."""

import errno
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.checksum import checksum, text_checksum
from compressm_cli.data.split import IGNORE, Split

if TYPE_CHECKING:
    from compressm_cli.data.augmentation import Augmentation
    from compressm_cli.data.encodings import Encoding
    from compressm_cli.data.report import Report

SPLITS = ("train", "validation", "test")
CLASSES = "classes"
"""Under which the checksum of the names of the classes is kept, beside those of the splits."""
CHUNK = 2**22
"""Labels that are looked at at once."""
MOST_NAMES = 100
"""Names of classes that a fingerprint tells, and characters of each; of all there is the checksum."""


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of a data set to be built, and a user to judge its size."""

    classes: int
    """0 where labels are real numbers."""
    length: int
    """Longest sequence, in steps."""
    features: int | None = None
    """Real features a step; None where steps are tokens."""
    vocabulary: int | None = None
    """Number of distinct tokens; None where steps are real vectors. Token 0 is the padding."""
    rows: tuple[int, int, int] = (0, 0, 0)
    """Rows of the train, validation and test splits."""
    per_step: bool = False
    """Whether each step has a label of its own, else a sequence has one."""
    targets: int | None = None
    """How many real numbers a label is; None where labels are classes."""
    separator: int | None = None
    """The token between the two texts of a row; None where rows are no pairs of texts."""
    mask: int | None = None
    """A token that stands for none of the data, and may stand in the place of one that is hidden; None where there is
    none."""
    image: tuple[int, int, int] | None = None
    """Channels, height and width, where inputs are images; its pixels are the steps then. None of sequences."""
    source: int | None = None
    """Of pairs of texts: the steps at the beginning of a row that are the source, padded with 0 at their end. The
    target follows: the last token but one of the vocabulary, with which each begins, then its tokens, each of which is
    the label of the step before it; the last token of the vocabulary, with which each ends, is a label alone. Steps of
    the source have no label. None where rows are no pairs."""

    @property
    def outputs(self) -> int:
        """How many numbers a model says of a sequence, or a step: the width of its head."""
        return self.classes if self.targets is None else self.targets

    @property
    def reads(self) -> Literal["sequences", "images"]:
        """What a row is to a model."""
        return "sequences" if self.image is None else "images"


@dataclass(frozen=True)
class Fingerprint:
    """What a data set is known again by."""

    spec: DataSpec
    checksums: dict[str, str]
    """Of each split: of its inputs, labels and lengths; where the classes have names, of these."""
    class_names: list[str] | None = None
    """In order; None where the task gives them none, or too many to be told."""

    def differences(self, now: "Fingerprint") -> list[str]:
        """What is other in the data that there are now, a clause each; empty where they are the same."""
        found = self._other_classes(now)
        # Earlier versions knew no mask, which stands for nothing in the data.
        for name in (one.name for one in fields(DataSpec) if one.name not in ("classes", "rows", "mask")):
            before, after = getattr(self.spec, name), getattr(now.spec, name)
            found += [f"{name} {after} instead of {before}"] if before != after else []
        for name, before, after in zip(SPLITS, self.spec.rows, now.spec.rows, strict=True):
            if before != after:
                found.append(f"{name}: {after:,} rows instead of {before:,}")
            elif self.checksums[name] != now.checksums[name]:
                found.append(f"{name}: other values in the {after:,} rows")
        return found

    def _other_classes(self, now: "Fingerprint") -> list[str]:
        found = []
        before, after = self.spec.classes, now.spec.classes
        if before != after:
            found.append(f"{after:,} classes instead of {before:,}")
        if self.checksums.get(CLASSES) != now.checksums.get(CLASSES):
            known, names = self.class_names or [], now.class_names or []
            if known and names:
                found += _listed("new", [name for name in names if name not in known])
                found += _listed("gone", [name for name in known if name not in names])
            if not found:
                found.append("the classes have other names")
        return found


def _listed(what: str, names: list[str]) -> list[str]:
    """Which classes are new, or gone: at most three by their name."""
    shown = ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        [f"the class{'es' if len(names) > 1 else ''} {shown} {'are' if len(names) > 1 else 'is'} {what}"]
        if names
        else []
    )


@dataclass(frozen=True)
class Dataset:
    """Three splits, fixed by the task's own ``split_seed``, whatever the seed of the run."""

    spec: DataSpec
    train: Split
    validation: Split
    test: Split
    class_names: Sequence[str] | None = field(default=None, kw_only=True)
    """What the labels 0, 1, ... are called, where that depends on the files; the data are known again by it."""
    encoding: "Encoding | None" = field(default=None, kw_only=True)
    """What makes such tensors of other files, and names of what a model says; None where nothing does."""
    report: "Report | None" = field(default=None, kw_only=True)
    """What was read of the user's files, to be looked at; None where there are none, or nothing tells it."""

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Of these tensors, and so the same wherever and whenever they are decoded; made once."""
        splits = (self.train, self.validation, self.test)
        sums = {n: checksum(s.padded, s.labels, s.lengths) for n, s in zip(SPLITS, splits, strict=True)}
        names = self.class_names
        if names is None:
            return Fingerprint(self.spec, sums)
        told = len(names) <= MOST_NAMES and all(len(name) <= MOST_NAMES for name in names)
        sums[CLASSES] = text_checksum(names)
        return Fingerprint(self.spec, sums, list(names) if told else None)


def expanded(value: Any) -> Any:
    """A path, or several: ``~/`` is the user's own folder, also where no shell makes it that."""
    if isinstance(value, list):
        return [expanded(one) for one in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


class TaskConfig(Config):
    """A task of a recipe (``data:``); each task is one subclass in one file, named in ``data.TASKS``."""

    paths: ClassVar[tuple[str, ...]] = ("path",)
    """The keys that are paths, where they are texts at all."""
    own_objective: ClassVar[str] = "classification"
    """The kind of objective for a recipe that names none."""
    bytes_per_token: ClassVar[float | None] = None
    """Of the text that the labels are tokens of; None where it is not known, or there is none."""

    task: str

    @model_validator(mode="before")
    @classmethod
    def _from_the_home_folder(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {key: expanded(value) if key in cls.paths else value for key, value in values.items()}

    @property
    def own_tokens(self) -> bool:
        """Whether the labels are the very tokens of the rows, for objectives that hide them."""
        return False

    def default_objective(self) -> str:
        """The kind of objective for a recipe that names none, where it depends on the settings."""
        return self.own_objective

    def places(self) -> dict[str, str]:
        """The user's files and folders that are read, by key; several of one key with commas between."""
        return {
            key: value if isinstance(value, str) else ", ".join(value)
            for key, value in self._places().items()
        }

    def located(self, folder: Path) -> Self:
        """The same with relative paths made absolute: they start at ``folder``."""
        before = self._places()
        places = {
            key: str(folder / value) if isinstance(value, str) else [str(folder / one) for one in value]
            for key, value in before.items()
        }
        return self.model_copy(update=places) if places != before else self

    def _places(self) -> dict[str, str | list[str]]:
        values = ((key, getattr(self, key, None)) for key in self.paths)
        return {key: value for key, value in values if isinstance(value, str | list)}

    def sources(self) -> dict[str, list[Path]]:
        """The files that are read, in their order, by key, where a key may mean several."""
        return {}

    @abstractmethod
    def load(self) -> Dataset:
        """Decode the data to tensors on the CPU.

        Raises BadInputError, with how to supply the data, where it is not at hand.
        """

    def encoded_split(self, name: str, encoding: "Encoding") -> Split | None:
        """One split alone, encoded as a model's own data were; None where this task's splits are made together."""
        return None

    def augmentation(self) -> "Augmentation | None":
        """What is changed of training rows at random, in each step; None where nothing is."""
        return None

    def target_text(self, tokens: Sequence[int]) -> str:
        """The text of the tokens of a target, without its beginning and its end; of rows that are pairs of texts."""
        return " ".join(map(str, tokens))

    def unjudged(self) -> str | None:
        """Why a loss or an accuracy on these data says nothing of a model, and what would; None where they do."""
        return None

    def dataset(self) -> Dataset:
        """What ``load`` gives, where it can be trained and evaluated on.

        Raises BadInputError for a split without rows, one of whose labels none is scored or one is no class, and, in
        training, for a row without a scored label: a batch of such rows has no loss.
        """
        try:
            loaded = self.load()
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise
            place = error.filename or f"data: task '{self.task}'"
            raise BadInputError(
                f"{place}: cannot be read: {error.strerror or error}; mend that, or give other data"
            ) from error
        for name in ("train", "validation", "test"):
            split: Split = getattr(loaded, name)
            if len(split) == 0:
                raise BadInputError(f"data: the {name} split of task '{self.task}' has no rows")
            if problem := _misfit(split, loaded.spec):
                raise BadInputError(f"data: the {name} split of task '{self.task}' has {problem}")
            unscored = IGNORE if loaded.spec.targets is None else "NaN"
            scored = _scored_rows(split)
            if not bool(scored.any()):
                raise BadInputError(
                    f"data: of the {name} split of task '{self.task}' no label is scored: all are {unscored}, "
                    "which is left out; label a step of each row"
                )
            if name == "train" and not bool(scored.all()):
                row = int(scored.int().argmin()) + 1
                raise BadInputError(
                    f"data: of row {row} of the train split of task '{self.task}' no label is scored: all are "
                    f"{unscored}, which is left out; label a step of it, or leave out the row"
                )
        return loaded

    def spec(self) -> DataSpec:
        """The description of the data set; loads it unless the task knows better."""
        return self.dataset().spec

    def described(self) -> "tuple[DataSpec, Report | None]":
        """``spec``, and what was read where the user's files are."""
        return self.spec(), None


def _misfit(split: Split, spec: DataSpec) -> str | None:
    """What of the rows is other than the description says; None where they fit."""
    if (spec.image is not None or split.is_of_images) and split.inputs.shape[1:] != spec.image:
        shape = "no images" if spec.image is None else f"images of {spec.image}"
        return f"inputs of the shape {tuple(split.inputs.shape)}, and its spec has {shape}"
    labels = split.labels
    if labels.is_floating_point() != (spec.targets is not None):
        return f"labels of {labels.dtype}, and its spec {spec.classes} classes and targets={spec.targets}"
    steps = (split.length,) if spec.per_step else ()
    wanted = (len(split), *steps, *(() if spec.targets is None else (spec.targets,)))
    if labels.shape != wanted:
        return f"labels of the shape {tuple(labels.shape)} instead of {wanted}"
    if spec.targets is not None and bool(labels.isinf().any()):
        return "labels that are infinite"
    if spec.targets is None and (problem := _strange_class(split, spec.classes)):
        return problem
    if spec.per_step and split.lengths is not None:
        # Batches are cut after their longest row, so such a label would count in one batch and not in another.
        beyond = torch.arange(split.length, device=labels.device) >= split.lengths[:, None]
        if bool(split.scored[beyond].any()):
            unscored = IGNORE if spec.targets is None else "NaN"
            return f"labels of steps beyond the length of their row; they must be {unscored}"
    return None


def _scored_rows(split: Split) -> Tensor:
    """(rows,) of which a label is scored."""
    parts = [Split(part, part).scored.reshape(len(part), -1).any(1) for part in _label_parts(split)]
    return torch.cat(parts)


def _label_parts(split: Split) -> tuple[Tensor, ...]:
    """The labels in parts: they may be in a file that is larger than memory."""
    return split.labels.split(max(1, CHUNK // max(1, split.labels[:1].numel())))


def _strange_class(split: Split, classes: int) -> str | None:
    """Which label is none of the classes; None where all that are scored are."""
    start = 0
    for part in _label_parts(split):
        labels = part.to(torch.int64)
        strange = Split(part, part).scored & ((labels < 0) | (labels >= classes))
        if bool(strange.any()):
            place = torch.nonzero(strange)[0]
            return (
                f"the label {int(labels[tuple(place)])} in row {start + int(place[0]) + 1}; labels are from 0 to "
                f"{classes - 1} (its spec has {classes} classes), or {IGNORE} where one is not scored"
            )
        start += len(part)
    return None
