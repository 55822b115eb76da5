"""compressm recipes list | show | copy | validate | schema."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compressm_cli.cli.main import run
from compressm_cli.recipe.shipped import shipped_recipes

Capture = pytest.CaptureFixture[str]


def test_list_names_every_recipe_and_what_it_is(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["recipes", "list"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for name in shipped_recipes():
        assert any(line.startswith(f"{name} ") for line in lines)
    (line,) = [line for line in lines if line.startswith("smnist/lru_tau0.01 ")]
    assert line.split()[-3:] == ["lru", "smnist", "hankel"]
    assert "What remains of the LRU" in line


def test_list_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from compressm_cli.cli import main\n"
        "assert main.run(['recipes', 'list']) == 0\n"
        "assert not {'torch', 'pydantic'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("name", ["quickstart/baseline", "quickstart/baseline.yaml"])
def test_show_prints_the_file(name: str, capsys: Capture) -> None:
    assert run(["recipes", "show", name]) == 0
    assert capsys.readouterr().out == shipped_recipes()["quickstart/baseline"].read_text()


def test_show_suggests(capsys: Capture) -> None:
    assert run(["recipes", "show", "quickstart/bseline"]) == 2
    assert "did you mean 'quickstart/baseline'?" in capsys.readouterr().err


def test_copy(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = shipped_recipes()["quickstart/baseline"].read_text()
    assert run(["recipes", "copy", "quickstart/baseline"]) == 0
    assert capsys.readouterr().out == "baseline.yaml\n"
    assert (tmp_path / "baseline.yaml").read_text() == source
    (tmp_path / "baseline.yaml").write_text("mine")
    assert run(["recipes", "copy", "quickstart/baseline"]) == 2
    assert "exists already; choose another name, or add --force" in capsys.readouterr().err
    assert (tmp_path / "baseline.yaml").read_text() == "mine"
    assert run(["recipes", "copy", "quickstart/baseline", "--force"]) == 0
    assert (tmp_path / "baseline.yaml").read_text() == source
    assert run(["recipes", "copy", "quickstart/baseline", "other.yaml"]) == 0
    assert (tmp_path / "other.yaml").read_text() == source
    assert run(["recipes", "copy", "quickstart/baseline", "no/such/folder.yaml"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_validate_tells_all(tmp_path: Path, capsys: Capture) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(shipped_recipes()["quickstart/baseline"].read_text().replace("steps:", "stesp:"))
    assert run(["recipes", "validate", "quickstart/baseline", str(bad), "smnist/lru_tau0.01"]) == 2
    captured = capsys.readouterr()
    assert captured.out == (
        "ok  quickstart/baseline: quickstart-baseline\nok  smnist/lru_tau0.01: smnist-lru-tau0.01\n"
    )
    errors = captured.err.splitlines()
    assert any(line.endswith("train.stesp: unknown key; did you mean 'steps'?") for line in errors)
    assert any("train.steps: missing; write an integer of at least 1" in line for line in errors)
    assert errors[-1] == "error: 1 of 3 recipes cannot be used"


def test_validate_all_shipped(capsys: Capture) -> None:
    assert run(["recipes", "validate", *map(str, shipped_recipes().values())]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(shipped_recipes())


def test_schema(capsys: Capture) -> None:
    assert run(["recipes", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "compressm recipe"
