"""Language models asked tasks: what each of them scored, item by item."""

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import counted
from compressm_cli.data.hub import unreachable
from compressm_cli.integrations.asked import NAMED, PERPLEXITY, Asked
from compressm_cli.integrations.language_model import LanguageModel
from compressm_cli.integrations.likelihoods import Progress
from compressm_cli.integrations.perplexity import perplexity
from compressm_cli.integrations.task_files import CONTENT
from compressm_cli.reports.task_results import Item, ModelResult, Score, TaskResult, hash_of, identity

if TYPE_CHECKING:
    from compressm_cli.integrations.harness_tasks import Tasks

BOOTSTRAP = 1000
"""Draws for the standard error of a metric that is no mean over the items."""
GUESSED = ("acc", "acc_norm", "acc_bytes")
"""Metrics of which a guess is right as often as there are right answers among those to choose from."""

A_DATASET = "Rowan/hellaswag"
"""What the hub is asked for, to see whether it can be reached at all."""
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


def require_at_hand(asked: Asked) -> None:
    """BadInputError where tasks need what is not there: the package, or the hub; said before anything is loaded.

    Where the hub's libraries are told to work without it, what they have in their caches decides.
    """
    if asked.needs_harness and find_spec("lm_eval") is None:
        raise BadInputError(
            "tasks are asked through lm-evaluation-harness, which is not there; install it with: "
            "pip install 'compressm[eval]'"
        )
    if not asked.names or any(os.environ.get(name) for name in OFFLINE):
        return
    if problem := unreachable(A_DATASET):
        name = asked.names[0]
        local = f"{name}=FILE.jsonl" if name in NAMED else f"a task of your own: {name}.yaml"
        raise BadInputError(
            f"--tasks {name}: {problem}, and tasks without a file take their data from it; give {local} "
            "(docs/eval.md), or set HF_HUB_OFFLINE=1 where its data are in the cache"
        )


class Benchmark:
    """Some tasks, ready to be asked of one model after the other."""

    def __init__(self, asked: Asked, shots: int | None, limit: int | None, seed: int) -> None:
        """Raises BadInputError for tasks that cannot be loaded."""
        self.asked, self._limit, self._seed = asked, limit, seed
        self.harness: str | None = None
        """The version of lm-evaluation-harness, where it is used."""
        self._tasks: Tasks | None = None
        if asked.needs_harness:
            self._tasks = self._built(shots)
            self._chosen = {
                n: chosen_items(task.eval_docs, limit, seed) for n, task in self._tasks.tasks.items()
            }

    def _built(self, shots: int | None) -> "Tasks":
        self.harness = version("lm_eval")
        from compressm_cli.integrations import harness_tasks

        with _quiet():
            return harness_tasks.build(self.asked, shots, self._seed)

    def ask(self, model: LanguageModel, batch_size: int, progress: Callable[[str], Progress]) -> ModelResult:
        """What a model scores; ``progress`` gives for a title what is told of it."""
        found = []
        if self._tasks is not None:
            found += self._asked_by_harness(model, self._tasks, batch_size, progress("tasks"))
        if (path := self.asked.files.get(PERPLEXITY)) is not None:
            found.append(perplexity(model, path, batch_size, progress("perplexity")))
        return ModelResult(model=model.name, chosen=model.chosen, context=model.context, tasks=found)

    def _asked_by_harness(
        self, model: LanguageModel, tasks: "Tasks", batch_size: int, progress: Progress
    ) -> list[TaskResult]:
        from lm_eval.evaluator import evaluate

        from compressm_cli.integrations.harness_model import HarnessModel

        asked = HarnessModel(model, batch_size, progress)
        with _quiet():
            results = evaluate(
                asked,
                {"tasks": tasks.tasks, "groups": tasks.groups, "group_map": {}},
                samples=self._chosen if self._limit is not None else None,
                bootstrap_iters=BOOTSTRAP,
                log_samples=True,
            )
        assert results is not None, "this is the only process"
        found = {n: _result(n, task, tasks, results, asked) for n, task in tasks.tasks.items()}
        groups = [_of_group(n, g, tasks, results, found) for n, g in tasks.groups.items()]
        return [*found.values(), *(group for group in groups if group is not None)]


def chosen_items(docs: Any, limit: int | None, seed: int) -> list[int]:
    """The numbers of the items that are asked: all, or ``limit`` of them, which content and seed alone decide.

    Where else an item stands in a file, and what else is in it, changes only whether it is among them.
    """
    if limit is None or limit >= len(docs):
        return list(range(len(docs)))
    order = sorted((identity([seed, doc.get(CONTENT, doc)]), number) for number, doc in enumerate(docs))
    return sorted(number for _, number in order[:limit])


