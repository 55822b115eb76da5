"""Runs killed with SIGKILL and resumed end like undisturbed ones; benchmarks/reliability.py does it at length."""

from pathlib import Path

import pytest
import reliability


@pytest.mark.slow
def test_killed_and_resumed_runs_end_bit_identical(tmp_path: Path) -> None:
    tally = reliability.measure(tmp_path, kills=6, seed=1, cases=list(reliability.CASES), most=2)
    assert tally.kills == 6
    assert tally.differences == []
    assert tally.identical == tally.runs >= 3


def test_what_differs_is_noticed(tmp_path: Path) -> None:
    whole, _ = reliability.undisturbed(tmp_path / "one", "lru")
    other, _ = reliability.undisturbed(tmp_path / "other", "lru-trial")
    assert list(reliability.differences(whole, whole)) == []
    assert any(text.startswith("compression.jsonl") for text in reliability.differences(whole, other))
    (other.folder / "metrics.jsonl").open("ab").write(b'{"step"')
    with pytest.raises(ValueError, match="torn last line"):
        list(reliability.differences(whole, other))
