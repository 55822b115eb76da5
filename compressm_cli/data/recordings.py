"""Recordings of sound, decoded one at a time when they are asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import SEEK_CUR, SEEK_END, BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading
from compressm_cli.data.rows import OnDemand

NOT_INSTALLED = (
    "sound is read with the package soundfile, which is not there; write: pip install 'compressm[audio]'"
)


BLOCK = 2**20
"""Samples that are read at once."""
DENSEST = 2**16
"""Samples that a byte can stand for: FLAC packs as many of silence."""
HEAD = 12
"""Bytes in which a file says how large it is."""
UNKNOWN = (0, 2**32 - 1)
"""What stands there where a program wrote to a pipe."""


@dataclass(frozen=True)
class Clip:
    """A stretch of a file."""

    file: Path | bytes
    """Where it is, or what is in it."""
    rate: int
    """Samples a second."""
    frames: int
    """How many samples of each channel."""
    start: int = 0
    """The first of them."""

    @classmethod
    def of(cls, file: Path | bytes, place: str) -> "Clip":
        """A whole file, of which only the head is read. BadInputError where it is damaged, or holds no sound."""
        soundfile = _library()
        with reading(place, "cannot be read as sound", "remove or replace it"):
            _require_whole(file, place)
            info = soundfile.info(_opened(file))
            rate, frames = int(info.samplerate), int(info.frames)
        if frames < 1 or rate < 1:
            raise BadInputError(f"{place}: there is no sound in it; remove or replace it")
        size = len(file) if isinstance(file, bytes) else file.stat().st_size
        if frames > size * DENSEST:
            raise BadInputError(
                f"{place}: {size:,} bytes do not hold the {frames:,} samples that its head says; replace it"
            )
        return cls(file, rate, frames)

    def part(self, start: int, end: int) -> "Clip":
        """From sample ``start`` to before ``end``, or as far as there are."""
        return replace(self, start=self.start + start, frames=min(end, self.frames) - start)

    def samples(self, place: str) -> np.ndarray:
        """(frames,) float64, the mean of its channels; integers are scaled to -1..1, real numbers as they stand."""
        soundfile = _library()
        with reading(place, "cannot be read as sound", "remove or replace it"):
            samples = np.concatenate([np.empty(0), *self._blocks(soundfile)])
        if len(samples) != self.frames:
            raise BadInputError(
                f"{place}: {len(samples):,} samples of the {self.frames:,} that its head says; "
                "it is cut short: replace it"
            )
        if not np.isfinite(samples).all():
            raise BadInputError(f"{place}: has samples that are not finite; remove or replace it")
        return samples

    def _blocks(self, soundfile: Any) -> Iterator[np.ndarray]:
        """The samples, as far as there are so many, whatever a head claims."""
        missing = self.frames
        with soundfile.SoundFile(_opened(self.file)) as opened:
            opened.seek(self.start)
            while missing and len(read := opened.read(min(BLOCK, missing), dtype="float64", always_2d=True)):
                missing -= len(read)
                yield read.mean(axis=1)


class Recordings(OnDemand[np.ndarray]):
    """Sounds of one channel, each (frames,) float64; ``places`` are what messages call them."""

    def __init__(self, clips: Sequence[Clip], places: Sequence[str]) -> None:
        self.clips, self.places = clips, places

    def __len__(self) -> int:
        return len(self.clips)

    def decoded(self, row: int) -> np.ndarray:
        return self.clips[row].samples(self.places[row])

    def taken(self, rows: Sequence[int] | np.ndarray) -> "Recordings":
        return Recordings([self.clips[row] for row in rows], [self.places[row] for row in rows])

    def pieces(self, seconds: float) -> Iterator[tuple[int, int, Clip]]:
        """Number of a recording, of its piece from 1, and the piece: of so many seconds, the last what is left."""
        for row, clip in enumerate(self.clips):
            size = max(1, round(seconds * clip.rate))
            for number, start in enumerate(range(0, clip.frames, size), start=1):
                yield row, number, clip.part(start, start + size)


def _library() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # the package is there, and the library that it calls is not
        raise BadInputError(NOT_INSTALLED) from error
    return soundfile


def _opened(file: Path | bytes) -> str | BytesIO:
    return BytesIO(file) if isinstance(file, bytes) else str(file)


def _require_whole(file: Path | bytes, place: str) -> None:
    """BadInputError for a file that is shorter than it says: the library reads what is there, and says nothing."""
    with BytesIO(file) if isinstance(file, bytes) else file.open("rb") as opened:
        size = opened.seek(0, SEEK_END)
        opened.seek(0)
        # A byte that fills up an odd number of them is left out by some; it is none of the samples.
        whole, end = _told_size(opened.read(HEAD)), _end_of_data(opened)
    if whole is not None and end is not None and end > whole + 1:
        raise BadInputError(
            f"{place}: its head says that it ends at byte {whole:,}, and its samples at {end:,}; replace it"
        )
    if (told := max((whole or 1) - 1, end or 0)) > size:
        raise BadInputError(f"{place}: is cut short: {size:,} bytes of {told:,}; replace it")


def _end_of_data(opened: IO[bytes]) -> int | None:
    """Where the samples of a WAV file end, as the head of their part says; None where nothing says it."""
    opened.seek(0)
    if opened.read(4) != b"RIFF":
        return None
    opened.seek(HEAD)
    while len(head := opened.read(8)) == 8:
        told = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            return None if told in UNKNOWN else opened.tell() + told
        opened.seek(told + told % 2, SEEK_CUR)
    return None


def _told_size(head: bytes) -> int | None:
    """Of a whole WAV, AIFF or AU file, as its head says; None where that says nothing."""
    kind, first, second = head[:4], head[4:8], head[8:12]
    if kind == b"RIFF":
        told = int.from_bytes(first, "little")
        return None if told in UNKNOWN else 8 + told
    if kind == b"FORM":
        return 8 + int.from_bytes(first, "big")
    if kind == b".snd":
        told = int.from_bytes(second, "big")
        return None if told in UNKNOWN else int.from_bytes(first, "big") + told
    return None
