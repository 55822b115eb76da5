"""Language modelling, byte by byte: the user's text, or the corpus that comes with the package."""

import zlib
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.corpus import generated_text
from compressm_cli.data.encodings import Bytes, Encoding, Tokens
from compressm_cli.data.interface import SPLITS, Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.patterns import files_of, is_pattern, require_apart
from compressm_cli.data.report import Report, SplitReport
from compressm_cli.data.sources.folders import is_hidden
from compressm_cli.data.sources.packed import opened, suffix_of
from compressm_cli.data.sources.text import not_utf8
from compressm_cli.data.sources.texts import TEXT_SUFFIXES
from compressm_cli.data.tokens import BYTE_VOCABULARY
from compressm_cli.data.windows import NAMES, Stretch, cut, shortest, stretch_sizes, window_count, windows

Place = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0.0, lt=0.5)]

CORPUS_BYTES = 1_000_000
"""Of the embedded corpus, unless the recipe says otherwise."""
SEPARATOR = b"\n"
"""Between the files of a folder."""


class TextLm(TaskConfig):
    """``data: {task: text_lm}``: say the next byte at every step.

    Tokens are bytes plus one, since 0 is the padding, and so are the labels: 257 classes. The text is cut
    into three stretches, train, validation, test, where the last two have no texts of their own, and each of them into
    windows; what is left at the end of a stretch, less than a window, is not used. Bytes that are not UTF-8 are learned
    as they stand, and told of. For the tokens of a tokenizer there
    is the task ``tokens``.
    """

    paths: ClassVar[tuple[str, ...]] = ("path", "validation", "test")
    own_objective: ClassVar[str] = "language"
    bytes_per_token: ClassVar[float | None] = 1.0

    task: Literal["text_lm"] = "text_lm"
    path: Place | None = None
    """A file of any bytes, a pattern such as ``part-*.txt``, whose files are read one after the other in the order of
    the numbers in their names, or a folder, whose files .txt, .text, .md, .rst, .tex, .org and .html are read in the
    order of their names; also where they are packed as .gz. null is the embedded corpus, English-like text that a
    program writes."""
    validation: Place | None = None
    """The same of the validation stretch, all of it; null takes its share of ``path``."""
    test: Place | None = None
    """The same of the test stretch, all of it; null takes its share of ``path``."""
    max_bytes: Annotated[int, Field(ge=1, le=10_000_000_000)] | None = None
    """Bytes used, from the start of the text; null uses all, of the embedded corpus 1,000,000. It can be made longer,
    in about 0.2 seconds a megabyte."""
    length: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Steps of a sequence."""
    stride: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Bytes from one training window to the next; null is ``length``, with which each byte is a label once."""
    validation_share: Share = 0.05
    """Share of the text that is the validation stretch, where it has no text of its own."""
    test_share: Share = 0.05
    """Share of the text that is the test stretch, its end, where it has no text of its own."""

    @model_validator(mode="after")
    def _corpus_long_enough(self) -> "TextLm":
        if self.path is not None:
            return self
        given = [key for key in ("validation", "test") if getattr(self, key) is not None]
        if given:
            raise ValueError(f"{' and '.join(given)}: only with path; the embedded corpus is cut into shares")
        if problem := self._problem(self._sizes(self._corpus_size()), self._corpus_size()):
            raise ValueError(problem)
        return self

    def load(self) -> Dataset:
        """Read or generate the text, and cut it.

        Raises BadInputError where nothing is at ``path``, nothing is in it, or it is too short.
        """
        parts, warnings = self._stretches()
        short = shortest(parts)
        sizes = (len(parts[0].tokens), len(parts[1].tokens), len(parts[2].tokens))
        if problem := self._problem(sizes, short.total):
            raise BadInputError(f"{short.place}: {problem}")
        splits = (
            self._windows(part.tokens, stride) for part, stride in zip(parts, self._strides, strict=True)
        )
        encoding, spec = Encoding(inputs=Bytes(), outputs=Tokens()), self._spec(sizes)
        return Dataset(spec, *splits, encoding=encoding, report=_report(spec, warnings) if warnings else None)

    def described(self) -> tuple[DataSpec, Report | None]:
        """Of a text of the user's, which is read, also what is odd in it."""
        return (self.spec(), None) if self.path is None else (self.dataset().spec, self.dataset().report)

    def encoded_split(self, name: str, encoding: Encoding) -> Split | None:
        """Of a split with a text of its own."""
        place = {"validation": self.validation, "test": self.test}.get(name)
        if place is None or not isinstance(encoding.inputs, Bytes):
            return None
        text = _numbers(_read(_files(place, name), place, name, None, []))
        if problem := self._problem((len(text),) * 3, len(text), name):
            raise BadInputError(f"{place}: {problem}")
        return self._windows(text, self.length)

    def _windows(self, text: np.ndarray, stride: int) -> Split:
        return windows(torch.from_numpy(text.astype(np.int16)) + 1, self.length, stride)

    def spec(self) -> DataSpec:
        """Known without the embedded corpus; a text of the user's is read."""
        return self._spec(self._sizes(self._corpus_size())) if self.path is None else super().spec()

    def sources(self) -> dict[str, list[Path]]:
        return {key: _files(place, key) for key, place in self.places().items()}

    @property
    def _strides(self) -> tuple[int, int, int]:
        return self.stride or self.length, self.length, self.length

    def _stretches(self) -> tuple[tuple[Stretch, Stretch, Stretch], list[str]]:
        """The stretches, and what is odd in the texts that they are of."""
        odd: list[str] = []
        if self.path is None:
            read = {"path": ("the embedded corpus", _numbers(generated_text(self._corpus_size())))}
        else:
            files, places = self.sources(), self.places()
            require_apart(files)
            most = {"path": self.max_bytes}
            read = {
                key: (places[key], _numbers(_read(found, places[key], key, most.get(key), odd)))
                for key, found in files.items()
            }
        parts = cut(
            read["path"],
            (read.get("validation"), self.validation_share),
            (read.get("test"), self.test_share),
        )
        return parts, odd

    def _corpus_size(self) -> int:
        return self.max_bytes or CORPUS_BYTES

    def _sizes(self, size: int) -> tuple[int, int, int]:
        """Bytes of the three stretches."""
        return stretch_sizes(size, self.validation_share, self.test_share)

    def _problem(self, sizes: tuple[int, int, int], total: int, name: str | None = None) -> str | None:
        """Why stretches of so many bytes, the shortest of a text of ``total``, are no use; None where they are."""
        if min(sizes) > self.length:
            return None
        name = name or NAMES[sizes.index(min(sizes))]
        advice = f"write a length of at most {min(sizes) - 1}, " if min(sizes) > 1 else "write "
        longer = "a larger max_bytes" if self.path is None else "take a longer text"
        return (
            f"of {total:,} bytes, the {name} part is {min(sizes):,}, and a window of length {self.length} takes "
            f"{self.length + 1:,}; {advice}other shares, or {longer}"
        )

    def _spec(self, sizes: tuple[int, int, int]) -> DataSpec:
        train, validation, test = (
            window_count(part, self.length, stride) for part, stride in zip(sizes, self._strides, strict=True)
        )
        return DataSpec(
            classes=BYTE_VOCABULARY,
            length=self.length,
            vocabulary=BYTE_VOCABULARY,
            rows=(train, validation, test),
            per_step=True,
            mask=Bytes().mask,
        )


