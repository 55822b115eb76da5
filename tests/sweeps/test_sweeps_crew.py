"""Jobs in processes: what becomes of each, and of all of them where one fails, or somebody stops them."""

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from stand_ins import Behave, MakeJobs

from compressm_cli.engine.signals import StoppedError
from compressm_cli.runs.lock import RunLockedError
from compressm_cli.sweeps import workers
from compressm_cli.sweeps.board import Board, Entry, Outcome
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.workers import Crew

processes = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.02)


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def tries(job: Job) -> int:
    return len((job.folder / "v0001" / "tries").read_text())


def test_all_are_trained_once(tmp_path: Path, make_jobs: MakeJobs, stand_in: Behave) -> None:
    jobs, told = make_jobs("a", "b", "c"), []
    outcomes = Crew(tmp_path, jobs=2).run_all(jobs, told.append)
    assert [outcome.job for outcome in outcomes] == jobs
    assert all(o.run is not None and o.run.is_done and o.error is None and not o.was_there for o in outcomes)
    assert sorted(o.job.name for o in told) == ["a, seed 0", "b, seed 0", "c, seed 0"]
    again = Crew(tmp_path, jobs=2).run_all(make_jobs("a", "b", "c"))
    assert all(outcome.was_there for outcome in again)
    assert [tries(job) for job in jobs] == [1, 1, 1]


def test_a_failure_ends_what_is_not_begun(tmp_path: Path, make_jobs: MakeJobs, stand_in: Behave) -> None:
    jobs = make_jobs("a", "b", "c")
    stand_in(a="fails")
    outcomes = Crew(tmp_path).run_all(jobs)
    assert [outcome.status for outcome in outcomes] == ["failed", "waiting", "waiting"]
    assert outcomes[0].error == "a went wrong"
    kept = Crew(tmp_path, keep_going=True).run_all(jobs)
    assert [outcome.status for outcome in kept] == ["failed", "done", "done"]
    # Tried again, and of two failures the later one is told.
    assert tries(jobs[0]) == 2
    assert kept[0].error == "a went wrong"
    stand_in()
    assert [o.status for o in Crew(tmp_path).run_all(jobs)] == ["done", "done", "done"]
    assert [tries(job) for job in jobs] == [3, 1, 1]


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        ("is killed", "killed from outside by SIGKILL.*memory"),
        ("fails without a word", "exit code 3 and said nothing; see .*logs/a-seed0.txt"),
    ],
)
def test_what_a_process_does_not_say_is_said_for_it(
    tmp_path: Path, make_jobs: MakeJobs, stand_in: Behave, behaviour: str, told: str
) -> None:
    stand_in(a=behaviour)
    (outcome,) = Crew(tmp_path).run_all(make_jobs("a"))
    assert outcome.run is None
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(outcome.error)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_has_all_of_them_save(
    tmp_path: Path, make_jobs: MakeJobs, stand_in: Behave, number: int, code: int
) -> None:
    jobs = make_jobs("a", "b", "c")
    stand_in(a="trains on", b="trains on")

    def send() -> None:
        until(lambda: all((job.folder / "v0001" / "metrics.jsonl").exists() for job in jobs[:2]))
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(StoppedError, match=r"0 of 3 trainings are done.*go on with: this") as stopped:
        Crew(tmp_path, jobs=2, way_on="this").run_all(jobs)
    sender.join()
    assert stopped.value.exit_code == code
    assert all((job.folder / "v0001" / "saved").exists() for job in jobs[:2])
    assert not jobs[2].folder.exists()
    stand_in()
    assert [outcome.status for outcome in Crew(tmp_path).run_all(jobs)] == ["done"] * 3
    assert [tries(job) for job in jobs] == [2, 2, 1]


def test_a_second_interrupt_ends_them_at_once(tmp_path: Path, make_jobs: MakeJobs, stand_in: Behave) -> None:
    (job,) = make_jobs("a")
    stand_in(a="trains on")

    def send() -> None:
        until((job.folder / "v0001" / "metrics.jsonl").exists)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(KeyboardInterrupt):
        Crew(tmp_path).run_all([job])
    sender.join()
    assert not (job.folder / "v0001" / "saved").exists()


def test_nobody_trains_on_without_whoever_began_it(
    tmp_path: Path, make_jobs: MakeJobs, stand_in: Behave
) -> None:
    (job,) = make_jobs("a")
    stand_in(a="trains on")
    parent = processes.Process(target=Crew(tmp_path).run_all, args=([job],))
    parent.start()
    until((job.folder / "v0001" / "metrics.jsonl").exists)
    # While it lives, nobody else trains them.
    with pytest.raises(RunLockedError, match=f"process {parent.pid} .* trains it since"):
        Crew(tmp_path).run_all([job])
    assert parent.pid is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    # What it has begun saves first, and as long as it does nobody begins the same.
    with pytest.raises(RunLockedError, match="has ended, and processes that it started are still at work"):
        Crew(tmp_path).run_all([job])
    until((job.folder / "v0001" / "saved").exists)
    stand_in()

    def goes_on() -> bool:
        try:
            return Crew(tmp_path).run_all([job])[0].status == "done"
        except RunLockedError:
            return False

    until(goes_on)
    assert [path.name for path in job.folder.glob("v*")] == ["v0001"]


class Pruning:
    """Gives one job, and has it ended when it was judged."""

    def __init__(self, job: Job) -> None:
        self.waiting = [job]
        self.outcomes: list[Outcome] = []

    def take(self) -> Job | None:
        return self.waiting.pop() if self.waiting else None

    def looked(self, entry: Entry) -> bool:
        return len(entry.progress.judged) > 2

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def test_a_source_may_end_a_job(tmp_path: Path, make_jobs: MakeJobs, stand_in: Behave) -> None:
    (job,) = make_jobs("a")
    stand_in(a="trains on")
    source, board = Pruning(job), Board(1)
    Crew(tmp_path).serve(source, board)
    (outcome,) = source.outcomes
    assert (outcome.status, board.entries[0].status) == ("pruned", "pruned")
    assert outcome.run is not None
    assert json.loads((outcome.run.folder / "run.json").read_text())["status"] == "pruned"
