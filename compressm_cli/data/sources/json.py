"""Lists of objects, and lines of objects, one a row; read as they stand, whatever other rows hold."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from io import StringIO
from itertools import islice
from typing import Any, ClassVar, TextIO

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import described
from compressm_cli.data.sources.interface import BATCH, CHARACTERS, Cells, Source
from compressm_cli.data.sources.text import opened

BLANKS = " \t\r\n"
"""What JSON takes for nothing; Python knows more."""
BLANK = re.compile(f"[{BLANKS}]*")
CHUNK = 2**18
"""Characters that are read at once."""
A_LIST = 'a list of objects, [{"x": 1}, {"x": 2}]'


class JsonSource(Source):
    """A list of objects. A file of an object a line is taken too."""

    kind: ClassVar[str] = "json"
    one_line_is_enough: ClassVar[bool] = False
    """Whether an object alone is a line of objects; else it may be a document of another kind."""

    @cached_property
    def columns(self) -> list[str]:
        # All rows are read for them, and nothing is kept; what is wrong anywhere is told before any cell is taken.
        with opened(self.file, self.kind) as stream:
            return list(dict.fromkeys(key for row in self._rows(_Text(stream)) for key in row))

    def blocks(self, columns: Sequence[str]) -> Iterator[list[Cells]]:
        with opened(self.file, self.kind) as stream:
            text, begun = _Text(stream), 0
            block: list[list[Any]] = []
            for row in self._rows(text):
                block.append([row.get(name) for name in columns])
                if len(block) == BATCH or text.used - begun > CHARACTERS:
                    yield list(zip(*block, strict=True))
                    block, begun = [], text.used
            if block:
                yield list(zip(*block, strict=True))

    def _rows(self, text: "_Text") -> Iterator[dict[str, Any]]:
        return (self._row(number, value) for number, value in enumerate(self._values(text), start=1))

    def _values(self, text: "_Text") -> Iterator[Any]:
        """What stands for the rows, of whatever kind."""
        first, count = text.sign(), 0
        if first == "{" and self._is_by_lines(text):
            yield from self._lines(text)
        elif first == "[":
            try:
                for value in text.elements():
                    if not isinstance(value, _Object):
                        raise ValueError("no list of objects")
                    yield value
                    count += 1
            except (ValueError, RecursionError):
                yield from islice(self._document(), count, None)
        elif first:
            yield from self._document()

    def _document(self) -> Iterable[Any]:
        """What stands for the rows where the text is read as a whole, to tell what is wrong with it."""
        with opened(self.file, self.kind) as stream:
            text = stream.read().strip(BLANKS)
        try:
            document = _parsed(text)
        except ValueError as error:
            if text.startswith("[") and "Extra data" in str(error):
                return self._lines(_Text(StringIO(text)))
            raise self._unreadable("", error) from error
        if not isinstance(document, list):
            raise BadInputError(f"{self.file}: {_other_document(document)}")
        return document

    def _is_by_lines(self, text: "_Text") -> bool:
        """Whether a text that begins with an object is one of an object a line."""
        line, is_last = text.line()
        if is_last:
            return self.one_line_is_enough
        try:
            DECODER.raw_decode(line)
        except (ValueError, RecursionError):
            return False
        return True

    def _lines(self, text: "_Text") -> Iterator[Any]:
        for number, line in text.lines():
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
    one_line_is_enough = True


class _Object(dict[str, Any]):
    """An object of JSON, and which of its keys is there twice."""

    repeated: str | None = None


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    found = _Object(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        found.repeated = next(key for key in keys if keys.count(key) > 1)
    return found


DECODER = json.JSONDecoder(object_pairs_hook=_object)


class _Text:
    """The text of a file, of which some is in memory at a time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text, self._place, self._before = "", 0, 0
        self._blank_lines = 0

    @property
    def used(self) -> int:
        """Characters that were taken."""
        return self._before + self._place

    def sign(self) -> str:
        """The next one that is no blank, which is left there; empty at the end."""
        while True:
            match = BLANK.match(self._text, self._place)
            assert match is not None, "it may be empty"
            self._blank_lines += match.group().count("\n")
            self._place = match.end()
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._more():
                return ""

    def line(self) -> tuple[str, bool]:
        """The rest of the line, which is left there, and whether nothing but blanks follows."""
        looked = 0
        while (end := self._text.find("\n", self._place + looked)) < 0:
            looked = len(self._text) - self._place
            if not self._more():
                return self._text[self._place :], True
        while not self._text[end:].strip(BLANKS):
            end -= self._place
            if not self._more():
                return self._text[self._place : self._place + end], True
            end += self._place
        return self._text[self._place : end], False

    def lines(self) -> Iterator[tuple[int, str]]:
        """The lines that follow, with their numbers, without their ends; before them there are blanks alone."""
        number = self._blank_lines + 1
        while True:
            end = self._text.find("\n", self._place)
            if end < 0 and self._more():
                continue
            line = self._text[self._place : end if end >= 0 else None]
            self._place = len(self._text) if end < 0 else end + 1
            yield number, line
            if end < 0:
                return
            number += 1

    def elements(self) -> Iterator[Any]:
        """The values of the list that begins here; ValueError where it is damaged, or anything follows it."""
        self._place += 1
        if self.sign() != "]":
            yield self._element()
            while self.sign() == ",":
                self._place += 1
                self.sign()
                yield self._element()
        if self.sign() != "]":
            raise ValueError("no list")
        self._place += 1
        if self.sign():
            raise ValueError("more than a list")

    def _element(self) -> Any:
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._place)
            except ValueError:
                if not self._more():
                    raise
                continue
            length = end - self._place
            if end < len(self._text) or not self._more():  # else a number may go on
                self._place += length
                return value

    def _more(self) -> bool:
        """Whether there is more, of which as much is read as is not used yet, at least."""
        read = self._stream.read(max(CHUNK, len(self._text) - self._place))
        self._before += self._place
        self._text, self._place = self._text[self._place :] + read, 0
        return bool(read)


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