def _result(name: str, task: Any, tasks: "Tasks", results: Any, asked: Any) -> TaskResult:
    """What the harness found of one task."""
    samples, metrics = results["samples"][name], results["results"][name]
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    items: dict[int, Item] = {}
    for sample in samples:
        known = items.get(sample["doc_id"]) or _item(task, sample, asked)
        values = {
            _title(metric, sample["filter"], filters): _plain(sample[metric]) for metric in sample["metrics"]
        }
        items[sample["doc_id"]] = known.model_copy(update={"values": {**known.values, **values}})
    listed = list(items.values())
    cut = sum(item.truncated for item in listed)
    told = f"{cut:,} of {counted(len(listed), 'item')} cut on the left to what the model sees at once"
    return TaskResult(
        task=name,
        source=tasks.sources[name],
        shots=tasks.shots.get(name, task.config.num_fewshot or 0),
        count=len(listed),
        hash=hash_of([item.id for item in listed]),
        scores=_scores(metrics, filters, listed),
        items=listed,
        notes=[told] if cut else [],
    )


def _of_group(
    name: str, group: Any, tasks: "Tasks", results: Any, found: dict[str, TaskResult]
) -> TaskResult | None:
    """What the harness found of several tasks together; None where it puts them together in no way."""
    metrics = results.get("groups", {}).get(name)
    if not metrics:
        return None
    parts = [found[task.task_name] for task in group.get_all_tasks()]
    items = [item for part in parts for item in part.items]
    shots = {part.shots for part in parts}
    return TaskResult(
        task=name,
        source=tasks.sources[name],
        shots=shots.pop() if len(shots) == 1 else None,
        count=len(items),
        hash=hash_of([item.id for item in items]),
        scores=_scores(metrics, [key.partition(",")[2] for key in metrics if "," in key][:1], items),
        items=items,
    )


def _scores(metrics: Any, filters: list[str], items: list[Item]) -> list[Score]:
    found = []
    for key, value in metrics.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        title, chances = _title(metric, kind, filters), [item.chance for item in items]
        known = [chance for chance in chances if chance is not None]
        guessed = metric in GUESSED and len(known) == len(items)
        each = [item.values.get(title) for item in items]
        score = _plain(value)
        of_items = all(one in (0.0, 1.0) for one in each) and score is not None
        found.append(
            Score(
                metric=title,
                value=score,
                standard_error=_plain(metrics.get(f"{metric}_stderr,{kind}")),
                chance=sum(known) / len(known) if guessed else None,
                is_share=of_items and math.isclose(score or 0.0, sum(v or 0.0 for v in each) / len(each)),
            )
        )
    return found


def _item(task: Any, sample: Any, asked: Any) -> Item:
    arguments, target = sample["arguments"], sample["target"]
    choices = len(task.doc_to_choice(sample["doc"])) if task.OUTPUT_TYPE == "multiple_choice" else 0
    right = len(set(target)) if isinstance(target, list) else 1
    texts = [tuple(part for part in one if isinstance(part, str)) for one in arguments]
    details = {"item": sample["doc_id"], "said": _said(sample["resps"]), "right": target}
    if isinstance(subject := sample["doc"].get("subject"), str) and subject:
        details["subject"] = subject
    return Item(
        id=identity([arguments, target]),
        values={},
        chance=right / choices if choices else None,
        truncated=any(text in asked.truncated for text in texts),
        details=details,
    )


def _said(responses: Any) -> list[Any]:
    """The first answer to each request: a text, or a log-likelihood in nats."""
    first = [one[0] if isinstance(one, list) else one for one in responses]
    return [one[0] if isinstance(one, tuple) else one for one in first]


def _title(metric: str, kind: str, filters: list[str]) -> str:
    """The name of a metric, with the filter of answers where there are several."""
    return metric if len(filters) < 2 else f"{metric} ({kind})"


def _plain(value: Any) -> float | None:
    """A finite number; None for whatever else the harness says."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, nothing is written to the terminal but by this package; what goes wrong is raised all the same."""
    import datasets
    import lm_eval.api.task as tasks

    logger, before, bars = logging.getLogger("lm_eval"), logging.getLogger("lm_eval").level, tasks.tqdm
    shown = not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.CRITICAL)
    datasets.disable_progress_bars()
    tasks.tqdm = partial(bars, disable=True)
    try:
        yield
    finally:
        tasks.tqdm = bars
        logger.setLevel(before)
        if shown:
            datasets.enable_progress_bars()
