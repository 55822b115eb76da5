"""Keys of a recipe, and the choices for their values, for whoever is typing ``a.b=...``.

Reads the recipe's JSON schema from the file that comes with the package: the models would need torch.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).with_name("recipe.schema.json")
"""What ``recipe_schema`` returns; ``python tests/test_recipes_doc.py`` writes it anew."""

END_OF_SENTENCE = re.compile(r"(?<=[a-z)])\. ")
NAME_OF_KIND = re.compile(r"^\w+: \{\w+: \w+\}[:;]? ?")
"""What the description of a kind begins with: how it is chosen."""

Rule = dict[str, Any]
Found = dict[str, str]
"""What may be written, and what it means, in one line."""


def complete_override(start: str, recipe: Mapping[str, Any]) -> Found:
    """How a change ``a.b=value`` that begins with ``start`` may go on, up to its next part.

    Keys end in ``.`` where they hold a mapping, and in ``=`` where they hold a value. Of settings that depend on
    a kind (``model.layer.kind``), those of the recipe's own are given, or of all kinds where it has none.
    """
    written, equals, value = start.partition("=")
    *parents, last = written.split(".")
    mappings = list(_mappings(schema(), parents, recipe))
    prefix = "".join(f"{key}." for key in parents)
    if equals:
        choices = {text: about for mapping in mappings for text, about in _choices(mapping, last)}
        return {f"{written}={text}": about for text, about in choices.items() if text.startswith(value)}
    rules = {key: rule for mapping in mappings for key, rule in _properties(mapping).items()}
    return {
        f"{prefix}{key}{'.' if _is_mapping(rule) else '='}": _about(rule)
        for key, rule in rules.items()
        if key.startswith(last)
    }


@cache
def schema() -> Rule:
    """The JSON schema (draft 2020-12) of a recipe."""
    found: Rule = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return found


def _mappings(rule: Rule, path: list[str], value: Any) -> Iterator[Rule]:
    """The rules for the mapping at ``path`` below a rule, whose value in the recipe is ``value``."""
    if not path:
        yield from _kinds(rule, value)
        return
    for mapping in _kinds(rule, value):
        if path[0] in _properties(mapping):
            inner = value.get(path[0]) if isinstance(value, Mapping) else None
            yield from _mappings(_properties(mapping)[path[0]], path[1:], inner)


def _kinds(rule: Rule, value: Any) -> Iterator[Rule]:
    """What a rule may stand for: itself, or that of its kinds which ``value`` is, or any of them."""
    if "$ref" in rule:
        yield from _kinds(_referred(rule["$ref"]), value)
    elif "discriminator" in rule:
        key, kinds = rule["discriminator"]["propertyName"], rule["discriminator"]["mapping"]
        kind = value.get(key) if isinstance(value, Mapping) else None
        chosen = [kinds[kind]] if isinstance(kind, str) and kind in kinds else kinds.values()
        for reference in chosen:
            yield {**_referred(reference), "kinds": kinds}
    elif "anyOf" in rule:
        for each in rule["anyOf"]:
            yield from _kinds(each, value)
    else:
        yield rule


def _properties(mapping: Rule) -> dict[str, Rule]:
    found: dict[str, Rule] = mapping.get("properties", {})
    return found


def _is_mapping(rule: Rule) -> bool:
    return any("properties" in each for each in _kinds(rule, None))


def _choices(mapping: Rule, key: str) -> Iterator[tuple[str, str]]:
    """The texts that ``key`` may be set to, where there are some to choose from."""
    rule = _properties(mapping).get(key)
    if rule is None:
        return
    if "const" in rule:
        for kind, reference in mapping.get("kinds", {rule["const"]: None}).items():
            about = _about(_referred(reference)) if reference else ""
            yield kind, NAME_OF_KIND.sub("", about)
        return
    default = rule.get("default")
    for each in _kinds(rule, None):
        values = each.get("enum", {"boolean": [True, False], "null": [None]}.get(each.get("type", ""), []))
        for value in values:
            yield _yaml(value), "the default" if "default" in rule and value == default else ""


def _referred(reference: str) -> Rule:
    found: Rule = schema()["$defs"][reference.rpartition("/")[2]]
    return found


def _yaml(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _about(rule: Rule) -> str:
    """The first sentence of what is said of a rule, and its default."""
    description = " ".join(rule.get("description", "").replace("``", "").split())
    sentence = END_OF_SENTENCE.split(description)[0].rstrip(".")
    default = None if "const" in rule else rule.get("default")
    shown = "" if default is None or isinstance(default, dict | list) else f" [{_yaml(default)}]"
    return f"{sentence}{shown}"
