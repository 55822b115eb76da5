"""What was stored must be what it was: everything wrong with a state is one clause with its place."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from compressm_cli.core import text
from compressm_cli.core.text import shorten

LARGEST = 2**31
"""Of a count: classes, tokens, features, steps of a sequence, states."""
LATEST = 2**53
"""Of a training step."""


class DamagedError(ValueError):
    """What is wrong with the content of a checkpoint, as one clause."""


def require(is_right: bool, where: str, wanted: str, value: object) -> None:
    """Raise DamagedError unless a value is right."""
    if not is_right:
        raise DamagedError(f"{where} must be {wanted}, found {described(value)}")


def described(value: object) -> str:
    """A value, in a few words."""
    if isinstance(value, Tensor):
        return (
            f"a tensor {str(value.dtype).removeprefix('torch.')} of the shape {shorten(tuple(value.shape))}"
        )
    return text.described(value)


def is_count(value: object, least: int = 0, most: int = LARGEST) -> bool:
    """Whether it is a whole number in these bounds."""
    return type(value) is int and least <= value <= most


def is_number(value: object) -> bool:
    """Whether it is a number, and a finite one as a float."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def is_amount(value: object) -> bool:
    """Whether it is a finite number that is not negative: seconds, joules, FLOPs."""
    return is_number(value) and value >= 0  # type: ignore[operator]


def part(content: Mapping[str, Any], key: str, kind: type, where: str = "") -> Any:
    """The value of a required key, of exactly this type."""
    place = f"{where}.{key}" if where else key
    if key not in content:
        raise DamagedError(f"{place} is missing")
    names = {
        dict: "a mapping",
        list: "a list",
        int: "a whole number",
        str: "text",
        Tensor: "a tensor",
        bool: "true or false",
    }
    value = content[key]
    require(type(value) is kind, place, names.get(kind, kind.__name__), value)
    return value


def mapping_of(
    content: Mapping[str, Any], key: str, is_right: Callable[[Any], bool], wanted: str, where: str = ""
) -> dict[str, Any]:
    """The value of a required key: a mapping of names to what is right."""
    value = part(content, key, dict, where)
    place = f"{where}.{key}" if where else key
    for name, item in value.items():
        require(
            type(name) is str and len(name) <= 200, f"{place}: a name", "text of at most 200 characters", name
        )
        require(is_right(item), f"{place}[{shorten(name)}]", wanted, item)
    return value
