"""Recordings of folders and of tables."""

from collections.abc import Sequence
from pathlib import Path

from compressm_cli.data.recordings import Clip, Recordings
from compressm_cli.data.rows import Rows
from compressm_cli.data.sources.folders import Content, found_files

AUDIO = Content("recordings", (".wav", ".flac", ".aif", ".aiff", ".au"), (".wav", ".flac"))
"""Formats that lose nothing, so that a stretch of a file is what it is in the whole."""


def read_audio_folder(folder: Path, labelled: bool = True) -> Rows:
    """The recordings of a folder with one folder a class, or any recordings at all; called by their files."""
    found = found_files(folder, AUDIO, labelled)
    content = recordings_of(found.files, [f"{folder}, recording {name}" for name in found.names])
    return Rows(
        str(folder), "audio", content, names=found.names, labels=found.labels, left_out=found.left_out
    )


def recordings_of(files: Sequence[Path | bytes], places: Sequence[str]) -> Recordings:
    """Files, called as ``places`` says. Raises BadInputError at one that cannot be read."""
    clips = [Clip.of(file, place) for file, place in zip(files, places, strict=True)]
    return Recordings(clips, places)
