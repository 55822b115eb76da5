"""Standard output and standard error of a command: nothing that happens to them ends it.

A run must not be lost because nobody can read its progress: a terminal goes away, a disk behind ``> file`` is full, a
pipe is closed, or there is no stream at all. What cannot be shown is dropped. That of standard output is told when the
command has done everything else; its exit code says so, too.

No encoding is too small: what a stream cannot hold is written in other characters, and where there are none as an
escape.
"""

import codecs
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

REPLACEMENTS = {
    "±": "+/-",
    "→": "->",
    "µ": "u",
    "×": "x",
    "…": "...",
    "│": "|",
    "─": "-",
    "•": "*",
    "✓": "yes",
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
}
"""What stands for characters of ours where the encoding lacks them; a chart keeps its columns."""


def shown_in(text: str, encoding: str) -> str:
    """The text with characters of ours replaced that an encoding lacks; others are left to the stream."""
    if text.isascii():
        return text
    return "".join(sign if _fits(sign, encoding) else REPLACEMENTS.get(sign, sign) for sign in text)


def _fits(sign: str, encoding: str) -> bool:
    try:
        sign.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    """For ``codecs``: one of ours, a byte of a file name that is no text, or the escape that Python writes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    sign = error.object[error.start]
    if sign in REPLACEMENTS:
        return REPLACEMENTS[sign], error.start + 1
    if "\udc80" <= sign <= "\udcff":
        return bytes([ord(sign) - 0xDC00]), error.start + 1
    return ascii(sign)[1:-1], error.start + 1


codecs.register_error("compressm", _replace)


class Stream:
    """A text stream that takes whatever is written, also where the one behind it (None: there is none) does not."""

    def __init__(self, inner: TextIO | None) -> None:
        self.failure: OSError | None = None
        """Why something that was written is lost."""
        self._closed = inner is None
        self._inner = open(os.devnull, "w", encoding="utf-8") if inner is None else inner  # noqa: SIM115
        self._errors = self._inner.errors
        self._set_errors("compressm")

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"text is written here, not {type(text).__name__}")
        if self._closed and text:
            self._fail(OSError(errno.EBADF, "it is closed"))
        if self.failure is None:
            with self._failures():
                self._inner.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.failure is None:
            with self._failures():
                self._inner.flush()

    def isatty(self) -> bool:
        return self.failure is None and not self._inner.closed and self._inner.isatty()

    def release(self) -> None:
        """Leave the stream behind this one as it was."""
        self.flush()
        if self._closed:
            self._inner.close()
        else:
            self._set_errors(self._errors)

    def __getattr__(self, name: str) -> Any:
        # Bytes would be written past this.
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self._inner, name)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._fail(error)
        except ValueError as error:  # a file that somebody has closed
            self._fail(OSError(errno.EBADF, str(error)))

    def _fail(self, error: OSError) -> None:
        if self.failure is not None:
            return
        self.failure = error
        # What is still in its buffer must not fail once more when the process ends.
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._inner.fileno())
            os.close(null)

    def _set_errors(self, errors: str | None) -> None:
        if hasattr(self._inner, "reconfigure"):
            with suppress(OSError, ValueError):
                self._inner.reconfigure(errors=errors)


def is_lost(stream: TextIO) -> bool:
    """Whether what is written to a stream is dropped, since it could not be written before."""
    return isinstance(stream, Stream) and stream.failure is not None


@contextmanager
def guarded() -> Iterator[Stream]:
    """Put such streams in the place of the process's own; gives that of standard output."""
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    out, err = Stream(sys.stdout), Stream(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        sys.stdout, sys.stderr = before
        out.release()
        err.release()


def _open_closed_descriptors() -> None:
    """Else the next file that is opened would be standard output, and get what others write there."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
