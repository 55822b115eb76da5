"""What the README tells a user to type works, with fewer steps of training."""

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from compressm_cli.cli.main import run
from compressm_cli.measure import roof
from compressm_cli.recipe import load_recipe
from compressm_cli.reports import decoding, inference, timing

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
YOUR_DATA = (Path(__file__).parent.parent / "docs" / "your-data.md").read_text(encoding="utf-8")
EVAL = (Path(__file__).parent.parent / "docs" / "eval.md").read_text(encoding="utf-8")
SHORT = ["train.steps=8", "train.eval_every=4", "train.checkpoint_every=4"]


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)[number]


def commands() -> list[list[str]]:
    """The lines of the section on usage that call compressm, as words."""
    usage = README[README.index("## Using it") :]
    lines = re.findall(r"```console\n(.*?)```", usage, flags=re.DOTALL)[0].splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("compressm ")]


@pytest.fixture
def brief_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is timed is timed as always, but not for as long: how exact it becomes is nothing to these tests."""

    def once(calls: Sequence[Callable[[int], float]], _: float, rounds: int) -> list[tuple[float, ...]]:
        return in_alternation(calls, 0.0, rounds)

    in_alternation = inference.in_alternation
    for module in (inference, decoding):
        monkeypatch.setattr(module, "in_alternation", once)
    monkeypatch.setattr(timing, "SECONDS", 0.0)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(roof, "PRODUCT_SECONDS", 0.0)
    monkeypatch.setattr(roof, "COPY_SECONDS", 0.0)


def test_the_recipe_in_the_readme_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(block("yaml"), encoding="utf-8")
    assert load_recipe(path).compression.energy_threshold == 0.9


def test_the_error_in_the_readme_is_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(block("yaml").replace("state_dim", "state_dm"), encoding="utf-8")
    assert run(["recipes", "validate", "my.yaml"]) == 2
    assert block("text").strip() in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("brief_timings")
def test_the_commands_in_the_readme_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(block("yaml"), encoding="utf-8")
    assert run(["train", "quickstart/baseline", *SHORT]) == 0
    known = commands()
    assert {words[0] for words in known} == {
        "recipes",
        "train",
        "sweep",
        "analyze",
        "evaluate",
        "predict",
        "generate",
        "eval",
        "compare",
        "study",
        "runs",
        "compress",
        "export",
        "bench",
        "doctor",
    }
    for words in known:
        # Of models that pages in docs/ make, whose tests call them.
        page = {"predict": YOUR_DATA, "generate": YOUR_DATA, "eval": EVAL}.get(words[0])
        if page is not None:
            assert f"compressm {words[0]} {words[1]} " in page
            continue
        training = words[0] == "train" and "--resume" not in words
        # An override in the README comes first and must not undo the shortening.
        extra = SHORT if training else ["--dry-run"] if words[0] == "sweep" else []
        longer = "--resume" in words and "train.steps=6000" in words
        if longer:
            words = [word.replace("train.steps=6000", "train.steps=10") for word in words]
        capsys.readouterr()
        code = run([*words, *extra])
        printed = capsys.readouterr()
        if "--resume" in words and not longer:
            assert code == 2
            assert "this run is done" in printed.err
        else:
            assert code == 0, (words, printed.err)
        if training and "--dry-run" not in words:
            assert Path(printed.out.splitlines()[-1], "summary.json").is_file()
    assert Path("report.html").stat().st_size > 10_000
