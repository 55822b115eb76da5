"""One of several processes that fails ends all of them, soon, and its own message is the one that is read."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import losing
import processes
import pytest
import torch

from compressm_cli.cli import main
from compressm_cli.core.errors import BadInputError

SECONDS = 10.0
"""How long all processes may take to end after one has failed."""

FAILURES: dict[str, tuple[Callable[[], BaseException], int, str]] = {
    "bad input": (
        lambda: BadInputError("the rows of this process are bad"),
        2,
        "the rows of this process are bad",
    ),
    "memory": (MemoryError, 1, "out of memory; lower train.batch_size"),
    "gpu memory": (
        lambda: torch.OutOfMemoryError("CUDA out of memory. Tried"),
        1,
        "out of memory (CUDA out of",
    ),
    "disk": (lambda: OSError(28, "No space left on device", "some.pt"), 1, "No space left on device"),
    "unexpected": (lambda: ZeroDivisionError("division by zero"), 1, "division by zero"),
    "lost": (lambda: BaseException(), 1, "of {count} was lost: it was killed, or its machine is gone"),
    "interrupt": (KeyboardInterrupt, 130, "interrupted"),
}
"""Name -> the error, exit code of all processes, and what is told."""


@dataclass(frozen=True)
class Case:
    """``place`` fails in process ``victim`` at its ``call``-th call; where it is empty, at any place.

    With ``slow``, a function that process ``slow_one`` never comes out of, not before it is in it.
    """

    place: str
    failure: str
    count: int
    victim: int
    call: int = 1
    slow: str | None = None
    slow_one: int = 0
    changes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        where = f"in {self.place.rpartition(':')[2]}" if self.place else f"in {self.slow}"
        return f"{self.victim} of {self.count}: {self.failure} {where}"


DATA = "compressm_cli.engine.experiment:load_data"
MODEL = "compressm_cli.engine.train_state:begun"
OPTIMIZER = "compressm_cli.engine.train_state:build_optimizer"
COSTS = "compressm_cli.engine.workload:costs_here"
STEP = "compressm_cli.engine.loop:training_step"
EVALUATION = "compressm_cli.engine.validation:evaluate"
PLAN = "compressm_cli.methods.hankel.method:Hankel.plan"
CALIBRATION = "compressm_cli.engine.checks:calibrate"
CUT = "compressm_cli.structure.surgery:apply_plan"
STATE = "compressm_cli.engine.saving:Saving._process_state"
SAVE = "compressm_cli.checkpoint:Checkpoint.save"
LOG = "compressm_cli.engine.listeners:Listeners.steps"
SUMMARY = "compressm_cli.runs.folder:Run.write_summary"
PARTS = {"train": {"parallel": "fsdp"}}

CASES = [
    Case(DATA, "bad input", 2, 1),
    Case(DATA, "unexpected", 3, 1),
    Case(DATA, "interrupt", 2, 0),
    Case(DATA, "interrupt", 2, 1),
    Case(MODEL, "bad input", 2, 1),
    Case(MODEL, "memory", 3, 2),
    Case(OPTIMIZER, "unexpected", 2, 0),
    Case(COSTS, "memory", 2, 0),
    Case(STEP, "gpu memory", 2, 1, call=10),
    Case(STEP, "unexpected", 3, 0, call=25),
    Case(STEP, "interrupt", 3, 2, call=10),
    Case(STEP, "memory", 2, 1, call=3, changes=PARTS),
    Case(EVALUATION, "unexpected", 2, 1, call=2),
    Case(PLAN, "memory", 2, 0),
    Case(PLAN, "memory", 2, 0, changes=PARTS),
    Case(CALIBRATION, "memory", 2, 0, changes=PARTS),
    Case(CALIBRATION, "unexpected", 2, 1, changes=PARTS),
    Case(CUT, "memory", 2, 1),
    Case(STATE, "unexpected", 2, 1, call=2),
    Case(SAVE, "disk", 2, 0, call=2),
    Case(SUMMARY, "disk", 2, 0),
    Case(STEP, "lost", 4, 0, call=10),
    # While another one is where it can be told nothing.
    Case(DATA, "bad input", 3, 1, slow=DATA, slow_one=2),
    Case("", "interrupt", 2, 1, slow=DATA),
    Case(STEP, "memory", 2, 1, call=4, slow=LOG),
    Case("", "lost", 3, 2, slow=PLAN),
]


def member(folder: Path, case: Case, *arguments: str) -> None:
    """One of the processes; its standard error goes to a file."""
    prepare(folder, case, int(os.environ["RANK"]))
    sys.exit(main.run(arguments))


def prepare(folder: Path, case: Case, rank: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    os.dup2(os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
    reached = folder / "reached"

    def endless(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            reached.touch()
            time.sleep(3600)

        return call

    def fail() -> None:
        while case.slow is not None and not reached.exists():
            time.sleep(0.01)
        (folder / "failed").write_text(str(time.monotonic()))
        if case.failure == "lost":
            os.kill(os.getpid(), signal.SIGKILL)
        if case.failure == "interrupt":  # twice: the first one asks a run to stop
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        else:
            raise FAILURES[case.failure][0]()

    if case.slow is not None and rank == case.slow_one:
        losing.patched(case.slow, endless)
    if rank == case.victim and case.place:
        losing.at_call(case.place, case.call, fail)
    elif rank == case.victim:
        threading.Thread(target=fail, daemon=True).start()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_end_soon_and_one_message_is_read(case: Case, tmp_path: Path) -> None:
    _, code, told = FAILURES[case.failure]
    path = processes.write_recipe(tmp_path, "lru", **case.changes)
    found = processes.begun(case.count, member, tmp_path, case, "train", str(path), "--quiet")
    codes = processes.ended(found, lambda: _late(tmp_path / "failed"))
    assert codes == [
        -9 if rank == case.victim and case.failure == "lost" else code for rank in range(case.count)
    ]
    errors = [
        line
        for rank in range(case.count)
        for line in (tmp_path / f"{rank}.err").read_text().splitlines()
        if line.strip()
    ]
    victim_is_main = case.failure == "lost" and case.victim == 0
    assert len(errors) == (case.count - 1 if victim_is_main else 1), errors
    stopped = case.failure == "interrupt"
    assert all(line == "interrupted" if stopped else line.startswith("error: ") for line in errors)
    assert told.format(count=case.count) in errors[0]
    assert "lost contact" not in errors[0]
    run = tmp_path / "kill" / "v0001"
    begun = case.place not in (DATA, "") or case.slow == PLAN
    assert (run / "run.json").is_file() == begun
    if begun and not victim_is_main:
        info = json.loads((run / "run.json").read_text())
        if case.failure == "interrupt":
            assert (info["status"], info["signal"]) == ("interrupted", "SIGINT")
        else:
            assert info["status"] == "failed"
            assert told.format(count=case.count) in info["error"]


@pytest.mark.slow
def test_torchrun_ends_soon_when_one_process_fails(tmp_path: Path) -> None:
    """Its processes end with their interpreters, which those of the tests above do not."""
    path = processes.write_recipe(tmp_path, "lru")
    launcher = processes.torchrun(path, 2, losing=("MemoryError", "1", STEP, "20"))
    _, said = launcher.communicate(timeout=processes.LIMIT_SECONDS)
    told = tmp_path / "kill" / "v0001" / "run.json"
    assert time.time() - told.stat().st_mtime < SECONDS
    assert [line[:20] for line in said.splitlines() if line.startswith("error: ")] == ["error: out of memory"]
    assert "process 1 of 2: RunFailedError: out of memory" in json.loads(told.read_text())["error"]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "count", "victim"), [(DATA, 2, 1), (STEP, 2, 0), (STEP, 3, 1)])
def test_the_loss_of_a_process_is_told_before_torchrun_ends_the_others(
    place: str, count: int, victim: int, tmp_path: Path
) -> None:
    """Its SIGTERM reaches them at once, within a run and outside of it."""
    path = processes.write_recipe(tmp_path, "lru")
    launcher = processes.torchrun(path, count, losing=("SIGKILL", str(victim), place, "1"))
    _, said = launcher.communicate(timeout=processes.LIMIT_SECONDS)
    errors = {line for line in said.splitlines() if line.startswith("error: ")}
    assert errors == {f"error: process {victim} of {count} was lost: it was killed, or its machine is gone"}


def _late(failed: Path) -> bool:
    return failed.exists() and time.monotonic() - float(failed.read_text() or "inf") > SECONDS
