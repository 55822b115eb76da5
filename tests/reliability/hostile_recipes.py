# ruff: noqa: E501
"""Recipes as nobody should write them: shipped ones, mutated as values, as text, and as bytes."""

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

import yaml

from compressm_cli.recipe.shipped import shipped_recipes

TINY = """\
name: tiny
device: cpu
data: {task: digits}
model: {layer: {kind: lru, state_dim: 4}, model_dim: 4}
train: {steps: 2, batch_size: 8}
compression: {method: hankel, keep_fraction: 0.5, schedule: {kind: listed, at_steps: [1]}}
"""

WORDS = [
    "", " ", "x", "latest", "v0001", "..", "../../x", "/etc/passwd", "~", "a/b", "a\\b", "CON", "NaN", "null", "-1",
    "\x00", "a\x00b", "\x1b[31mred\x1b[0m", "\x07\x08", "\u202egpj.exe", "\u2066x\u2069", "\ud800", "\U0001f600",
    "[bold red]x[/]", "[/]", "<script>alert(1)</script>", "{{7*7}}", "$(touch was-run)", "`touch was-run`", "%s%n",
    "é" * 300, "a" * 5000, "new\nline", "tab\t", "\u2028", "__import__('os').system('touch was-run')", "\xa0", "\ufeff",
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2, 3, 2**31, 2**31 - 1, 2**53, 2**63, 2**64, 10**18, 10**30, 10**90, -(10**90), 0.5, -0.5, 1e-300, 1e300,
    float("inf"), float("-inf"), float("nan"), 65536, 65537, 256, 257, 1.0, 1e-9,
]  # fmt: skip
OTHERS = [None, True, False, [], {}, [[]], {"a": 1}, [1, 2], ["x"], {"": ""}, [None], b"bytes", {1: 2}]

FEATURES = [
    "a: &x [1]\nb: *x", "&a [*a]", "&a {k: *a}", "!!python/object/apply:os.system ['touch was-run']",
    "!!python/name:os.system", "!!python/object/new:subprocess.Popen [['touch','was-run']]", "!include /etc/passwd",
    "!!binary aGk=", "<<: *base", "<<: {a: 1}", "---\na: 1\n---\nb: 2", "%YAML 1.1\n---\na: 1", "%YAML 9999999999.1\n---",
    "%YAML " + "9" * 5000 + ".1\n---", "%TAG ! tag:x,2000:\n---\n!foo a", "? [a, b]\n: c", "? {a: b}\n: c", "? |\n x\n: y",
    "[" * 60, "[" * 5000, "{a: " * 60, "{a: " * 3000, "- " * 300, "a: " * 100, '"\\U00110000"', '"\\ud800"', '"\\x1b[2J"',
    '"\\0"', "'unclosed", '"unclosed', "|\n  text", ">-\n  text", "\t- x", "*", "&", "!", "@", "`", "%", "a: b: c", "}", "]",
    "0x" + "f" * 90, "0o777", "1_000", "1e999999", "9" * 99, "9" * 5000, ".inf", "12:30:45", "2001-01-01", "=", "# only",
    "\ufeff", "\x85", "\u2028", "key: [1, 2", "key: {a: 1", "\r\n\r", "...", "--- |",
]  # fmt: skip
OVERRIDES = [
    "train.steps=0", "train.steps=1e18", "name=../x", "name=latest", "name=v0001", "output.root=\x1b[31m", "=", "a", "a=",
    "train=1", "train.steps.x=1", "model.layer=[", "model.layer=*a", "model.layer=&a {k: *a}", "seeds=[0,0]", "x" * 3000 + "=1",
    "a." * 3000 + "b=1", "name=" + "n" * 5000, "data.task=\x00", "train.steps=" + "9" * 4000, "__class__.x=1",
    "compression.schedule={kind: adaptive, every: 1}", "train.steps=9007199254740992", "compression=!!python/name:os.system",
    "model.model_dim=65536", "model.depth=256", "seeds=" + str(list(range(3000))), "name=\u202egpj", "output.root=\ud800",
    "model.layer.state_dim=" + str([4] * 20000), "name={", "train.batch_size=10000000000000", "\x1b[31m=1", "\n=\n",
]  # fmt: skip

Mutation = Callable[[Random, dict[str, Any]], Any]


def mutated(chance: Random) -> tuple[str, bytes, list[str]]:
    """A kind, a recipe's bytes, and overrides for the command line; some are still valid."""
    texts = [TINY, TINY, *(path.read_text(encoding="utf-8") for path in shipped_recipes().values())]
    text = chance.choice(texts)
    kind = chance.choice(list(KINDS))
    if kind in VALUES:
        value = copy.deepcopy(yaml.safe_load(text))
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            value = VALUES[kind](chance, value) if isinstance(value, dict) else value
        return kind, _dumped(chance, value), []
    if kind == "override":
        return kind, text.encode(), [chance.choice(OVERRIDES) for _ in range(chance.choice([1, 1, 2]))]
    return kind, TEXTS[kind](chance, text), []


