"""The page of a comparison."""

import re
from html.parser import HTMLParser

import pytest
from made_runs import MakeRun

from compressm_cli.render.comparison_plots import comparison_figures
from compressm_cli.render.html import render_html
from compressm_cli.reports import Tolerances, compare


class Outline(HTMLParser):
    """Tags that are open at the end, and every address that the page names."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_stands_alone(make_run: MakeRun) -> None:
    for seed in (0, 1):
        base = make_run(seed=seed, accuracy=0.9 + seed / 100)
        small = make_run("small", seed=seed, orders=(3, 1), accuracy=0.92)
    report = compare(
        base.folder.parent, [small.folder.parent], speed=False, tolerances=Tolerances(points=1.0)
    )
    page = render_html(report, pytest.fail)
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert outline.addresses == []
    assert page.count('<svg role="img"') == len(comparison_figures(report)) == 8
    assert "http" not in page
    names = re.findall(r'\bid="([^"]*)"', page)
    assert len(set(names)) == len(names)
    # Every colour of a figure has its own on a dark page, and what it refers to is there.
    used = set(re.findall(r"var\((--c[0-9a-f]{6}),", page))
    assert used == set(re.findall(r"(--c[0-9a-f]{6}): #", page))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]*)', page)) <= set(names)
    spectra = "Hankel spectra of the finished models"
    figure = comparison_figures(report)[spectra]()
    assert figure is not None
    assert figure.get_supylabel() == "Hankel singular value (Gramians from data)"
    for text in (
        "0.25x",
        "small <span>against baseline",
        "All tolerances are kept",
        "no energy counter",
        spectra,
    ):
        assert text in page


def test_text_is_escaped(make_run: MakeRun) -> None:
    evil = "<script>alert(1)</script>"
    joules: dict[str, object] = {"joules": {"value": None, "reason": evil, "sources": []}}
    base, small = (
        make_run(summary=joules),
        make_run("small", orders=(3, 1), info={"versions": {"torch": evil}}),
    )
    page = render_html(compare(base.folder, [small.folder], speed=False), pytest.fail)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 2


def test_several_models_and_checkpoints(make_run: MakeRun) -> None:
    base, small, other = make_run(), make_run("small", orders=(3, 1)), make_run("other", orders=(4, 4))
    page = render_html(compare(base.final_checkpoint, [small.folder, other.folder], speed=False), pytest.fail)
    assert "against baseline" in page
    assert "give the run folder" in page
