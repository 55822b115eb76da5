"""Numbered folders - v0001, v0002, ... - and the link ``latest`` to the newest of them."""

import os
import re
from contextlib import suppress
from pathlib import Path

from compressm_cli.core.errors import BadInputError, RunFailedError

VERSION = re.compile(r"^v(\d{4,})$")


def versions(parent: Path) -> list[Path]:
    """The numbered folders in a folder, oldest first."""
    return [parent / name for name in sorted(filter(VERSION.match, os.listdir(parent)), key=_number)]


def create_version(parent: Path, *within: str) -> Path:
    """Make the next free version below a folder, with folders of these names in it; no two processes get the same.

    Raises BadInputError where ``parent`` is a link: nothing is written but below the root that was given.
    """
    if parent.is_symlink():
        raise BadInputError(
            f"{parent}: is a link to {parent.resolve()}, and runs are not written through links; choose another "
            "name, or another place with output.root=DIR"
        )
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = max((_number(known.name) for known in versions(parent)), default=0) + 1
        while True:
            folder = parent / f"v{number:04d}"
            try:
                folder.mkdir()
                break
            except FileExistsError:
                number += 1
        for name in within:
            (folder / name).mkdir()
    except OSError as error:
        raise RunFailedError(
            f"cannot write to {parent}: {error.strerror}; choose another place with output.root=DIR"
        ) from error
    _point_latest(parent)
    return folder


def _point_latest(parent: Path) -> None:
    link, temporary = parent / "latest", parent / f".latest.{os.getpid()}"
    shown = ""
    try:
        # Until it holds: another process may have made a newer version, or put an older one here, meanwhile.
        while shown != (newest := versions(parent)[-1].name):
            temporary.symlink_to(newest)
            os.replace(temporary, link)
            shown = newest
    except OSError:  # a file system without links; versions remain usable
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _number(name: str) -> int:
    return int(name[1:])
