"""Runs killed with SIGKILL and resumed end like undisturbed ones; benchmarks/reliability.py does it at length."""

import shutil
from pathlib import Path

import pytest
import reliability

from compressm_cli.runs.folder import Run

Wholes = dict[str, tuple[Run, float]]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Wholes:
    """A run of each case that nobody disturbed, and the seconds it took."""
    folder = tmp_path_factory.mktemp("wholes")
    return {case: reliability.undisturbed(folder / case, case) for case in reliability.CASES}


@pytest.mark.slow
def test_killed_and_resumed_runs_end_bit_identical(tmp_path: Path, wholes: Wholes) -> None:
    tally = reliability.measure(tmp_path, kills=6, seed=1, known=wholes, most=2)
    assert tally.kills == 6
    assert tally.differences == []
    assert tally.identical == tally.runs >= 3


@pytest.mark.slow
def test_what_differs_is_noticed(tmp_path: Path, wholes: Wholes) -> None:
    whole, trial = (wholes[case][0] for case in ("lru", "lru-trial"))
    other = Run(Path(shutil.copytree(trial.folder, tmp_path / "other")))
    assert list(reliability.differences(whole, whole)) == []
    assert any(text.startswith("compression.jsonl") for text in reliability.differences(whole, other))
    (other.folder / "metrics.jsonl").open("ab").write(b'{"step"')
    with pytest.raises(ValueError, match="torn last line"):
        list(reliability.differences(whole, other))
