"""Lists of objects, and lines of objects, one a row; read as they stand, whatever other rows hold."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import described
from compressm_cli.data.sources.interface import BATCH, Cells, Source
from compressm_cli.data.sources.text import opened

BLANKS = " \t\r\n"
"""What JSON takes for nothing; Python knows more."""
A_LIST = 'a list of objects, [{"x": 1}, {"x": 2}]'


class JsonSource(Source):
    """A list of objects. A file of an object a line is taken too."""

    kind: ClassVar[str] = "json"

    @cached_property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(key for row in self._rows for key in row))

    def blocks(self, columns: Sequence[str]) -> Iterator[list[Cells]]:
        for first in range(0, len(self._rows), BATCH):
            rows = self._rows[first : first + BATCH]
            yield [[row.get(name) for row in rows] for name in columns]

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        with opened(self.file, self.kind) as lines:
            text = lines.read()
        return [
            self._row(number, value) for number, value in enumerate(self._values(text.strip(BLANKS)), start=1)
        ]

    def _values(self, text: str) -> Iterable[Any]:
        """What stands for the rows, of whatever kind."""
        if not text:
            return []
        if text.startswith("{") and self._is_by_lines(text):
            return self._lines(text)
        try:
            document = _parsed(text)
        except ValueError as error:
            if text.startswith("[") and "Extra data" in str(error):
                return self._lines(text)
            raise self._unreadable("", error) from error
        if not isinstance(document, list):
            raise BadInputError(f"{self.file}: {_other_document(document)}")
        return document

    def _is_by_lines(self, text: str) -> bool:
        """Whether a text that begins with an object is one of an object a line."""
        try:
            json.JSONDecoder().raw_decode(text.split("\n", 1)[0])
        except ValueError:
            return False
        return "\n" in text

    def _lines(self, text: str) -> Iterator[Any]:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip(BLANKS):
                try:
                    yield _parsed(line)
                except ValueError as error:
                    raise self._unreadable(f", line {number}", error) from error

    def _row(self, number: int, value: Any) -> dict[str, Any]:
        if not isinstance(value, _Object):
            raise BadInputError(
                f"{self.file}, row {number}: {described(value)}; write an object of names and values for each row, "
                'such as {"x": 1, "label": "a"} (of a pandas table: orient="records")'
            )
        if value.repeated is not None:
            raise BadInputError(
                f"{self.file}, row {number}: the key {value.repeated!r} occurs twice; write each once"
            )
        return value

    def _unreadable(self, where: str, error: ValueError) -> BadInputError:
        return BadInputError(
            f"{self.file}{where}: cannot be read as {self.kind}: {error}; correct or replace it"
        )


class JsonLinesSource(JsonSource):
    """An object a line. A list of objects is taken too."""

    kind = "jsonl"

    def _is_by_lines(self, text: str) -> bool:
        return super()._is_by_lines(text) or "\n" not in text


class _Object(dict[str, Any]):
    """An object of JSON, and which of its keys is there twice."""

    repeated: str | None = None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        found.repeated = next(key for key in keys if keys.count(key) > 1)
    return found


def _parsed(text: str) -> Any:
    """Of NaN and Infinity, which are no JSON, the cell is told where it is used."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("lists or objects within one another, too many") from error


def _other_document(document: Any) -> str:
    """What is told of a file that is no list."""
    if not isinstance(document, dict):
        return f"{described(document)}; write {A_LIST}"
    if len(lists := [key for key, value in document.items() if isinstance(value, list)]) == 1:
        return f"an object, with a list as {lists[0]!r}; write that list alone, {A_LIST}"
    if document and all(isinstance(value, dict | list) for value in document.values()):
        return f'columns one after the other; write {A_LIST} (of a pandas table: to_json(orient="records"))'
    return f"one object; write {A_LIST}, or an object a line as jsonl"
