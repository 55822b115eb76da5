"""What a recipe may ask for at all: its types are right, and yet it could not be run, or not be run safely."""

import re
from collections.abc import Iterator

from compressm_cli.core.quantities import quantity
from compressm_cli.core.text import is_control, shorten
from compressm_cli.data.interface import DataSpec, TaskConfig
from compressm_cli.objectives import OBJECTIVES, UNLABELLED, objective_config, primary_of, unfit_model
from compressm_cli.recipe.problems import KeyPath, Problem
from compressm_cli.recipe.schema import Recipe
from compressm_cli.recipe.yaml_text import Node

LARGEST_NUMBER = 2**53
LARGEST_BATCH = 10_000_000
MOST_CHECKS = 100_000
MOST_PARAMETERS = 100_000_000_000
LONGEST_ROOT = 1000
RESERVED = re.compile(r"latest|v\d{4,}", re.IGNORECASE)
"""Names within a folder of runs."""


def text_problems(root: Node) -> list[Problem]:
    """A problem for each text with control characters in it: they could hide what a terminal shows, or change it."""
    return [
        Problem(
            node.place, path, f"{shorten(node.value)} has the control character {sign!a} in it; remove it"
        )
        for path, node in _scalars(root)
        if isinstance(node.value, str) and (sign := next(filter(is_control, node.value), None)) is not None
    ]


def bound_problems(recipe: Recipe, root: Node) -> list[Problem]:
    """What is too large, or named so that it would mean another place, in a valid recipe."""
    problems = [
        Problem(node.place, path, f"{shorten(node.value)} is out of range; nothing in a recipe is above 2^53")
        for path, node in _scalars(root)
        if type(node.value) is int and abs(node.value) > LARGEST_NUMBER
    ]
    if problems:
        return problems
    found = [*_names(recipe), *_sizes(recipe), *_objective(recipe)]
    return [Problem(root.closest(path).place, path, message) for path, message in found]


def known_spec(recipe: Recipe) -> DataSpec | None:
    """The description of the recipe's data where the task knows it without reading any."""
    task = recipe.data
    if type(task).spec is TaskConfig.spec or getattr(task, "path", None) is not None:
        return None
    spec: DataSpec = task.spec()
    return spec


def least_parameters(recipe: Recipe) -> int:
    """The least number of parameters that the model can have; layers of every kind have some times more."""
    data = known_spec(recipe)
    ends = 0 if data is None else data.outputs + (data.vocabulary or data.features or 0)
    least: int = recipe.model.least_parameters(ends)
    return least


def _names(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    if RESERVED.fullmatch(recipe.name):
        message = f"{recipe.name!r} is what runs are called in the folder of a recipe; write another name"
        yield ("name",), message
    if len(recipe.output.root) > LONGEST_ROOT:
        yield ("output", "root"), f"has {len(recipe.output.root)} characters; write at most {LONGEST_ROOT}"


def _sizes(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    rows = recipe.train.batch_size
    if rows > LARGEST_BATCH:
        yield ("train", "batch_size"), f"{rows} is out of range; write an integer of at most {LARGEST_BATCH}"
    schedule = recipe.compression.schedule
    checks = getattr(schedule, "count", 0)
    if schedule.kind == "adaptive":
        checks = round((schedule.until - schedule.start) * recipe.train.steps / schedule.every)
    if checks > MOST_CHECKS:
        message = f"{checks} checks in one run are out of range; write a schedule of at most {MOST_CHECKS}"
        yield ("compression", "schedule"), message
    count = least_parameters(recipe)
    if count > MOST_PARAMETERS:
        message = (
            f"at least {count:.3g} parameters take {quantity(4 * count, 'bytes')} without anything else; at most "
            f"{MOST_PARAMETERS:.0e} are allowed; write a smaller model_dim, depth or state_dim"
        )
        yield ("model",), message


def _objective(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    """What the labels do not fit, as far as they are known; and what no metric can fall by."""
    config, spec = objective_config(recipe), known_spec(recipe)
    if spec is not None and (problem := OBJECTIVES[config.kind].problem(config, spec, recipe.data)):
        yield ("objective",), problem
    elif spec is None and recipe.data.own_tokens and not OBJECTIVES[config.kind].hides_tokens:
        yield ("data",), UNLABELLED
    elif problem := unfit_model(recipe, spec):
        yield ("model", "kind"), problem
    safety, primary = recipe.compression.safety, primary_of(recipe)
    if safety is not None and safety.tolerance > 1 and (safety.relative or primary.unit == "share"):
        what = "a share of the value before" if safety.relative else primary.title
        message = f"{safety.tolerance:g} is out of range for {what}; write a number from 0 to 1, such as 0.02"
        yield ("compression", "safety", "tolerance"), message


def _scalars(root: Node) -> Iterator[tuple[KeyPath, Node]]:
    """All values that are no mapping or list, with their key paths."""
    waiting: list[tuple[KeyPath, Node]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node.value, dict):
            waiting += [((*path, key), child) for key, child in node.value.items()]
        elif isinstance(node.value, list):
            waiting += [((*path, i), child) for i, child in enumerate(node.value)]
        else:
            yield path, node
