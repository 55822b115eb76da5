"""Processes that meet: all are asked for the same, and who does not come is missed."""

import os
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import processes
import pytest
import torch.distributed as dist

from compressm_cli.cli import main
from compressm_cli.core.errors import BadInputError
from compressm_cli.engine.distributed import meeting
from compressm_cli.engine.distributed.meeting import Arrivals, require_same

SAME = "start all of them with the same command"
LIMIT_SECONDS = 120.0
"""With the start of Python and PyTorch on a busy machine; who hangs does so for 30 minutes."""


def test_all_that_were_asked_for_the_same_go_on() -> None:
    require_same([{"--seeds": None, "checksum": "1"}, {"--seeds": None}, {"--seeds": None, "checksum": "1"}])


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([{"--seeds": "1"}], "the 2 processes .*: --seeds 1 in process 1, not given in process 0; start all"),
        ([{"--seeds": None}, {"--seeds": "2"}], "--seeds 2 in process 2, not given in process 0; start all"),
        (
            [{"--seeds": str(n)} for n in range(6)],
            "0 in process 1.*; 2 in process 3.*; and 3 more; start all",
        ),
    ],
)
def test_who_was_asked_for_something_else_is_named(others: list[dict[str, str | None]], told: str) -> None:
    with pytest.raises(BadInputError, match=told.replace("; 2 in", "; --seeds 2 in")):
        require_same([{"--seeds": None}, *others])


def test_each_learns_what_all_were_asked_for() -> None:
    store, found = dist.HashStore(), {}

    def come(rank: int) -> None:
        found[rank] = Arrivals(rank, 3).asked(store, {"seed": str(rank)}, timedelta(seconds=60))

    threads = [threading.Thread(target=come, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [[{"seed": "0"}, {"seed": "1"}, {"seed": "2"}]] * 3


def test_who_does_not_come_is_missed_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "WAITING_SECONDS", 0.1)
    store, told, failed = dist.HashStore(), [], []

    def come(rank: int) -> None:
        arrivals = Arrivals(rank, 4)
        with arrivals.announced(told.append), pytest.raises(RuntimeError) as error:
            arrivals.asked(store, {}, timedelta(seconds=1))
        failed.append(str(error.value))

    threads = [threading.Thread(target=come, args=(rank,)) for rank in (1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [text.partition(" since")[0] for text in told] == ["process 1 of 4 waits for processes 0, 2"]
    assert failed == ["processes 0, 2 did not come within 0:00:01"] * 2


def one_of_two(folder: Path, *lines: list[str]) -> None:
    """One of two processes, each with its own command line; its standard error goes to a file."""
    rank = int(os.environ["RANK"])
    os.dup2(os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    sys.exit(main.run(lines[rank]))


def refused(folder: Path, *lines: list[str]) -> list[str]:
    """Train with these two command lines at once: both end with exit code 2; the errors that are told."""
    until = time.monotonic() + LIMIT_SECONDS
    found = processes.begun(2, one_of_two, folder, *lines)
    assert processes.ended(found, lambda: time.monotonic() > until) == [2, 2]
    texts = [(folder / f"{rank}.err").read_text() for rank in range(2)]
    return [line for text in texts for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["train.steps=7"], "the settings train.steps=7 in process 1, not given in process 0"),
        (["--seeds", "3"], "--seeds 3 in process 1, not given in process 0"),
        (["--auto-resume"], "--auto-resume given in process 1, not given in process 0"),
        (["--dry-run"], "--dry-run given in process 1, not given in process 0"),
    ],
    ids=["setting", "seeds", "auto-resume", "dry-run"],
)
def test_processes_that_were_asked_for_different_things_are_refused(
    more: list[str], told: str, tmp_path: Path
) -> None:
    line = ["train", str(processes.write_recipe(tmp_path, "lru")), "--quiet"]
    (error,) = refused(tmp_path, line, [*line, *more])
    assert told in error
    assert error.endswith(SAME)
    assert not (tmp_path / "kill").exists()


@pytest.mark.slow
def test_a_run_and_a_recipe_are_different_things(tmp_path: Path) -> None:
    line = ["train", str(processes.write_recipe(tmp_path, "lru")), "--quiet"]
    (error,) = refused(tmp_path, line, ["train", "--resume", str(tmp_path / "run"), "--quiet"])
    assert f"--resume {tmp_path / 'run'} in process 1, not given in process 0" in error


def in_own_folder(folder: Path) -> None:
    """One of two processes whose recipes have the same name, as on machines that share no files."""
    os.chdir(folder / os.environ["RANK"])
    line = ["train", "recipe.yaml", "--quiet"]
    one_of_two(folder, line, line)


@pytest.mark.slow
def test_recipes_of_one_name_must_have_one_text(tmp_path: Path) -> None:
    processes.write_recipe(tmp_path / "0", "lru")
    processes.write_recipe(tmp_path / "1", "lru", train={"steps": 7})
    until = time.monotonic() + LIMIT_SECONDS
    found = processes.begun(2, in_own_folder, tmp_path)
    assert processes.ended(found, lambda: time.monotonic() > until) == [2, 2]
    (error,) = [line for rank in "01" for line in (tmp_path / f"{rank}.err").read_text().splitlines()]
    assert "the checksum of the recipe's text " in error
