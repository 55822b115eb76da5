"""Figures depend on nobody's settings, and numbers on no figure."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_runs import MakeRun, tiny_recipe
from matplotlib.figure import Figure

from compressm_cli.cli.main import run as command
from compressm_cli.cli.train import draw_plots
from compressm_cli.recipe import recipe_to_yaml
from compressm_cli.render import drawing
from compressm_cli.render.plots import run_plots
from compressm_cli.render.style import new_figure, style
from compressm_cli.runs.folder import Run

NOTEBOOK = "module://matplotlib_inline.backend_inline"
RUN_PLOTS = """
import sys
from pathlib import Path
from compressm_cli.render.plots import run_plots
from compressm_cli.render.style import colours
from compressm_cli.runs.folder import Run
colours(9)  # of a figure that is still to be made
run_plots(Run(Path(sys.argv[1])), sys.exit, Path(sys.argv[2]))
"""


def blank() -> Figure:
    with style():
        return new_figure(1.0, 1.0)[0]


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("warning:")]


def test_what_cannot_be_drawn_is_told_once_by_reason() -> None:
    told: list[str] = []
    painters = {
        "good": blank,
        "empty": lambda: None,
        "a": raising(ValueError("two\nlines")),
        "b": raising(ValueError("two\nlines")),
        "c": raising(FileNotFoundError(2, "No such file or directory", "fonts")),
        "also good": blank,
    }
    pictures = drawing.draw(painters, told.append)
    assert list(pictures) == ["good", "also good"]
    assert all(picture.startswith('<svg role="img"') for picture in pictures.values())
    assert told == ["no figures: a, b (ValueError: two lines); c (fonts: No such file or directory)"]


def test_a_full_disk_is_told_by_who_saves(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError):
        drawing.save(tmp_path, {"a.png": blank}, pytest.fail)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [{"MPLBACKEND": NOTEBOOK, "MATPLOTLIBRC": "{rc}"}, {"MPLBACKEND": "no such backend"}],
    ids=["notebook and settings", "backend"],
)
def test_figures_are_the_same_whatever_the_users_settings(
    make_run: MakeRun, tmp_path: Path, given: dict[str, str]
) -> None:
    run, elsewhere = make_run("small", orders=(3, 1)), tmp_path / "elsewhere"
    rc = tmp_path / "matplotlibrc"
    rc.write_text("text.usetex: True\nsavefig.facecolor: red\nfigure.autolayout: True\naxes.titlesize: 30\n")
    environment = {**os.environ, **{name: value.format(rc=rc) for name, value in given.items()}}
    done = subprocess.run(
        [sys.executable, "-c", RUN_PLOTS, str(run.folder), str(elsewhere)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for path in run_plots(run, pytest.fail):
        assert (elsewhere / path.name).read_bytes() == path.read_bytes()


def test_settings_and_backend_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setenv("MPLBACKEND", NOTEBOOK)
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 7.0)
    before = dict(matplotlib.rcParams)
    with style():
        assert matplotlib.rcParams["lines.linewidth"] == 1.8
    assert dict(matplotlib.rcParams) == before
    assert os.environ["MPLBACKEND"] == NOTEBOOK


@pytest.mark.slow
def test_nothing_imports_matplotlib_before_it_draws() -> None:
    code = (
        "import sys, compressm_cli.reports.bench, compressm_cli.render.html, compressm_cli.render.comparison_plots\n"
        "import compressm_cli.engine.experiment, compressm_cli.render.live_view, compressm_cli.cli.train\n"
        "print(sorted(m for m in sys.modules if m.startswith('matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- commands ------------------------------------------------------------------------------------------


@pytest.fixture(params=["no matplotlib", "no drawing"])
def undrawable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the warning must say."""
    if request.param == "no matplotlib":
        for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
            monkeypatch.setitem(sys.modules, name, None)
        return "ModuleNotFoundError"
    monkeypatch.setattr(Figure, "savefig", raising(RuntimeError("no\nfont")))
    return "RuntimeError: no font"


def test_analyze_without_figures(
    make_run: MakeRun, undrawable: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("small", orders=(3, 1))
    assert command(["analyze", str(run.folder), "--json", "--thresholds", "1"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["plots"] == []
    (warning,) = warnings(captured.err)
    names = "spectrum.png, training.png, orders.png, spectra-at-checks.png"
    assert warning.startswith(f"warning: no figures: {names} ({undrawable}")


def test_compare_without_figures(
    make_run: MakeRun, undrawable: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, small, page = make_run(), make_run("small", orders=(3, 1)), tmp_path / "report.html"
    given = ["compare", str(base.folder), str(small.folder), "--no-speed", "--html", str(page)]
    assert command(given) == 0
    captured = capsys.readouterr()
    assert "Verdict" in captured.out
    (warning,) = warnings(captured.err)
    assert "Validation over FLOPs of training, Validation over seconds, States while training, " in warning
    assert undrawable in warning
    assert "0.25x" in page.read_text(encoding="utf-8")
    assert "<svg" not in page.read_text(encoding="utf-8")
    assert "no figures: Against the baseline, " in page.read_text(encoding="utf-8")


def test_train_without_figures(undrawable: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The seeds after the first are trained, too."""
    recipe = tmp_path / "r.yaml"
    recipe.write_text(recipe_to_yaml(tiny_recipe("tiny", 0)), encoding="utf-8")
    root = f"output.root={tmp_path / 'trained'}"
    assert command(["train", str(recipe), "train.steps=2", root, "--seeds", "0,1", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert len(warnings(captured.err)) == 2
    assert all(
        line.startswith(f"warning: no figures: training.png ({undrawable}") for line in warnings(captured.err)
    )
    runs = [Run.open(Path(line)) for line in captured.out.splitlines()]
    assert [run.read_info()["status"] for run in runs] == ["done", "done"]


def test_a_run_whose_folder_of_plots_is_gone(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run()
    run.plots.rmdir()
    draw_plots(run)
    (warning,) = warnings(capsys.readouterr().err)
    assert warning == f"warning: no plots were written: {run.plots}: No such file or directory"