def _numbers(text: bytes) -> np.ndarray:
    return np.frombuffer(text, dtype=np.uint8)


def _report(spec: DataSpec, warnings: list[str]) -> Report:
    splits = {
        key: SplitReport(rows, None, (spec.length,) * 3) for key, rows in zip(SPLITS, spec.rows, strict=True)
    }
    return Report(splits, f"one of {BYTE_VOCABULARY} tokens", [], warnings=warnings)


def _read(files: list[Path], place: str, key: str, most: int | None, odd: list[str]) -> bytes:
    """The texts of some files, at most so many bytes; of the first that is not UTF-8 a line is added to ``odd``."""
    texts, missing = [], most
    for file in files:
        try:
            with opened(file) as content:
                texts.append(content.read(-1 if missing is None else missing))
        except (OSError, EOFError, zlib.error) as error:
            told = getattr(error, "strerror", None) or error
            raise BadInputError(f"{file}: cannot be read ({told}); correct data.{key}") from error
        if (position := not_utf8(texts[-1])) is not None and not odd:
            odd.append(
                f"{file}: the byte {texts[-1][position]:#04x} at position {position + 1:,} is not UTF-8; bytes are "
                "learned as they stand, and written as U+FFFD where they are no text: save it as UTF-8 if it is one"
            )
        if missing is not None:
            missing = max(0, missing - len(texts[-1]) - len(SEPARATOR))
    if not any(texts):
        raise BadInputError(f"{place}: there is no text in it; put one there, or correct data.{key}")
    return SEPARATOR.join(texts)[:most]


def _files(place: str, key: str) -> list[Path]:
    """The texts at ``place``, at least one, in order; what is hidden in a folder, or left there by a system, is not."""
    path = Path(place)
    if not path.is_dir():
        if not path.exists() and not is_pattern(place):
            raise BadInputError(
                f"{path}: no such file or folder; correct data.{key}, or leave it out for the embedded corpus"
            )
        return files_of(place, "text")
    inside = ((file, file.relative_to(path)) for file in sorted(path.rglob("*")))
    files = [
        file
        for file, name in inside
        if suffix_of(file) in TEXT_SUFFIXES and file.is_file() and not any(map(is_hidden, name.parts))
    ]
    if not files:
        raise BadInputError(
            f"{path}: no text in this folder; put files {', '.join('*' + s for s in TEXT_SUFFIXES)} into it, "
            "or name one file, of any kind"
        )
    return files
