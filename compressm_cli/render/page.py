"""Pages that stand alone: styles and figures inside, nothing loaded from elsewhere, light and dark."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from compressm_cli import __version__
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import unwritable
from compressm_cli.core.text import printable
from compressm_cli.render.drawing import Painter, Tell, draw
from compressm_cli.render.vector import dark_colours


@dataclass(frozen=True)
class Tile:
    """One number at the top of a page; ``kind`` is won, lost or even."""

    number: str
    caption: str
    kind: str


def render_page(template: str, painters: Mapping[str, Painter], tell: Tell, **content: Any) -> str:
    """A page by its template; every text in it is escaped. ``tell`` is told which figures it lacks, as is the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    missing: list[str] = []

    def told(line: str) -> None:
        missing.append(line)
        tell(line)

    pictures = draw(painters, told)
    figures = [{"title": title, "svg": Markup(picture)} for title, picture in pictures.items()]
    return environment.get_template(template).render(
        figures=figures,
        missing=missing,
        dark=dark_colours(pictures.values()),
        version=__version__,
        **content,
    )


def write_page(path: Path, text: str) -> None:
    """BadInputError where it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInputError(unwritable(f"--html {path}", error, "choose another file")) from error


def _shown(value: object) -> object:
    """A value as it goes into the page, where it is escaped; without what would turn or hide the text around it."""
    return printable(value) if type(value) is str else value
