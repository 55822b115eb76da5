"""From YAML to a Recipe and back; every error at once, with its place."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError

from compressm_cli import plugins
from compressm_cli.core.config import Config
from compressm_cli.core.registry import BY_NAME, Registry
from compressm_cli.core.text import described, shorten
from compressm_cli.data import TASKS
from compressm_cli.layers import LAYERS
from compressm_cli.methods import METHODS
from compressm_cli.models import MODELS, NETWORKS
from compressm_cli.objectives import OBJECTIVES
from compressm_cli.recipe.bounds import bound_problems, text_problems
from compressm_cli.recipe.explain import explain
from compressm_cli.recipe.overrides import apply_overrides
from compressm_cli.recipe.problems import KeyPath, Place, Problem, RecipeError
from compressm_cli.recipe.schema import Recipe, settle
from compressm_cli.recipe.shipped import SHIPPED, find_recipe, shipped_folder
from compressm_cli.recipe.yaml_text import MAX_BYTES, Node, dump_yaml, from_plain, parse_yaml

C = TypeVar("C", bound=Config)

DEFAULT_KIND, OTHERS = "sequence", "external"
"""Of a model, where a recipe says nothing; and where it says whose network it is, by one of ``SOURCES``."""
SOURCES = {"from", "class"}
NO_LAYERS = {"axes", "arguments"}
"""Mappings of a network that is not ours, in which nothing is named that a registry has."""


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file, or a shipped one by name (``quickstart/compressed``).

    ``overrides`` are changes such as ``train.steps=100``, applied in order. Raises RecipeError with
    everything that is wrong, each as ``file:line:column: key path: what is wrong; what to write``.
    """
    path = find_recipe(source)
    where = _shown(path)
    root, problems = parse_yaml(_read(path, where), lambda line, column: Place(where, line, column))
    start = Place(where, 1, 1)
    if root is None:
        raise RecipeError([Problem(start, (), f"the recipe is empty; write the keys {_required_keys()}")])
    if not isinstance(root.value, dict):
        message = f"found {described(root.plain())}; write a mapping with the keys {_required_keys()}"
        raise RecipeError([*problems, Problem(root.place, (), message)])
    return _validated(root, problems + apply_overrides(root, overrides))


