"""Processes that start one recipe at once get distinct versions; benchmarks/concurrency.py does it with 50."""

import os
from pathlib import Path

import concurrency
import pytest
import reliability

from compressm_cli.runs.folder import Run

PROCESSES = 6


@pytest.mark.slow
def test_processes_that_start_at_once_get_distinct_versions(tmp_path: Path) -> None:
    versions, wrong = concurrency.distinct_versions(tmp_path / "work", PROCESSES)
    assert wrong == []
    assert versions == PROCESSES


@pytest.mark.slow
def test_of_processes_that_auto_resume_at_once_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reliability, "PREPARATIONS", [])  # those that go on count FLOPs as well
    went_on, wrong = concurrency.one_goes_on(tmp_path / "work", PROCESSES)
    assert wrong == []
    assert went_on == 1


def test_what_is_wrong_is_noticed(tmp_path: Path) -> None:
    ended = concurrency.at_once(
        2, tmp_path / "told", "train", str(concurrency.written(tmp_path / "a", 6)), "--quiet"
    )
    folder = tmp_path / "a" / concurrency.NAME
    assert list(concurrency._wrong_with_versions(folder, ended, 2)) == []
    os.remove(folder / "latest")
    os.symlink("v0001", folder / "latest")
    Run.open(folder / "v0002").write_info({"status": "failed", "seed": 0})
    ended[0].printed = ended[1].printed
    ended[1].code = 1
    wrong = list(concurrency._wrong_with_versions(folder, ended, 2))
    for sign in ("exit code 1", "printed were", "latest is v0001", "run.json says", "status failed"):
        assert any(sign in text for text in wrong), sign
