"""What language models scored on tasks, item by item; as a file, from which models are compared later."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError, command
from compressm_cli.core.files import unwritable, write_atomically


class Item(Config):
    """One question, text or other piece of a task."""

    id: str
    """SHA-256 of all that the model was asked, and of the right answer: equal only where both are."""
    values: dict[str, float | None]
    """By metric; None where a metric says nothing of one item alone."""
    chance: float | None = None
    """How probable a right answer is by guessing; None where answers are not chosen among some."""
    truncated: bool = False
    """Whether the model did not see the beginning of it."""
    details: dict[str, Any] = {}
    """What the model said, and of which part of the task the item is."""


class Score(Config):
    """One metric over all items."""

    metric: str
    value: float | None
    standard_error: float | None = None
    """None where it is not known."""
    chance: float | None = None
    """What guessing scores; None where that is not defined."""
    is_share: bool = False
    """Whether it is the share of the items that are right, each of which is or is not."""


class TaskResult(Config):
    """What a model scored on one task."""

    task: str
    source: str
    """The file or name that was asked for."""
    shots: int | None = None
    """Examples before each question; None where the task does not say it, or has none."""
    count: int
    what: Literal["item", "byte"] = "item"
    """What ``count`` counts."""
    hash: str
    """SHA-256 of the identities of all items, whatever their order."""
    scores: list[Score]
    items: list[Item]
    notes: list[str] = []

    def score(self, metric: str) -> Score:
        return next(score for score in self.scores if score.metric == metric)


class ModelResult(Config):
    """What one model scored."""

    model: str
    chosen: str
    """Which checkpoint it is, in words."""
    context: int
    """Tokens that it was shown at once, at most."""
    tasks: list[TaskResult]


class ResultsFile(Config):
    """The content of what ``--output`` writes."""

    format: Literal[1] = 1
    compressm: str
    harness: str | None
    """The version of lm-evaluation-harness; None where no task needed it."""
    limit: int | None
    seed: int
    models: list[ModelResult]


def hash_of(ids: Sequence[str]) -> str:
    """The SHA-256 of identities of items, whatever their order."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def identity(asked: object) -> str:
    """The SHA-256 of texts and numbers."""
    return hashlib.sha256(json.dumps(asked, ensure_ascii=True, default=str).encode()).hexdigest()


def write_results(path: Path, results: ResultsFile) -> None:
    """Write a file whole; BadInputError where it cannot be written."""
    try:
        write_atomically(path, (results.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise BadInputError(unwritable(f"--output {path}", error, "choose another file")) from error


def read_results(path: Path) -> ResultsFile:
    """Read such a file back; BadInputError where it is none."""
    try:
        return ResultsFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}; correct the path") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole file"
        raise BadInputError(
            f"{path}: not what {command('eval')} writes with --output: {place}: {first['msg']}; give such a file, or a "
            "model with --tasks"
        ) from error
