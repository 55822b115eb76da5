"""Language modelling, byte by byte: the user's text, or the corpus that comes with the package."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.corpus import generated_text
from compressm_cli.data.encodings import Bytes, Encoding, Tokens
from compressm_cli.data.interface import Dataset, DataSpec, TaskConfig
from compressm_cli.data.tokens import BYTE_VOCABULARY
from compressm_cli.data.windows import NAMES, stretch_sizes, window_count, windows

Share = Annotated[float, Field(gt=0.0, lt=0.5)]

CORPUS_BYTES = 1_000_000
"""Of the embedded corpus, unless the recipe says otherwise."""
SUFFIXES = (".txt", ".text", ".md", ".rst", ".tex", ".org", ".html")
"""Of the files of a folder that are read."""
SEPARATOR = b"\n"
"""Between the files of a folder."""


class TextLm(TaskConfig):
    """``data: {task: text_lm}``: say the next byte at every step.

    Tokens are bytes plus one, since 0 is the padding, and so are the labels: 257 classes. The text is cut
    into three stretches, train, validation, test, and each of them into windows; what is left at the end
    of a stretch, less than a window, is not used.
    """

    own_objective: ClassVar[str] = "language"
    bytes_per_token: ClassVar[float | None] = 1.0

    task: Literal["text_lm"] = "text_lm"
    path: Annotated[str, Field(min_length=1)] | None = None
    """A file of any bytes, or a folder whose files .txt, .text, .md, .rst, .tex, .org and .html are read one after
    the other, in the order of their names. null is the embedded corpus, English-like text that a program writes."""
    max_bytes: Annotated[int, Field(ge=1, le=10_000_000_000)] | None = None
    """Bytes used, from the start of the text; null uses all, of the embedded corpus 1,000,000. It can be made longer,
    in about 0.2 seconds a megabyte."""
    length: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Steps of a sequence."""
    stride: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Bytes from one training window to the next; null is ``length``, with which each byte is a label once."""
    validation_share: Share = 0.05
    """Share of the text that is the validation stretch."""
    test_share: Share = 0.05
    """Share of the text that is the test stretch, its end."""

    @model_validator(mode="after")
    def _corpus_long_enough(self) -> "TextLm":
        if self.path is None and (problem := self._problem(self._corpus_size())):
            raise ValueError(problem)
        return self

    def load(self) -> Dataset:
        """Read or generate the text, and cut it.

        Raises BadInputError where nothing is at ``path``, nothing is in it, or it is too short.
        """
        text = generated_text(self._corpus_size()) if self.path is None else self._read()
        spec = self._spec(len(text))
        stretches = np.split(np.frombuffer(text, dtype=np.uint8), np.cumsum(self._sizes(len(text)))[:-1])
        strides = (self.stride or self.length, self.length, self.length)
        tokens = (torch.from_numpy(stretch.astype(np.int16)) + 1 for stretch in stretches)
        splits = (windows(s, self.length, stride) for s, stride in zip(tokens, strides, strict=True))
        return Dataset(spec, *splits, encoding=Encoding(inputs=Bytes(), outputs=Tokens()))

    def spec(self) -> DataSpec:
        """Known without the embedded corpus; a text of the user's is read."""
        return self._spec(self._corpus_size()) if self.path is None else super().spec()

    def _corpus_size(self) -> int:
        return self.max_bytes or CORPUS_BYTES

    def _sizes(self, size: int) -> tuple[int, int, int]:
        """Bytes of the three stretches."""
        return stretch_sizes(size, self.validation_share, self.test_share)

    def _problem(self, size: int) -> str | None:
        """Why a text of so many bytes cannot be cut; None where it can."""
        sizes = self._sizes(size)
        if min(sizes) > self.length:
            return None
        name = NAMES[sizes.index(min(sizes))]
        advice = f"write a length of at most {min(sizes) - 1}, " if min(sizes) > 1 else "write "
        longer = "a larger max_bytes" if self.path is None else "take a longer text"
        return (
            f"of {size:,} bytes, the {name} part is {min(sizes):,}, and a window of length {self.length} takes "
            f"{self.length + 1:,}; {advice}other shares, or {longer}"
        )

    def _spec(self, size: int) -> DataSpec:
        if problem := self._problem(size):
            raise BadInputError(f"{self.path}: {problem}")
        strides = (self.stride or self.length, self.length, self.length)
        train, validation, test = (
            window_count(part, self.length, stride)
            for part, stride in zip(self._sizes(size), strides, strict=True)
        )
        return DataSpec(
            classes=BYTE_VOCABULARY,
            length=self.length,
            vocabulary=BYTE_VOCABULARY,
            rows=(train, validation, test),
            per_step=True,
        )

    def _read(self) -> bytes:
        """The user's text."""
        assert self.path is not None, "only called with one"
        texts, missing = [], self.max_bytes
        for file in _files(Path(self.path)):
            try:
                with file.open("rb") as opened:
                    texts.append(opened.read(-1 if missing is None else missing))
            except OSError as error:
                raise BadInputError(
                    f"{file}: cannot be read ({error.strerror}); correct data.path"
                ) from error
            if missing is not None:
                missing = max(0, missing - len(texts[-1]) - len(SEPARATOR))
        if not any(texts):
            raise BadInputError(f"{self.path}: there is no text in it; put one there, or correct data.path")
        return SEPARATOR.join(texts)[: self.max_bytes]


def _files(path: Path) -> list[Path]:
    """The texts at ``path``, at least one, in order; hidden files and folders are left out."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadInputError(
            f"{path}: no such file or folder; correct data.path, or leave it out for the embedded corpus"
        )
    inside = ((file, file.relative_to(path)) for file in sorted(path.rglob("*")))
    files = [
        file
        for file, name in inside
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(p.startswith(".") for p in name.parts)
    ]
    if not files:
        raise BadInputError(
            f"{path}: no text in this folder; put files {', '.join('*' + s for s in SUFFIXES)} into it, "
            "or name one file, of any kind"
        )
    return files
