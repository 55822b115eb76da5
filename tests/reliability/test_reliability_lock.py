"""One process trains a run, and a lock is never left behind for good."""

import errno
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressm_cli.cli import main
from compressm_cli.core.errors import RunFailedError
from compressm_cli.engine import experiment
from compressm_cli.recipe import Recipe, recipe_to_yaml
from compressm_cli.runs import lock
from compressm_cli.runs.folder import Run
from compressm_cli.runs.lock import STALE_SECONDS, RunLockedError

Maker = Callable[..., Recipe]
processes = multiprocessing.get_context("fork")


def started(root: Path) -> Run:
    run = Run.create(root, "one")
    run.write_info({"status": "running"})
    return run


def hold(run: Run, ready: Any) -> None:
    with run.lock():
        ready.set()
        time.sleep(60)


@pytest.fixture
def held(tmp_path: Path) -> Any:
    """A run, and a process that holds its lock."""
    run, ready = started(tmp_path), processes.Event()
    process = processes.Process(target=hold, args=(run, ready))
    process.start()
    assert ready.wait(20)
    yield run, process
    process.kill()
    process.join()


def test_a_live_run_is_not_resumed(held: Any, tiny: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    run, process = held
    run.write_recipe(recipe_to_yaml(tiny()))
    assert main.run(["train", "--resume", str(run.folder), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert f"this run is live: process {process.pid} on {platform.node()}" in told
    assert run.read_info() == {"status": "running"}


def test_the_lock_of_a_killed_process_is_free_at_once(held: Any) -> None:
    run, process = held
    process.kill()
    process.join()
    assert json.loads((run.folder / "lock").read_text())["pid"] == process.pid
    with run.lock():
        assert json.loads((run.folder / "lock").read_text())["pid"] == os.getpid()


def test_a_lock_is_given_back(tmp_path: Path) -> None:
    run = started(tmp_path)

    def fails() -> None:
        with run.lock():
            with pytest.raises(RunLockedError), run.lock():
                pass
            raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            fails()
        assert (run.folder / "lock").read_text() == ""


def refusing(code: int) -> Callable[..., None]:
    """A call of the system that answers with an error."""

    def call(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return call


NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL]


@pytest.mark.parametrize("code", [None, *NO_LOCKS])
def test_a_lock_of_another_host_counts_until_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """Also one of this host, where the file system has no locks."""
    if code is not None:
        monkeypatch.setattr(lock.fcntl, "flock", refusing(code))
    run = started(tmp_path)
    path = run.folder / "lock"
    host = "elsewhere" if code is None else platform.node()
    path.write_text(json.dumps({"pid": 7, "host": host, "started": "2026-01-01T00:00:00+00:00"}))
    with pytest.raises(RunLockedError, match=f"process 7 on {host} .* touched 0 s ago"), run.lock():
        pass
    assert json.loads(path.read_text())["pid"] == 7
    old = time.time() - STALE_SECONDS - 1
    os.utime(path, (old, old))
    with run.lock():
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_held_lock_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    run = started(tmp_path)
    path = run.folder / "lock"
    with run.lock():
        os.utime(path, (0, 0))
        until = time.monotonic() + 20
        while path.stat().st_mtime < 1 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > time.time() - 60


def test_a_held_lock_is_touched_where_times_cannot_be_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    path.write_bytes(text := b'{"pid": 7}')
    descriptor = os.open(path, os.O_RDWR)
    os.utime(descriptor, (0, 0))
    monkeypatch.setattr(os, "utime", refusing(errno.EPERM))
    lock._beat(descriptor)
    assert os.fstat(descriptor).st_mtime > time.time() - 60
    os.close(descriptor)
    assert path.read_bytes() == text


def test_a_mandatory_lock_is_one_that_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On SMB, what another process has locked answers EACCES, also to who would read in it who that is."""
    run = started(tmp_path)
    monkeypatch.setattr(lock.fcntl, "flock", refusing(errno.EACCES))
    monkeypatch.setattr(os, "pread", refusing(errno.EACCES))
    with (
        pytest.raises(RunLockedError, match="this run is live: process unknown on an unknown host"),
        run.lock(),
    ):
        pass


@pytest.mark.parametrize("code", [errno.EIO, errno.EBADF])
def test_a_lock_that_fails_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(lock.fcntl, "flock", refusing(code))
    with pytest.raises(OSError, match=os.strerror(code)), started(tmp_path).lock():
        pass


def test_a_lock_that_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(tmp_path)
    monkeypatch.setattr(lock.os, "open", refusing(errno.EROFS))
    told = "lock: cannot be written: Read-only file system; make it writable, or copy the run to a place"
    with pytest.raises(RunFailedError, match=told), run.lock():
        pass


def contend(run: Run, begin: Any, won: Any) -> None:
    begin.wait()
    try:
        with run.lock():
            with won.get_lock():
                won.value += 1
            time.sleep(1.0)
    except RunLockedError:
        pass


def test_of_many_at_once_one_wins(tmp_path: Path) -> None:
    run, begin, won = started(tmp_path), processes.Event(), processes.Value("i", 0)
    many = [processes.Process(target=contend, args=(run, begin, won)) for _ in range(6)]
    for process in many:
        process.start()
    begin.set()
    for process in many:
        process.join()
        assert process.exitcode == 0
    assert won.value == 1


@pytest.mark.usefixtures("rough_flops")
def test_a_run_is_locked_while_it_trains(tiny: Maker, train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    holders = []

    def watched(make: Any, *others: Any) -> None:
        trainer = make()
        original(lambda: trainer, *others)
        lock = trainer.run.folder / "lock"
        holders.append(json.loads(lock.read_text())["pid"])
        with pytest.raises(RunLockedError):
            experiment.resume(trainer.run, trainer.recipe, trainer.listeners.view, "test")

    original = experiment._train
    monkeypatch.setattr(experiment, "_train", watched)
    run = train(tiny(steps=2))
    assert holders == [os.getpid()]
    assert (run.folder / "lock").read_text() == ""
