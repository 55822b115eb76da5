"""What a sweep is to train: every point judged before anything is, and each point with each seed a job."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.changes import identity
from compressm_cli.engine.experiment import check_recipe
from compressm_cli.engine.teaching import placed, taught
from compressm_cli.recipe import Recipe, RecipeError, load_recipe, recipe_to_mapping
from compressm_cli.recipe.problems import Place, Problem
from compressm_cli.sweeps.grid import Change, Point
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.space import Parameter, described

MOST_TOLD = 10
"""Points that an error names."""


@dataclass(frozen=True)
class Maker:
    """Makes the recipes of points: those of one recipe with changes."""

    source: str
    """The recipe, as it was named on the command line."""
    fixed: list[str]
    """Changes for all points."""
    seeds: list[int] | None = None
    """Instead of the recipe's."""
    root: str | None = None
    """Instead of the recipe's ``output.root``."""

    def recipe(self, changes: Sequence[Change], name: str | None) -> Recipe:
        """That of a point, called ``name`` or as the recipe is; RecipeError."""
        extra = [f"{key}={text}" for key, text in changes]
        extra += [] if self.seeds is None else [f"seeds={json.dumps(self.seeds)}"]
        extra += [] if self.root is None else [f"output.root={json.dumps(self.root, ensure_ascii=False)}"]
        extra += [] if name is None else [f"name={json.dumps(name)}"]
        return placed(load_recipe(self.source, [*self.fixed, *extra]))


@dataclass(frozen=True)
class Plan:
    """Recipes by point, all with the same seeds."""

    maker: Maker
    name: str
    """Of the recipe."""
    points: list[Point]
    recipes: list[Recipe]
    """One a point, which is its name; ``output.root`` is the place that was asked for."""
    equal: list[tuple[str, str]] = field(default_factory=list)
    """Points that were left out, each with the one that it equals."""
    space: list[Parameter] = field(default_factory=list)
    """What a search may try, whose points become known while it goes on; ``points`` are the ends of it."""

    @property
    def seeds(self) -> list[int]:
        return self.recipes[0].seeds

    @property
    def root(self) -> Path:
        """The place that was asked for."""
        return Path(self.recipes[0].output.root)

    def jobs(self, folder: Path) -> list[Job]:
        """The trainings that are known beforehand, whose runs go below a folder: all points with the first seed, then
        with the next."""
        if self.space:
            return []
        return [job_of(recipe, seed, folder) for seed in self.seeds for recipe in self.recipes]

    def fingerprint(self) -> str:
        """What tells it from every other plan."""
        space = {parameter.key: described(parameter) for parameter in self.space}
        told = json.dumps([[identity(recipe) for recipe in self.recipes], space], sort_keys=True)
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()


def job_of(recipe: Recipe, seed: int, folder: Path) -> Job:
    """A recipe with one of its seeds, whose run goes below a folder."""
    output = recipe.output.model_copy(update={"root": str(folder)})
    return Job(recipe.model_copy(update={"seeds": [seed], "output": output}))


def make_plan(maker: Maker, points: Sequence[Point], space: Sequence[Parameter] = ()) -> Plan:
    """Judge every point, of a search its ends.

    Raises RecipeError with everything that is wrong, each with its point, and BadInputError where a recipe does not
    fit its data or this machine.
    """
    recipes = _judged(maker, points)
    name = maker.recipe(points[0].changes, None).name
    # The one point of a sweep over nothing but seeds is called as its recipe.
    named = [Point(recipe.name, point.changes) for recipe, point in zip(recipes, points, strict=True)]
    kept, equal = _distinct(named, recipes)
    require_fitting([recipes[index] for index in kept])
    kept_points, kept_recipes = [named[i] for i in kept], [recipes[i] for i in kept]
    return Plan(maker, name, kept_points, kept_recipes, equal, list(space))


def _judged(maker: Maker, points: Sequence[Point]) -> list[Recipe]:
    recipes: list[Recipe] = []
    wrong: dict[str, list[str]] = {}
    for point in points:
        try:
            recipes.append(maker.recipe(point.changes, point.name if point.changes else None))
        except RecipeError as error:
            for problem in error.problems:
                wrong.setdefault(problem, []).append(point.name)
    if wrong:
        raise RecipeError([_problem(*told, len(points)) for told in wrong.items()])
    return recipes


def _problem(text: str, names: list[str], count: int) -> Problem:
    """What is wrong with some points, or with all of them."""
    if len(names) == count:
        return Problem(Place("every point" if count > 1 else "the recipe"), (), text)
    shown = ", ".join(names[:MOST_TOLD])
    more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
    return Problem(Place(f"point{'s' if len(names) > 1 else ''} {shown}{more}"), (), text)


def _distinct(points: Sequence[Point], recipes: Sequence[Recipe]) -> tuple[list[int], list[tuple[str, str]]]:
    """The indices of the points that differ from all before them, and which equal which."""
    first: dict[str, int] = {}
    kept, equal = [], []
    for index, recipe in enumerate(recipes):
        known = first.setdefault(_settings(recipe), index)
        if known == index:
            kept.append(index)
        else:
            equal.append((points[index].name, points[known].name))
    return kept, equal


def _settings(recipe: Recipe) -> str:
    mapping = recipe_to_mapping(recipe)
    return json.dumps({key: value for key, value in mapping.items() if key != "name"}, sort_keys=True)


def require_fitting(recipes: Sequence[Recipe]) -> None:
    """BadInputError where a recipe cannot be trained here, or not on its data: all of them, each reason once."""
    known: dict[str, DataSpec] = {}
    wrong: dict[str, list[str]] = {}
    for recipe in recipes:
        try:
            check_recipe(recipe)
            data = json.dumps(recipe_to_mapping(recipe)["data"], sort_keys=True)
            if data not in known:
                known[data] = recipe.data.described()[0]
            taught(recipe, known[data], torch.device("meta"))
        except BadInputError as error:
            wrong.setdefault(str(error), []).append(recipe.name)
    if wrong:
        raise BadInputError("\n".join(str(_problem(*told, len(recipes))) for told in wrong.items()))


def differences(before: Sequence[Job], after: Sequence[Job]) -> list[str]:
    """What of two plans is not the same, in words: trainings that one of them alone has, and settings by training."""
    old, new = ({job.name: identity(job.recipe) for job in jobs} for jobs in (before, after))
    told = []
    for what, names in (
        ("is new", [n for n in new if n not in old]),
        ("is gone", [n for n in old if n not in new]),
    ):
        if names:
            more = f" and {len(names) - MOST_TOLD} more" if len(names) > MOST_TOLD else ""
            told.append(f"{what}: {'; '.join(names[:MOST_TOLD])}{more}")
    changed: Counter[str] = Counter()
    for name in old.keys() & new.keys():
        for key in {**old[name], **new[name]}:
            one, two = (_shown(settings, key) for settings in (old[name], new[name]))
            if one != two and key != "name":
                changed[f"{key} {one} -> {two}"] += 1
    return [*told, *(change for change, _ in changed.most_common(MOST_TOLD))]


def _shown(settings: dict[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "none"
