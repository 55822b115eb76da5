"""Changes to a recipe from the command line: ``a.b=1``."""

import re
from collections.abc import Sequence
from typing import get_args

from compressm_cli.core.text import described, shorten
from compressm_cli.recipe.budget import Unit
from compressm_cli.recipe.problems import Place, Problem, RecipeError
from compressm_cli.recipe.yaml_text import MAX_DEPTH, Node, parse_yaml

KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")


def apply_overrides(root: Node, overrides: Sequence[str]) -> list[Problem]:
    """Set the values in ``root``, in the order given; returns what is wrong with the overrides themselves.

    The value is YAML and replaces what stands there, a whole mapping too; missing mappings on the
    way are made. A budget of another unit than the recipe's replaces that.
    """
    problems: list[Problem] = []
    for rank, text in enumerate(overrides, start=1):
        place = Place(f"override {shorten(text)}", rank=rank)
        try:
            path, node, found_problems = _parse(text, place)
            problems += found_problems
            _set(root, path, node, place)
        except _OverrideError as error:
            problems.append(error.problem)
    return problems


class _OverrideError(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _parse(text: str, place: Place) -> tuple[list[str], Node, list[Problem]]:
    key, equals, value = text.partition("=")
    if not equals:
        raise _OverrideError(Problem(place, (), "no '=' in it; write key=value, such as train.steps=100"))
    if not KEY.fullmatch(key):
        raise _OverrideError(
            Problem(place, (), f"{shorten(key)} is not a key path; write key=value, such as train.steps=100")
        )
    path = key.split(".")
    if len(path) > MAX_DEPTH:
        raise _OverrideError(Problem(place, (), f"a key path of {len(path)} keys; a recipe needs about four"))
    if not value.strip():
        raise _OverrideError(
            Problem(place, tuple(path), f"nothing after '='; write {key}=VALUE, or {key}=null for no value")
        )
    try:
        node, problems = parse_yaml(value, lambda line, column: place)
    except RecipeError as error:
        message = error.problems[0].removeprefix(f"{place}: ")
        raise _OverrideError(Problem(place, tuple(path), message)) from error
    if node is None:
        raise _OverrideError(
            Problem(place, tuple(path), f"nothing but a comment after '='; write {key}=VALUE")
        )
    if isinstance(node.value, str) and len(value.strip().splitlines()) > 1:
        # YAML makes a blank of it: another value than was given.
        raise _OverrideError(
            Problem(place, tuple(path), f"{shorten(value)} has a line break in it; remove it")
        )
    node.key_place = place
    return path, node, [Problem(place, (*path, *p.path), p.message) for p in problems]


def _set(root: Node, path: list[str], node: Node, place: Place) -> None:
    parent = root
    for depth, key in enumerate(path):
        if parent.value is None and depth:
            parent.value, parent.place = {}, place
        if not isinstance(parent.value, dict):
            raise _OverrideError(
                Problem(
                    place,
                    tuple(path),
                    f"{'.'.join(path[:depth])} is {described(parent.value)}, not a mapping; "
                    f"write {'.'.join(path[:depth])}=VALUE",
                )
            )
        if depth == len(path) - 1:
            parent.value[key] = node
            if path[:-1] == ["budget"] and key in get_args(Unit) and node.value is not None:
                _drop_other_units(parent.value, key)
        else:
            parent = parent.value.setdefault(key, Node({}, place, place))


def _drop_other_units(budget: dict[str, Node], unit: str) -> None:
    """A budget has one unit: that of an override takes the place of the recipe's, not of another override's."""
    for other in get_args(Unit):
        if other != unit and other in budget and not budget[other].place.rank:
            del budget[other]
