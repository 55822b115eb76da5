"""Figures as SVG inside a page: its colours are variables, so that a dark page has dark figures."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from compressm_cli.render.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, as_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOUR = re.compile(r"\b((?:fill|stroke): )(#([0-9a-f]{6}))\b")
VARIABLE = re.compile(r"var\(--c([0-9a-f]{6}),")
DARK = {
    "#ffffff": "#161b22",
    BLACK: "#e6edf3",
    GREY: "#9ca3af",
    "#4b5563": "#b6bec8",
    "#9ca3af": "#6b7280",
    "#e5e7eb": "#30363d",
    BLUE.lower(): "#4aa8e8",
    RED.lower(): "#ff8f4d",
    GREEN.lower(): "#2fc99b",
    ORANGE.lower(): "#f2c14e",
    PURPLE.lower(): "#e3a0c6",
    SKY.lower(): "#a6d8f5",
}
"""Colours on a dark page, by what they are on a light one."""
LIGHTER = 0.35
"""How much white is mixed with any other colour."""


def inline_svg(figure: "Figure", name: str) -> str:
    """The figure as an element of a page, described by its ``name``; text in it is text, and escaped."""
    text = as_file(figure, "svg").decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Names are those of this figure alone: links within it find their own.
    own = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    text = re.sub(r"(\bid=\"|url\(#|href=\"#)", rf"\g<1>{own}-", text)
    text = text.replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    text = COLOUR.sub(r"\1var(--c\3, \2)", text)
    head, _, body = text.partition(">")
    size = re.search(r'viewBox="[^"]*"', head)
    assert size is not None
    return f'<svg role="img" aria-label="{own.replace("-", " ")}" {size[0]}>{body}'


def dark_colours(pictures: Iterable[str]) -> dict[str, str]:
    """The variables in such elements, and what they are on a dark page."""
    used = {code for picture in pictures for code in VARIABLE.findall(picture)}
    return {f"--c{code}": DARK.get(f"#{code}") or _lighter(code) for code in sorted(used)}


def _lighter(code: str) -> str:
    parts = [int(code[i : i + 2], 16) for i in (0, 2, 4)]
    return "#" + "".join(f"{round(part + LIGHTER * (255 - part)):02x}" for part in parts)
