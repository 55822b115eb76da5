"""``compressm analyze`` and ``compressm compare``, from the command line to the exit code."""

import json
from pathlib import Path

import pytest
import torch
from made_runs import MakeRun

from compressm_cli.cli.main import run as command
from compressm_cli.reports import decoding, inference, spectrum, timing


def test_analyze_shows_tables_and_draws(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run("small", orders=(3, 1))
    assert command(["analyze", str(run.folder), "--thresholds", "0.8,0.99"]) == 0
    out = capsys.readouterr().out
    for text in (
        "the final checkpoint",
        "8 -> 3",
        "spectral radius",
        "real poles",
        "80 %",
        "recurrence's error",
        "Gramians from data",
        "█",
    ):
        assert text in " ".join(out.split())
    names = {p.name for p in run.plots.iterdir()}
    assert names == {"spectrum.png", "training.png", "orders.png", "spectra-at-checks.png"}


def test_analyze_shows_the_bound_that_holds_for_white_inputs(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("small", orders=(3, 1))
    white = ["compression.gramian=analytic", "compression.horizon=infinite"]
    assert command(["analyze", str(run.folder), "--no-plots", *white]) == 0
    out = capsys.readouterr().out
    assert "H-infinity" in out
    assert "analytic Gramians (white inputs, over all time)" in " ".join(out.split())


def test_analyze_as_json(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    assert command(["analyze", str(run.folder), "--json", "--no-plots", "--realization", "complex"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["realization"] == "complex"
    assert len(found["layers"][0]["hsv"]) == 8
    assert [size["energy_threshold"] for size in found["predicted"]] == [0.9, 0.95, 0.99, 0.999]
    assert found["plots"] == []
    assert not list(run.plots.iterdir())


def test_analyze_times_steps_only_when_asked(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    monkeypatch.setattr(spectrum, "is_busy", lambda: True)
    run = make_run("small", orders=(3, 1))
    given = ["analyze", str(run.folder), "--thresholds", "0.5,1", "--no-plots"]
    assert command([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {size["step_seconds"] for size in (found["now"], *found["predicted"])} == {None}
    assert found["timing"] is None
    assert "--time" in found["step_seconds_reason"]
    assert command([*given, "--json", "--time"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(size["step_seconds"] > 0 for size in (found["now"], *found["predicted"]))
    assert found["timing"] == {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "precision": "fp32",
        "rounds": timing.FEWEST_ROUNDS,
        "busy": True,
    }
    assert found["step_seconds_reason"] is None
    assert command([*given, "--time"]) == 0
    shown = capsys.readouterr().out
    assert "step here" in shown
    assert "machine was busy" in shown
    assert command(given) == 0
    assert "step here" not in capsys.readouterr().out


def test_analyze_a_bare_checkpoint_draws_beside_it(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_run().final_checkpoint.rename(tmp_path / "model.pt")
    assert command(["analyze", str(checkpoint), "--thresholds", "1"]) == 0
    assert (tmp_path / "model-spectrum.png").is_file()
    assert command(["analyze", str(checkpoint), "--thresholds=1", "--plots", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "model-spectrum.png").is_file()


def test_analyze_goes_on_where_it_cannot_draw(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    run.plots.rmdir()
    run.plots.touch()  # a file where the folder should be: nothing can be written there, whoever asks
    assert command(["analyze", str(run.folder), "--thresholds", "1"]) == 0
    captured = capsys.readouterr()
    assert "warning: no figures" in captured.err
    assert "--plots DIR" in captured.err
    assert "blocks.0.layer" in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--thresholds", "0.9,much"], "not numbers; write shares such as 0.9,0.99"),
        (["--thresholds", "90"], "above 0 and up to 1"),
        (["--plots", "x", "--no-plots"], "exclude each other"),
    ],
)
def test_analyze_bad_options(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert command(["analyze", str(make_run().folder), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_compare_shows_tables_and_verdict(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "SECONDS", 0.2)
    monkeypatch.setattr(decoding, "SECONDS", 0.1)
    base, small = make_run(), make_run("small", orders=(3, 1), accuracy=0.91)
    assert command(["compare", str(base.folder), str(small.folder), "--tolerance-points", "1"]) == 0
    out = capsys.readouterr().out
    for text in (
        "+1.0 points",
        "0.25x (4.0 times less)",
        "not known [1]",
        "batch of 1",
        "first token",
        "tokens/s, 64 at once",
        "Verdict",
        "Tolerance kept",
    ):
        assert text in out


def test_compare_exit_codes(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    sides = [str(make_run().folder), str(make_run("small", orders=(3, 1)).folder), "--no-speed"]
    assert command(["compare", *sides, "--at-most", "total_order=0.25"]) == 0
    assert command(["compare", *sides, "--at-most", "total_order=0.2"]) == 1
    assert "BROKEN" in capsys.readouterr().out
    for wrong in ("size=0.2", "parameters", "parameters=little"):
        assert command(["compare", *sides, "--at-most", wrong]) == 2
    assert "write METRIC=RATIO" in capsys.readouterr().err
    assert command(["compare", *sides, "--json", "--markdown"]) == 2
    assert command(["compare", sides[0]]) == 2
    assert command(["compare", *sides, "--html", "missing/page.html"]) == 2
    assert "no such folder: missing" in capsys.readouterr().err


def test_compare_as_json_and_markdown(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = [str(make_run().folder), str(make_run("small_one", orders=(3, 1)).folder), "--no-speed"]
    page = tmp_path / "page.html"
    assert command(["compare", *sides, "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["key"]: row for row in found["rows"]}
    assert rows["total_order"]["changes"][1]["ratio"] == 0.25
    assert found["broken"] is False
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert command(["compare", *sides, "--markdown"]) == 0
    text = capsys.readouterr().out
    assert "| states, all layers | 16 | 4 | 0.25x (4.0 times less) |" in text
    assert "small\\_one" in text


def test_help_names_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    from compressm_cli.reports import Tolerances

    assert command(["compare", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(name in shown for name in Tolerances.metrics())