def recipe_from_mapping(mapping: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from plain data; ``where`` names its origin in errors. Raises RecipeError."""
    if not isinstance(mapping, Mapping):
        raise RecipeError([Problem(Place(where), (), f"found {described(mapping)}; a recipe is a mapping")])
    root = from_plain(dict(mapping), Place(where))
    return _validated(root, apply_overrides(root, overrides))


def config_from_mapping(
    kind: type[C], mapping: Mapping[str, Any], where: str, overrides: Sequence[str] = ()
) -> C:
    """A configuration that is no whole recipe, from plain data and changes as a recipe's. Raises RecipeError."""
    root = from_plain(dict(mapping), Place(where))
    problems, untold = apply_overrides(root, overrides), 0
    problems += text_problems(root)
    try:
        config = kind.model_validate(root.plain())
    except ValidationError as error:
        explained, untold = explain(error, root, kind)
        problems += explained
    if problems:
        raise RecipeError(problems, untold)
    return config


def recipe_to_mapping(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data (dict, list, text, numbers), with every default written out."""
    return recipe.model_dump(mode="json")


def recipe_settings(recipe: Recipe) -> dict[str, Any]:
    """Every setting by its key path, such as ``train.steps``; lists are one setting.

    What a run has found in its network (``model.axes``) is none.
    """
    mapping = recipe_to_mapping(recipe)
    mapping["model"].pop("axes", None)
    return _flat(mapping, "")


def _flat(mapping: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def recipe_to_yaml(recipe: Recipe) -> str:
    """The recipe as YAML, with every default written out; ``load_recipe`` reads it back to an equal one."""
    return dump_yaml(recipe_to_mapping(recipe))


def recipe_in_short(recipe: Recipe) -> str:
    """The recipe as YAML, without what is as by default; ``load_recipe`` reads it back to an equal one."""
    changed = recipe.model_dump(mode="json", exclude_defaults=True)
    return dump_yaml(_short(recipe, recipe_to_mapping(recipe), changed))


def _short(config: Config, whole: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """Of a mapping what is changed, and what says of which kind it is."""
    found = {}
    for key, value in whole.items():
        own, said = getattr(config, key), type(config).model_fields[key].annotation
        if isinstance(own, Config) and key in changed:
            found[key] = _short(own, value, changed[key])
        elif key in changed or (get_origin(said) is Literal and len(get_args(said)) == 1):
            found[key] = value
    return found


def recipe_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe, for editors."""
    settle()
    schema = Recipe.model_json_schema()
    seeds = schema["properties"]["seeds"]
    kept = {key: seeds.pop(key) for key in ("default", "description", "title") if key in seeds}
    schema["properties"]["seeds"] = {**kept, "anyOf": [seeds["items"], seeds]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_with_names(schema),
        "title": "compressm recipe",
    }


def _with_names(part: Any) -> Any:
    """A schema that allows names where a mapping may be its ``kind`` alone."""
    if isinstance(part, list):
        return [_with_names(item) for item in part]
    if not isinstance(part, dict):
        return part
    inside = {key: _with_names(value) for key, value in part.items() if key != BY_NAME}
    if part.get(BY_NAME) is not True:
        return {**part, **inside}
    return {"anyOf": [{"enum": list(inside["discriminator"]["mapping"])}, inside]}


def _validated(root: Node, problems: list[Problem]) -> Recipe:
    problems, untold = problems + text_problems(root), 0
    unavailable = _unavailable(root)
    _find_shipped_files(root)
    model = root.child("model")
    if model is not None and isinstance(model.value, dict):
        kind = OTHERS if SOURCES & model.value.keys() else DEFAULT_KIND
        model.value.setdefault("kind", Node(kind, model.place))
    settle()
    try:
        recipe = Recipe.model_validate(root.plain())
    except ValidationError as error:
        explained, untold = explain(error, root, Recipe)
        problems += [unavailable.get(problem.path, problem) for problem in explained]
    else:
        problems += bound_problems(recipe, root)
        problems += _network_problems(recipe, root, unavailable)
    if problems:
        raise RecipeError(problems, untold)
    return recipe


def _network_problems(recipe: Recipe, root: Node, unavailable: Mapping[KeyPath, Problem]) -> list[Problem]:
    """A problem where a recipe names a class of a network that is not there."""
    path = ("model", NETWORKS.tag)
    name = getattr(recipe.model, "network_class", None)
    if name is None or name in NETWORKS:
        return []
    told = (
        f"{shorten(name)} is no class of a plug-in; write package.module:Class, such as my_package.nets:Net"
    )
    return [unavailable.get(path) or Problem(root.closest(path).place, path, told)]


def _find_shipped_files(root: Node) -> None:
    """Let ``shipped:text/example.csv`` in ``data:`` be that file of the shipped recipes, wherever they lie."""
    data = root.child("data")
    for node in data.value.values() if data is not None and isinstance(data.value, dict) else ():
        if isinstance(node.value, str) and node.value.startswith(SHIPPED):
            node.value = str(shipped_folder() / node.value.removeprefix(SHIPPED))


def _unavailable(root: Node) -> dict[KeyPath, Problem]:
    """Have plug-ins loaded that may be, if names in the recipe need them; why a name is nobody's, by its key path."""
    found = {}
    for path, registry, node in _names(root):
        if isinstance(node.value, str) and (why := plugins.find(registry, node.value)) is not None:
            found[path] = Problem(node.place, path, why)
    return found


def _names(root: Node) -> Iterator[tuple[KeyPath, Registry[Any], Node]]:
    """What is named in a recipe: its key path, and the registry that it is to be in."""
    for section, registry in (("data", TASKS), ("objective", OBJECTIVES), ("compression", METHODS)):
        parent = root.child(section)
        if parent is not None and (node := parent.child(registry.tag)) is not None:
            yield (section, registry.tag), registry, node
    model = root.child("model")
    if model is not None and (node := model.child(NETWORKS.tag)) is not None:
        yield ("model", NETWORKS.tag), NETWORKS, node
    waiting: list[tuple[KeyPath, Node | None]] = [(("model",), model)]
    while waiting:
        path, parent = waiting.pop()
        if parent is not None and isinstance(parent.value, list):
            for number, node in enumerate(parent.value):
                waiting.append(((*path, number), node))
                if path[-1] == "layers" and isinstance(node.value, str):
                    yield (*path, number), LAYERS, node
        if parent is not None and isinstance(parent.value, dict):
            waiting += [((*path, key), node) for key, node in parent.value.items() if key not in NO_LAYERS]
            if (node := parent.child("kind")) is not None:
                yield (*path, "kind"), MODELS if path == ("model",) else LAYERS, node


def _required_keys() -> str:
    return ", ".join(name for name, field in Recipe.model_fields.items() if field.is_required())


def _shown(path: Path) -> str:
    """The path as errors name it: relative where it lies below the current folder."""
    below = path.is_absolute() and path.is_relative_to(Path.cwd())
    return os.path.relpath(path) if below else str(path)


def _read(path: Path, where: str) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError([Problem(Place(where), (), f"cannot be read: {error.strerror}")]) from error
    if len(data) > MAX_BYTES:
        message = f"larger than {MAX_BYTES} bytes; this is not a recipe"
        raise RecipeError([Problem(Place(where), (), message)])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        message = f"the byte 0x{data[error.start]:02x} is not UTF-8 text; save the file as UTF-8"
        raise RecipeError([Problem(Place(where, line, column), (), message)]) from error
