"""YAML text to values that remember where they stand, and back.

The dialect is the core schema of YAML 1.2, so ``1e-3`` is a number and ``no`` is text. Duplicate
keys are errors; tags, aliases and merge keys are refused; size and depth are bounded.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from compressm_cli.core.text import described, is_control
from compressm_cli.recipe.problems import KeyPath, Place, Problem, RecipeError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NUMBER = 100
"""Longer runs of digits are text: no quantity needs them, and Python limits their conversion."""

INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
CONSTANTS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

Scalar = str | int | float | bool | None

HINTS = (
    ("'\\t'", "a tab stands where an indentation or a value begins; write spaces"),
    (
        "mapping values are not allowed",
        "a ':' too many, or wrong indentation; put quotes around text with ': '",
    ),
    ("could not find expected ':'", "a line without ':'; write 'key: value'"),
    ("found undefined tag handle", "tags ('!...') are not allowed; write the plain value"),
    ("expected alphabetic or numeric", "'&' and '*' start anchors and aliases; put quotes around the text"),
    ("found unexpected end of stream", "a quoted text does not end; write the closing quote"),
    ("expected ',' or ']'", "a list does not end; write '[a, b]'"),
    ("expected ',' or '}'", "a mapping does not end; write '{a: 1, b: 2}'"),
    ("expected <block end>", "wrong indentation; align the key with those above it"),
    ("cannot start any token", "a character that cannot start a value; put quotes around the text"),
)


@dataclass
class Node:
    """One value of a document: a scalar, a mapping by key, or a list, with its place."""

    value: "Scalar | dict[str, Node] | list[Node]"
    place: Place
    key_place: Place | None = None
    """Where the key stands whose value this is; None for items of a list and for the whole."""

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def child(self, key: str | int) -> "Node | None":
        """The value of a key, or the item at an index."""
        if isinstance(self.value, dict) and isinstance(key, str):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and 0 <= key < len(self.value):
            return self.value[key]
        return None

    def closest(self, path: KeyPath) -> "Node":
        """The node at ``path``, or the last one that exists on the way to it."""
        node = self
        for key in path:
            following = node.child(key)
            if following is None:
                break
            node = following
        return node


def parse_yaml(
    text: str, at: Callable[[int, int], Place], loader: Any = yaml.SafeLoader
) -> tuple[Node | None, list[Problem]]:
    """One document -> its root (None where the text is empty) and the errors that leave it readable.

    ``at`` makes a place of a line and a column, both from 1; ``loader`` is PyYAML's that reads the events. Raises
    RecipeError where the text is no YAML, or of a kind that is refused.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(
            [Problem(at(1, 1), (), f"longer than {MAX_BYTES} characters; this is not a recipe")]
        )
    builder = _Builder(text, at, loader)
    try:
        return builder.document(), builder.problems
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = at(mark.line + 1, mark.column + 1) if mark else at(1, 1)
        problem = Problem(place, (), _syntax_message(error))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = at(before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1)
        problem = Problem(place, (), f"the character {text[error.position]!a} is not allowed; remove it")
    except (ValueError, OverflowError):  # numbers of directives and escapes, which PyYAML does not check
        problem = Problem(
            builder.last, (), "not valid YAML: a number in an escape or directive is out of range"
        )
    raise RecipeError([*builder.problems, problem])


