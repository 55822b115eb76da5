"""From figures to pictures in files and pages: what cannot be drawn is told in one line, and no number waits for it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from compressm_cli.engine.failures import reason
from compressm_cli.render.style import as_file
from compressm_cli.render.vector import inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Painter = Callable[[], "Figure | None"]
"""Draws a figure; None where there is nothing to draw it from."""
Tell = Callable[[str], None]
"""Takes a line for the user."""
Picture = TypeVar("Picture", bytes, str)


class LeftOutError(Exception):
    """There is something to draw a figure from, and why it is not drawn all the same."""


def draw(painters: Mapping[str, Painter], tell: Tell) -> dict[str, str]:
    """Name -> SVG for a page, without the figures that have nothing to show, and those that failed.

    Of the latter, whatever the reason, ``tell`` is told, once: which they are, and why.
    """
    pictures, failed = _drawn(painters, inline_svg)
    _tell(failed, tell)
    return pictures


def save(folder: Path, painters: Mapping[str, Painter], tell: Tell) -> list[Path]:
    """The same into a folder, by file name, whose ending says the format; returns the files.

    OSError where they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures, failed = _drawn(painters, lambda figure, name: as_file(figure, Path(name).suffix[1:]))
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)
    _tell(failed, tell)
    return [folder / name for name in pictures]


def _drawn(
    painters: Mapping[str, Painter], show: "Callable[[Figure, str], Picture]"
) -> tuple[dict[str, Picture], dict[str, list[str]]]:
    """Pictures by name, and by reason the names of those that failed."""
    pictures: dict[str, Picture] = {}
    failed: dict[str, list[str]] = {}
    for name, paint in painters.items():
        try:
            figure = paint()
            if figure is not None:
                pictures[name] = show(figure, name)
        except LeftOutError as left_out:
            failed.setdefault(str(left_out), []).append(name)
        except Exception as error:  # matplotlib, its fonts and its settings raise what they like
            failed.setdefault(reason(error), []).append(name)
    return pictures, failed


def _tell(failed: Mapping[str, list[str]], tell: Tell) -> None:
    if failed:
        tell("no figures: " + "; ".join(f"{', '.join(names)} ({why})" for why, names in failed.items()))
