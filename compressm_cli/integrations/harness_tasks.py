"""From what is asked for to tasks of lm-evaluation-harness. It takes seconds to import."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading
from compressm_cli.integrations.asked import DEV, HELLASWAG, MMLU, Asked
from compressm_cli.integrations.task_files import CONTENT, Question, read_hellaswag, read_mmlu

ACCURACY = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
METRICS = {HELLASWAG: [ACCURACY, {**ACCURACY, "metric": "acc_norm"}], MMLU: [ACCURACY]}


@dataclass(frozen=True)
class Tasks:
    """Tasks of the harness by name, its groups of them, and where each is from."""

    tasks: dict[str, Any]
    groups: dict[str, Any]
    sources: dict[str, str]
    shots: dict[str, int]
    """Examples before each question, of tasks that have them in their questions."""


def build(asked: Asked, shots: int | None, seed: int) -> Tasks:
    """All tasks that are asked for, in that order; BadInputError for what the harness makes no task of."""
    found = Tasks({}, {}, {}, {})
    for name, path in asked.files.items():
        if name in METRICS:
            questions = _read(name, path, asked, shots)
            _add(found, {name: _of_questions(name, questions)}, {}, str(path))
            found.shots[name] = shots or 0
    for place in asked.places:
        with reading(place, "lm-evaluation-harness makes no task of it", "correct it"):
            manager = TaskManager(include_path=str(_folder(place)), include_defaults=False)
            loaded = manager.load(_names(place, manager))
        _add(found, loaded["tasks"], loaded.get("groups", {}), str(place))
    if asked.names:
        manager = TaskManager()
        unknown = [name for name in asked.names if name not in manager.all_tasks]
        if unknown:
            raise BadInputError(f"--tasks {unknown[0]}: lm-evaluation-harness has no task of this name")
        for name in asked.names:
            with reading(f"--tasks {name}", "its data cannot be loaded", "give it as a file (docs/eval.md)"):
                loaded = manager.load([name])
            _add(found, loaded["tasks"], loaded.get("groups", {}), name)
    for name, task in found.tasks.items():
        if shots is not None and name not in asked.files:
            task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(seed)
    return found


def _add(found: Tasks, tasks: dict[str, Any], groups: dict[str, Any], source: str) -> None:
    for name, task in {**tasks, **groups}.items():
        if name in found.sources:
            raise BadInputError(
                f"--tasks: {name} is both in {found.sources[name]} and {source}; ask for one of them"
            )
        if task.__class__.__name__ != "Group" and getattr(task, "UNSAFE_CODE", False):
            raise BadInputError(
                f"{source}: {name} runs what a model writes (unsafe_code), which is not done here"
            )
        found.sources[name] = source
    found.tasks.update(tasks)
    found.groups.update(groups)


def _folder(place: Path) -> Path:
    return place if place.is_dir() else place.parent


def _names(place: Path, manager: Any) -> list[str]:
    """What to load: a file, or all groups of a folder, and what is in none."""
    if not place.is_dir():
        return [str(place)]
    groups = list(manager.all_groups)
    inside = {name for group in groups for name in manager.load([group])["tasks"]}
    names = [*groups, *(name for name in manager.all_subtasks if name not in inside)]
    if not names:
        raise BadInputError(f"{place}: no YAML file of a task in this folder")
    return names


def _read(name: str, path: Path, asked: Asked, shots: int | None) -> list[Question]:
    if name == HELLASWAG:
        if shots:
            raise BadInputError(
                "--shots: of a file, hellaswag is asked without examples; ask for it alone, or write a task with a "
                "fewshot_split (docs/eval.md)"
            )
        return read_hellaswag(path)
    dev = asked.files.get(DEV)
    if shots and dev is None:
        raise BadInputError(f"--shots {shots}: examples of mmlu are those of a file; give {DEV}=FILE as well")
    return read_mmlu(path, dev, shots or 0)


def _of_questions(name: str, questions: list[Question]) -> Any:
    rows: dict[str, list[Any]] = {
        "query": [one.query for one in questions],
        "choices": [one.choices for one in questions],
        "gold": [one.gold for one in questions],
        "subject": [one.subject or "" for one in questions],
        CONTENT: [one.content for one in questions],
    }
    load: Callable[..., Any] = partial(_dataset, rows)
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": load,
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "query",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": METRICS[name],
            "num_fewshot": 0,
        }
    )


def _dataset(rows: dict[str, list[Any]], **_: Any) -> Any:
    return datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows)})
