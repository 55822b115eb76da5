"""What pydantic finds wrong, said in the words of a recipe: the key, its place, and what to write."""

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from compressm_cli import plugins
from compressm_cli.core.invocation import INVOCATION
from compressm_cli.core.registry import BY_NAME, generation
from compressm_cli.core.text import described, shorten
from compressm_cli.recipe.problems import KeyPath, Problem, key_path
from compressm_cli.recipe.yaml_text import Node

Schema = dict[str, Any]

JSON_TYPES: dict[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    str: ("string",),
    list: ("array",),
    dict: ("object",),
}
NAMES = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "null": "null",
}
PLURALS = {"integer": "integers", "number": "numbers", "string": "texts"}

MAX_EXPLAINED = 100
LONGEST_KEY = 200
"""Characters up to which a word may be a misspelt other one."""
RANGE_ERRORS = {
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "multiple_of",
    "finite_number",
}
LENGTH_ERRORS = {
    "too_short": "items",
    "too_long": "items",
    "string_too_short": "characters",
    "string_too_long": "characters",
}


def explain(error: ValidationError, root: Node, model: type[BaseModel]) -> tuple[list[Problem], int]:
    """The problems that ``error`` found when ``root`` was validated as ``model``, one for each cause.

    Of very many only the first are looked into, since each takes time; the second value counts the others.
    """
    outline = _outline(model, generation())
    errors = error.errors(include_url=False)
    located = [_Located.of(details, outline, root) for details in errors[:MAX_EXPLAINED]]
    explainer = _Explainer(outline, root)
    problems = [explainer.problem(one) for one in _one_branch_of_each_union(located)]
    return problems, max(0, len(errors) - MAX_EXPLAINED)


@lru_cache(maxsize=1)
def _outline(model: type[BaseModel], _: int) -> "Outline":
    return Outline(model.model_json_schema())


class Outline:
    """The JSON schema of a model, walked by the keys of a recipe."""

    def __init__(self, schema: Schema) -> None:
        self.root = schema

    def settle(self, part: Schema) -> Schema:
        """Follow references, and drop the ``null`` of an optional value."""
        while True:
            if "$ref" in part:
                part = self.root["$defs"][part["$ref"].rsplit("/", 1)[1]]
            elif len(part.get("allOf", ())) == 1:
                part = part["allOf"][0]
            elif len(self.choices(part)) == 1:
                part = self.choices(part)[0]
            else:
                return part

    def choices(self, part: Schema) -> list[Schema]:
        """The alternatives of a union other than null."""
        return [choice for choice in part.get("anyOf", ()) if choice.get("type") != "null"]

    def tags(self, part: Schema) -> dict[str, Schema]:
        """The members of a discriminated union by their tag; empty where it is none."""
        mapping = part.get("discriminator", {}).get("mapping", {})
        return {tag: self.settle({"$ref": reference}) for tag, reference in mapping.items()}

    def child(self, part: Schema, key: str | int) -> Schema:
        """The schema of the value of a key, or of an item; of anything where it says nothing."""
        if isinstance(key, int):
            items: Schema = part.get("items", {})
            return items
        inside: Schema | bool = part.get("properties", {}).get(key, part.get("additionalProperties", {}))
        return inside if isinstance(inside, dict) else {}

    def fitting(self, part: Schema, value: object) -> Schema:
        """The alternative of a plain union that is meant by a value of this kind."""
        kinds = JSON_TYPES.get(type(value), ())
        choices = map(self.settle, self.choices(part))
        return next((choice for choice in choices if choice.get("type") in kinds), {})

    def mappings(
        self, node: Node, part: Schema, path: KeyPath = ()
    ) -> Iterator[tuple[KeyPath, Schema, Schema]]:
        """Every mapping of a recipe: its path, its schema, and where it is a member of a union that union."""
        union = part = self.settle(part)
        if isinstance(node.value, list):
            for number, child in enumerate(node.value):
                yield from self.mappings(child, self.child(part, number), (*path, number))
        if not isinstance(node.value, dict):
            return
        if members := self.tags(union):
            tag = node.child(union["discriminator"]["propertyName"])
            part = members.get(tag.value, {}) if tag and isinstance(tag.value, str) else {}
        yield path, part, union
        for key, child in node.value.items():
            yield from self.mappings(child, self.child(part, key), (*path, key))

    def describe(self, part: Schema) -> str:
        """What may be written, in words: ``an integer of at least 1``."""
        if "$ref" in part or "allOf" in part:
            return self.describe(self.settle(part))
        if "discriminator" in part:
            name = part["discriminator"]["propertyName"]
            return f"a mapping with {name}: {' | '.join(self.tags(part))}"
        if "anyOf" in part:
            return " or ".join(self.describe(choice) for choice in part["anyOf"])
        if "const" in part:
            return _as_yaml(part["const"])
        if "enum" in part:
            return f"one of {', '.join(map(_as_yaml, part['enum']))}"
        if part.get("type") == "array":
            return f"a list of {PLURALS.get(self.settle(part.get('items', {})).get('type', ''), 'items')}"
        if part.get("type") == "object":
            keys = ", ".join(part.get("required") or part.get("properties", {}))
            return f"a mapping with the keys {keys}" if keys else "a mapping"
        return NAMES.get(part.get("type", ""), "a value") + _bounds(part)


