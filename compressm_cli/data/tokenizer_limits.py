"""What a tokenizer.json of a stranger must not ask for: room that its own size does not explain.

The library believes what such a file says of itself, and ends the process where the memory does not suffice.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

GROWTH = 1000
"""How many times longer all replacements together may make a text; those of models make one sign of one."""
ADDED = 1000
"""Signs that may be put before a text."""


def require_modest(text: str) -> None:
    """ValueError where the text of a tokenizer.json describes one that takes any amount of memory.

    Of what is no JSON the library tells.
    """
    found = _Sizes()
    try:
        json.loads(text, object_pairs_hook=found.add)
    except RecursionError:
        return
    except ValueError:
        if found.problem is not None:
            raise
        return
    if found.growth > GROWTH:
        raise ValueError(f"its replacements make a text up to {found.growth:.3g} times as long")


class _Sizes:
    """What the objects of a tokenizer.json ask for, also where they have a key twice."""

    def __init__(self) -> None:
        self.growth = 1.0
        self.problem: str | None = None

    def add(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        kind = found.get("type")
        if kind == "Replace":
            contents = [len(value) for key, value in pairs if key == "content" and isinstance(value, str)]
            self.growth = min(
                self.growth * max(1.0, max(contents, default=0) / _shortest(found.get("pattern"))), 1e300
            )
        if kind == "Prepend" and any(key == "prepend" and len(str(value)) > ADDED for key, value in pairs):
            self._refuse(f"it puts more than {ADDED:,} signs before each text")
        for key, value in pairs:
            if key == "precompiled_charsmap" and isinstance(value, str) and not _is_whole(value):
                self._refuse("its precompiled_charsmap is not as long as it says")
        return found

    def _refuse(self, problem: str) -> None:
        self.problem = problem
        raise ValueError(problem)


def _shortest(pattern: Any) -> int:
    """Signs of what is replaced, at least; of a regular expression one."""
    text = pattern.get("String") if isinstance(pattern, dict) else None
    return max(1, len(text)) if isinstance(text, str) else 1


def _is_whole(charsmap: str) -> bool:
    """Whether a table is as long as its first four bytes say; what is no base64 the library refuses."""
    try:
        content = base64.b64decode(charsmap, validate=True)
    except (binascii.Error, ValueError):
        return True
    return len(content) < 4 or int.from_bytes(content[:4], "little") <= len(content) - 4