def plain_yaml(text: str) -> Any:
    """The values of a document without their places, some times as fast; RecipeError where there is any error in it."""
    root, problems = parse_yaml(text, _line, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if problems:
        raise RecipeError(problems)
    return None if root is None else root.plain()


def _line(line: int, column: int) -> Place:
    return Place(f"line {line}")


def _syntax_message(error: yaml.MarkedYAMLError) -> str:
    technical = ", ".join(part for part in (error.context, error.problem) if part)
    for sign, hint in HINTS:
        if sign in technical:
            return f"not valid YAML: {hint}"
    return f"not valid YAML: {technical}; check the indentation and the quotes"


class _Builder:
    """Builds nodes from the parser's events."""

    def __init__(self, text: str, at: Callable[[int, int], Place], loader: Any) -> None:
        self.events: Iterator[yaml.Event] = yaml.parse(text, Loader=loader)
        self.at = at
        self.last = at(1, 1)
        """Where the last event stood that was read."""
        self.problems: list[Problem] = []

    def document(self) -> Node | None:
        root: Node | None = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(
                        event, (), "a second document starts; write one recipe a file, without '---'"
                    )
                root = self._node(next(self.events), ())
        return root

    def _place(self, event: yaml.Event) -> Place:
        mark: Any = event.start_mark  # always there in events of a parser
        self.last = self.at(mark.line + 1, mark.column + 1)
        return self.last

    def _refuse(self, event: yaml.Event, path: KeyPath, message: str) -> NoReturn:
        raise RecipeError([*self.problems, Problem(self._place(event), path, message)])

    def _node(self, event: yaml.Event, path: KeyPath) -> Node:
        place = self._place(event)
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, path, f"aliases (*{event.anchor}) are not allowed; write the value out")
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag is not None:
            self.problems.append(
                Problem(place, path, f"tags ({event.tag}) are not allowed; write the plain value")
            )
        if isinstance(event, yaml.ScalarEvent):
            quoted = bool(event.style)
            return Node(event.value if quoted else scalar(event.value), place)
        if len(path) >= MAX_DEPTH:
            self._refuse(event, path[:3], f"nested deeper than {MAX_DEPTH} levels; a recipe needs about four")
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._items(path), place)
        return Node(self._entries(path), place)

    def _items(self, path: KeyPath) -> list[Node]:
        items: list[Node] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return items

    def _entries(self, path: KeyPath) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self._refuse(event, path, "a key that is not text; write 'key: value'")
            key, key_place = event.value, self._place(event)
            value = self._node(next(self.events), (*path, key))
            value.key_place = key_place
            if key in entries:
                first = entries[key].key_place
                line = f" (first in line {first.line})" if first and first.line else ""
                self.problems.append(
                    Problem(key_place, (*path, key), f"duplicate key{line}; remove one of the two")
                )
            else:
                entries[key] = value
        return entries


def scalar(text: str) -> Scalar:
    """The value of an unquoted scalar, by the core schema of YAML 1.2."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if len(text) > MAX_NUMBER:
        return text
    if INTEGER.fullmatch(text):
        base = {"0o": 8, "0x": 16}.get(text[:2], 10)
        return int(text[2:], base) if base != 10 else int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    if INFINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def from_plain(value: Any, place: Place, path: KeyPath = ()) -> Node:
    """Plain data as nodes that all stand at one place; RecipeError for keys that are not text."""
    if len(path) > MAX_DEPTH:
        raise RecipeError([Problem(place, path[:3], f"nested deeper than {MAX_DEPTH} levels")])
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise RecipeError([Problem(place, path, f"found {described(key)} as a key; write text")])
        return Node({key: from_plain(item, place, (*path, key)) for key, item in value.items()}, place, place)
    if isinstance(value, (list, tuple)):
        return Node([from_plain(item, place, (*path, i)) for i, item in enumerate(value)], place, place)
    return Node(value, place, place)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either dialect of YAML, 1.1 or 1.2, would read as something else."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes escape what is not printable; other styles lose a next-line character.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(f"^(?:{INTEGER.pattern})$"), list("-+0123456789")
)
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(f"^(?:{FLOAT.pattern})$"), list("-+.0123456789")
)


def dump_yaml(value: Any) -> str:
    """Plain data as YAML that ``parse_yaml`` reads back to the same; of printable characters only."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
    # PyYAML lets some through, as those that turn the direction of writing: in double quotes, so escapes will do.
    return "".join(f"\\U{ord(sign):08X}" if sign != "\n" and is_control(sign) else sign for sign in text)