def _bounds(part: Schema) -> str:
    lower = f"of at least {part['minimum']:.12g}" if "minimum" in part else ""
    lower = f"above {part['exclusiveMinimum']:.12g}" if "exclusiveMinimum" in part else lower
    upper = f"at most {part['maximum']:.12g}" if "maximum" in part else ""
    upper = f"below {part['exclusiveMaximum']:.12g}" if "exclusiveMaximum" in part else upper
    both = " and ".join(filter(None, (lower, upper)))
    return f" {both}" if both else ""


def _as_yaml(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass
class _Located:
    """One of pydantic's errors with the key path of the recipe instead of pydantic's own."""

    kind: str
    path: KeyPath
    part: Schema
    context: dict[str, Any]
    text: str
    union: KeyPath | None = None
    """Path of the plain union that this error is one alternative's view of."""
    branch: str = ""
    union_part: Schema | None = None

    @classmethod
    def of(cls, details: Any, outline: Outline, root: Node) -> "_Located":
        """Walk ``loc``, leaving out the tags and labels that pydantic adds for unions."""
        one = cls(details["type"], (), outline.root, details.get("ctx") or {}, details["msg"])
        for item in details["loc"]:
            part = outline.settle(one.part)
            if members := outline.tags(part):
                one.part = members.get(str(item), {})
            elif len(outline.choices(part)) > 1:
                one.union, one.branch, one.union_part = one.path, str(item), one.part
                one.part = outline.fitting(part, root.closest(one.path).value)
            else:
                one.path, one.part = (*one.path, item), outline.child(part, item)
        return one

    @property
    def of_another_type(self) -> bool:
        """Whether the value was not even of the kind that this alternative of a union wants."""
        return self.path == self.union and (self.kind.endswith("_type") or self.kind == "literal_error")


def _one_branch_of_each_union(located: list[_Located]) -> list[_Located]:
    """Keep what the alternative says that the value was meant for; one error where it fits none."""
    chosen: dict[KeyPath, str | None] = {}
    for path in {one.union for one in located if one.union is not None}:
        views = [one for one in located if one.union == path]
        foreign = {one.branch for one in views if one.of_another_type}
        chosen[path] = next((one.branch for one in views if one.branch not in foreign), None)
    kept: list[_Located] = []
    told: set[KeyPath] = set()
    for one in located:
        if one.union is None or chosen[one.union] == one.branch:
            kept.append(one)
        elif chosen[one.union] is None and one.union not in told:
            told.add(one.union)
            kept.append(_Located("union_type", one.union, one.union_part or {}, {}, one.text))
    return kept


class _Explainer:
    def __init__(self, outline: Outline, root: Node) -> None:
        self.outline = outline
        self.root = root
        self.mappings = list(outline.mappings(root, outline.root))
        """Found once: a recipe with very many unknown keys is told in time."""

    def problem(self, one: _Located) -> Problem:
        node = self.root.closest(one.path)
        if one.kind in ("union_tag_invalid", "union_tag_not_found"):
            return self._tag(one, node)
        if one.kind == "missing":
            return Problem(node.place, one.path, f"missing; write {self.outline.describe(one.part)}")
        if one.kind == "extra_forbidden":
            return Problem(node.key_place or node.place, one.path, self._unknown_key(one.path))
        return Problem(node.place, one.path, self._message(one, node.value))

    def _tag(self, one: _Located, node: Node) -> Problem:
        part = self.outline.settle(one.part)
        allowed = list(self.outline.tags(part))
        if part.get(BY_NAME) and isinstance(node.value, str):
            tag, path = node, one.path
        else:
            name = part["discriminator"]["propertyName"]
            path = (*one.path, name)
            found = node.child(name)
            if found is None:
                return Problem(node.place, path, f"missing; write one of {', '.join(allowed)}")
            tag = found
        return Problem(tag.place, path, _not_allowed(tag.value, allowed) + _of_plugins(tag.value, allowed))

    def _unknown_key(self, path: KeyPath) -> str:
        key, owner = str(path[-1]), path[:-1]
        if len(key) > LONGEST_KEY:
            return "unknown key; remove it"
        allowed: list[str] = []
        for where, part, union in self.mappings:
            if key in part.get("properties", {}):
                return f"unknown key here; did you mean {key_path((*where, key))!r}?"
            if where == owner:
                allowed = list(part.get("properties", {}))
                members = self.outline.tags(union).items()
                if homes := [tag for tag, member in members if key in member.get("properties", {})]:
                    name = union["discriminator"]["propertyName"]
                    return f"unknown key; it belongs to {name}: {' | '.join(homes)}; remove it"
        if close := get_close_matches(key, allowed, n=1, cutoff=0.5):
            return f"unknown key; did you mean {close[0]!r}?"
        return f"unknown key; allowed here: {', '.join(allowed)}"

    def _message(self, one: _Located, value: object) -> str:
        wanted = self.outline.describe(one.part)
        if one.kind in ("value_error", "assertion_error"):
            return str(one.context["error"])
        if one.kind == "literal_error" or "enum" in one.part:
            return _not_allowed(value, list(map(_as_yaml, one.part.get("enum", [one.part.get("const")]))))
        if one.kind in RANGE_ERRORS:
            return f"{shorten(value)} is out of range; write {wanted}"
        if one.kind in LENGTH_ERRORS:
            return self._length(one, value)
        if one.kind == "string_pattern_mismatch":
            return f"{shorten(value)} is not of the right form; write {wanted} of {one.part['form']}"
        if one.kind.endswith("_type"):
            if isinstance(value, float) and value.is_integer() and "integer" in wanted:
                wanted = f"{wanted}, such as {int(value)}"
            return f"found {described(value)}; write {wanted}"
        return f"{one.text[0].lower()}{one.text[1:]}; write {wanted}"

    def _length(self, one: _Located, value: object) -> str:
        unit = LENGTH_ERRORS[one.kind]
        short = "short" in one.kind
        limit = one.context["min_length" if short else "max_length"]
        size = len(value) if isinstance(value, (list, str)) else 0
        return f"has {size} {unit}; write at {'least' if short else 'most'} {limit}"


def _of_plugins(value: object, allowed: list[str]) -> str:
    """Where a name is none that comes near, and plug-ins may bring others: how to ask for one."""
    is_open = any(set(registry) <= set(allowed) for registry in plugins.REGISTRIES)
    if INVOCATION.plugins or not is_open or not isinstance(value, str) or len(value) > LONGEST_KEY:
        return ""
    if get_close_matches(value, allowed, n=1, cutoff=0.5):
        return ""
    return ", or ask for the plug-in that has it: --plugin MODULE"


def _not_allowed(value: object, allowed: list[str]) -> str:
    listed = ", ".join(allowed)
    if not isinstance(value, str) or len(value) > LONGEST_KEY:
        return f"found {described(value)}; write one of {listed}"
    close = get_close_matches(value, allowed, n=1, cutoff=0.5)
    suggestion = f"did you mean {close[0]!r}?" if close else "write one of these"
    return f"{shorten(value)} is not one of {listed}; {suggestion}"