def _dumped(chance: Random, value: Any) -> bytes:
    if chance.random() < 0.2:
        try:
            return json.dumps(value).encode("utf-8", "surrogatepass")
        except (TypeError, ValueError):
            pass
    return yaml.safe_dump(value, sort_keys=False).encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a value."""
    keys = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


def _place(chance: Random, value: Any) -> tuple[Any, Any]:
    return chance.choice(_places(value) or [({"a": 1}, "a")])


def _mappings(value: dict[str, Any]) -> list[dict[str, Any]]:
    return [value, *(c[k] for c, k in _places(value) if isinstance(c[k], dict))]


def _deleted(chance: Random, value: dict[str, Any]) -> Any:
    container, key = _place(chance, value)
    del container[key]
    return value


def _renamed(chance: Random, value: dict[str, Any]) -> Any:
    mapping = chance.choice(_mappings(value)) or {"a": 1}
    key = chance.choice(list(mapping) or ["a"])
    mapping[chance.choice([*WORDS, str(key)[1:], f"{key}s", str(key).upper()])] = mapping.pop(key, None)
    return value


def _nested(chance: Random, value: dict[str, Any]) -> Any:
    container, key = _place(chance, value)
    for _ in range(chance.choice([1, 2, 60])):
        container[key] = chance.choice([[container[key]], {str(key): container[key]}])
    return value


def _replaced(pool: list[Any]) -> Mutation:
    def change(chance: Random, value: dict[str, Any]) -> Any:
        container, key = _place(chance, value)
        container[key] = copy.deepcopy(chance.choice(pool))
        return value

    return change


def _numbers(chance: Random, value: dict[str, Any]) -> Any:
    """An extreme number where a number stands."""
    places = [(c, k) for c, k in _places(value) if type(c[k]) in (int, float)] or [({"a": 1}, "a")]
    container, key = chance.choice(places)
    container[key] = chance.choice(NUMBERS)
    return value


def _moved(chance: Random, value: dict[str, Any]) -> Any:
    container, key = _place(chance, value)
    moved = copy.deepcopy(container[key])
    chance.choice(_mappings(value))[chance.choice([str(key), "data", "model", "seeds"])] = moved
    return value


def _many(chance: Random, value: dict[str, Any]) -> Any:
    count = chance.choice([300, 1000])
    container, key = _place(chance, value)
    rows = {f"k{i}": i for i in range(count)}
    container[key] = chance.choice([list(range(count)), [4] * count, rows, "x" * 10 * count])
    if chance.random() < 0.3:
        chance.choice(_mappings(value)).update(rows)
    return value


def _flipped(chance: Random, text: str) -> bytes:
    data = bytearray(text.encode())
    for _ in range(chance.choice([1, 3, 20])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _truncated(chance: Random, text: str) -> bytes:
    return text.encode()[: chance.randrange(len(text))]


def _line_twice(chance: Random, text: str) -> bytes:
    lines = text.splitlines()
    lines.insert(chance.randrange(len(lines)), chance.choice(lines))
    return "\n".join(lines).encode()


def _feature(chance: Random, text: str) -> bytes:
    lines = text.splitlines()
    place, piece = chance.randrange(len(lines) + 1), chance.choice(FEATURES)
    if chance.random() < 0.5 and lines[place - 1].count(":"):
        lines[place - 1] = f"{lines[place - 1].partition(':')[0]}: {piece}"
    else:
        lines.insert(place, piece)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _spliced(chance: Random, text: str) -> bytes:
    start = chance.randrange(len(text))
    piece = chance.choice([*WORDS, *FEATURES])
    return f"{text[:start]}{piece}{text[start + chance.randrange(10) :]}".encode("utf-8", "surrogatepass")


def _raw(chance: Random, text: str) -> bytes:
    return chance.choice(
        [
            b"",
            b"\x00" * 50,
            b"\xff\xfe" + text.encode("utf-16-le"),
            bytes(chance.randrange(256) for _ in range(300)),
            b"\xed\xa0\x80: 1",
            b"PK\x03\x04",
            text.encode() + b"\xff",
            b"\xef\xbb\xbf" + text.encode(),
            b"#" * 1_100_000,
        ]
    )


VALUES: dict[str, Mutation] = {
    "deleted": _deleted,
    "renamed": _renamed,
    "nested": _nested,
    "moved": _moved,
    "other word": _replaced(WORDS),
    "other number": _numbers,
    "other type": _replaced([*OTHERS, *NUMBERS, *WORDS]),
    "many": _many,
}
TEXTS: dict[str, Callable[[Random, str], bytes]] = {
    "flipped": _flipped,
    "truncated": _truncated,
    "line twice": _line_twice,
    "yaml feature": _feature,
    "spliced": _spliced,
    "raw": _raw,
}
KINDS = (*VALUES, *TEXTS, "override")
