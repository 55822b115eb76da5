"""The page of one model."""

import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import MakeRun

from compressm_cli.cli.main import run as command
from compressm_cli.runs.folder import Run

READ = {
    "splits": {"train": {"rows": 7, "classes": {"<b>": 3, "dog": 4}, "lengths": [2, 3.0, 5]}},
    "inputs": "a number",
    "numbers": ["inputs are standardized"],
    "files": {},
    "left_out": {"train": {"rows without a label": 2}},
    "warnings": ["class 'dog' is <rare>"],
}
TODAY = {
    "checks": {"made": 4, "cut": 2, "rejected": 0},
    "rollbacks": 0,
    "axes": {"start": {"states": 16}, "final": {"states": 4}},
}


def page_of(where: Path, tmp_path: Path, *more: str) -> str:
    page = tmp_path / "page.html"
    assert (
        command(["analyze", str(where), "--thresholds", "0.9", "--no-plots", "--html", str(page), *more]) == 0
    )
    return page.read_text(encoding="utf-8")


def test_the_page_tells_of_settings_data_course_cuts_spectrum_and_costs(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(
        "small", orders=(3, 1), summary=TODAY, info={"data": READ, "command": "compressm train <x>"}
    )
    page = page_of(run.folder, tmp_path)
    assert f"page: {tmp_path / 'page.html'}" in capsys.readouterr().err
    assert "http" not in page
    assert "src=" not in page
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Settings", "Figures", "From start to end", "Where the time went", "What was read", "Cuts", "Layers",
        "Orders by energy threshold, Gramians from data", "Size and cost at these orders", "Where this is from",
    ]  # fmt: skip
    figures = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert figures == [
        "Training", "Orders", "Spectra at the checks", "Validation over FLOPs of training",
        "Validation over seconds", "Hankel spectrum",
    ]  # fmt: skip
    for text in (
        "16 → 4",
        "90.0%",
        "8 -&gt; 3",
        "no energy counter",
        "class &#39;dog&#39; is &lt;rare&gt;",
        "state_dim: 8",
    ):
        assert text in page
    assert "<b>" not in page.replace('"><b>', "")
    assert "<x>" not in page


def test_a_checkpoint_alone_has_its_spectrum(make_run: MakeRun, tmp_path: Path) -> None:
    page = page_of(make_run().final_checkpoint, tmp_path)
    assert "A checkpoint alone has no logs" in page
    assert "From start to end" not in page
    assert page.count('<svg role="img"') == 1


def test_a_run_that_is_not_done_and_one_of_an_earlier_version(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("stopped", orders=(3, 1), status="interrupted", old=True)
    page = page_of(run.folder, tmp_path)
    assert "The run has not finished (status: interrupted): no costs are told." in page
    left_out = "no figures: Validation over FLOPs of training, Validation over seconds (" in page
    assert left_out
    assert "its evaluations do not tell what was spent" in capsys.readouterr().err


def asked_for_page(run: Path, into: Path) -> int:
    given = ["analyze", str(run), "--no-plots", "--thresholds", "1", "--html", str(into / "x.html")]
    return command(given)


@pytest.mark.parametrize("read", [3, {"splits": 3}, {"splits": {"train": {"rows": 3}}}, {**READ, "more": 1}])
def test_a_damaged_record_of_what_was_read_is_told(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str], read: Any
) -> None:
    run = Run.open(make_run(summary=TODAY, info={"data": read}).folder)
    assert asked_for_page(run.folder, tmp_path) == 2
    assert "run.json: data is not what was read" in capsys.readouterr().err


def test_a_damaged_summary_is_told(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(summary={**TODAY, "seconds": [3]})
    assert asked_for_page(run.folder, tmp_path) == 2
    assert "summary.json: is not what a run writes (TypeError: " in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_told_first(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["analyze", str(make_run().folder), "--html", "missing/page.html"]) == 2
    assert "no such folder: missing" in capsys.readouterr().err
