"""Which runs of a listing are meant, and in which order: conditions on their entries, keys to sort by."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import shorten
from compressm_cli.recipe.yaml_text import scalar
from compressm_cli.reports.listing import MISSING, Entry

CONDITION = re.compile(r"\s*(?P<key>[^\s=!<>~]+)\s*(?P<sign>!=|<=|>=|=|<|>|~)\s*(?P<text>.*?)\s*", re.DOTALL)
LONGEST_KEY = 500
QUOTES = "\"'"


@dataclass(frozen=True)
class Condition:
    """``key op value``; to a run without such an entry it is null, which has no order and matches no expression."""

    text: str
    key: str
    sign: str
    value: Any
    pattern: re.Pattern[str] | None = None

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """BadInputError where it is none."""
        found = CONDITION.fullmatch(text)
        if found is None or found["text"].startswith("="):
            raise BadInputError(
                f"--where {text}: not a condition; write KEY=VALUE, or another of !=, <, <=, >, >=, ~ between them, "
                "such as train.learning_rate>=0.004"
            )
        key, sign, told = found["key"], found["sign"], found["text"]
        if len(key) > LONGEST_KEY:
            raise BadInputError(f"--where {shorten(text)}: no run has an entry with so long a name")
        if sign == "~":
            try:
                return cls(text, key, sign, told, re.compile(told))
            except re.error as error:
                raise BadInputError(f"--where {text}: not a regular expression: {error}") from None
        quoted = len(told) > 1 and told[0] == told[-1] and told[0] in QUOTES
        value = told[1:-1] if quoted else scalar(told)
        if value != value or (sign not in ("=", "!=") and not isinstance(value, (int, float, str))):
            raise BadInputError(f"--where {text}: {told or 'nothing'} has no order; write a number or text")
        return cls(text, key, sign, value)

    def is_met(self, run: Entry) -> bool:
        """Whether a run is meant; BadInputError where its entry and the value have no common order."""
        found = run.value(self.key)
        found = None if found is MISSING else found
        if self.pattern is not None:
            return found is not None and self.pattern.search(shown(found)) is not None
        if self.sign in ("=", "!="):
            return (self.sign == "=") == self._is_equal(found)
        if found is None:
            return False
        if _is_number(found) != _is_number(self.value) or isinstance(found, (list, dict, bool)):
            raise BadInputError(
                f"--where {self.text}: {self.key} is {shown(found)!r} in {run.folder}, which has no order with "
                f"{self.value!r}; compare it with = or ~, or put a text in quotes"
            )
        less, equal = found < self.value, found == self.value
        return {"<": less, "<=": less or equal, ">": not less and not equal, ">=": not less}[self.sign]

    def _is_equal(self, found: Any) -> bool:
        if _is_number(found) and _is_number(self.value):
            return bool(found == self.value)
        if type(found) is type(self.value):
            return bool(found == self.value)
        # Lists and mappings as a recipe writes them; what a shell left of quotes around a number.
        return isinstance(self.value, str) and not isinstance(found, bool) and shown(found) == self.value


def chosen(runs: Sequence[Entry], conditions: Sequence[Condition]) -> list[Entry]:
    """Those that meet all; BadInputError for a key that no run has."""
    for condition in conditions:
        require_known(f"--where {condition.text}", condition.key, runs)
    return [run for run in runs if all(condition.is_met(run) for condition in conditions)]


def ordered(runs: Sequence[Entry], key: str) -> list[Entry]:
    """By an entry, ascending, or with a minus before it descending; those that have none come last.

    Numbers come before text. BadInputError for a key that no run has.
    """
    falls, name = key.startswith("-"), key.removeprefix("-")
    require_known(f"--sort {key}", name, runs)
    values = [(run, run.value(name)) for run in runs]
    known = [(run, value) for run, value in values if value is not MISSING and value is not None]
    numbers = [pair for pair in known if _is_number(pair[1])]
    texts = [pair for pair in known if not _is_number(pair[1])]
    numbers.sort(key=lambda pair: pair[1], reverse=falls)
    texts.sort(key=lambda pair: shown(pair[1]), reverse=falls)
    there = texts + numbers if falls else numbers + texts
    return [run for run, _ in there] + [run for run, value in values if value is MISSING or value is None]


def require_known(where: str, key: str, runs: Sequence[Entry]) -> None:
    """BadInputError where no run has an entry, with what it may have been meant for."""
    if not runs or any(run.value(key) is not MISSING for run in runs):
        return
    known = {name: None for run in runs for name in run.all_keys()}
    close = get_close_matches(key, known, n=3, cutoff=0.5) or [n for n in known if n.endswith(f".{key}")][:3]
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise BadInputError(f"{where}: no run has an entry {key!r}{hint}")


def shown(value: Any) -> str:
    """An entry in one line: as a recipe would write it."""
    if value is None or value is MISSING:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {shown(one)}' for name, one in value.items())}}}"
    return str(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)
