"""``benchmarks/pruning.py``: the table of scores and budgets of one model."""

import runpy
import sys
from pathlib import Path

import pytest
from cut_models import tiny_decoder

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pruning.py"


def test_the_table_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_decoder(tmp_path)
    options = ["--budgets", "0.9", "--scores", "taylor,magnitude", "--rows", "5", "--markdown"]
    monkeypatch.setattr(sys, "argv", ["pruning.py", str(model), *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    told, whole, _, _, taylor, magnitude = capsys.readouterr().out.splitlines()
    assert told == "tiny, seed 0, step 2, the given checkpoint"
    assert "on 5 validation rows" in whole
    cells = [cell.strip() for cell in taylor.strip("|").split("|")]
    assert cells[:2] == ["`taylor`", "0.9x"]
    loss = float(whole.split("loss ")[1].split()[0])
    assert float(cells[5]) == pytest.approx(float(cells[3]) - loss, abs=2e-4)
    assert magnitude.endswith("| - | - | - |")
    monkeypatch.setattr(sys, "argv", ["pruning.py", str(model), "--scores", "luck"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 2
    assert "there is no score luck" in capsys.readouterr().err
