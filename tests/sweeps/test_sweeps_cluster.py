"""Trainings as jobs of a cluster: submitted once, watched, saved where their time is over. submitit's own processes
on this machine stand for Slurm."""

import json
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from stand_ins import Behave, MakeJobs

from compressm_cli.cli.main import run
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.engine.signals import StoppedError
from compressm_cli.sweeps import cluster as cluster_module
from compressm_cli.sweeps.board import Outcome
from compressm_cli.sweeps.cluster import (
    ClusterCrew,
    ClusterTraining,
    alive_in_slurm,
    slurm_parameters,
    slurm_script,
)

submitit = pytest.importorskip("submitit")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(cluster_module, "QUEUE_SECONDS", 0.05)


class OnThisMachine:
    """A cluster of submitit's local processes."""

    def __init__(self, folder: Path) -> None:
        self._executor = submitit.LocalExecutor(folder)
        self._executor.update_parameters(timeout_min=5)
        self.jobs: dict[str, submitit.Job[int]] = {}
        self.cancelled: list[str] = []

    def submit(self, trainings: Sequence[ClusterTraining]) -> list[str]:
        jobs = [self._executor.submit(training) for training in trainings]
        self.jobs |= {job.job_id: job for job in jobs}
        return [job.job_id for job in jobs]

    def alive(self, ids: Sequence[str]) -> set[str]:
        return {one for one in ids if one in self.jobs and not self.jobs[one].done()}

    def cancel(self, ids: Sequence[str]) -> None:
        self.cancelled += ids


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_they_are_submitted_once_and_watched(tmp_path: Path, make_jobs: MakeJobs, stand_in: Behave) -> None:
    jobs = make_jobs("a", "b")
    stand_in(b="fails")
    cluster, noted = OnThisMachine(tmp_path / "slurm"), dict[str, str]()
    crew = ClusterCrew(tmp_path, cluster, {}, noted.update, keep_going=True)
    assert [outcome.status for outcome in crew.run_all(jobs)] == ["done", "failed"]
    assert noted.keys() == {"a, seed 0", "b, seed 0"}
    stand_in()
    again = ClusterCrew(tmp_path, cluster, noted, noted.update)
    outcomes = again.run_all(jobs)
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    assert [outcome.was_there for outcome in outcomes] == [True, False]
    assert len(cluster.jobs) == 3


def test_who_stops_watching_ends_no_training(tmp_path: Path, make_jobs: MakeJobs, stand_in: Behave) -> None:
    (job,) = make_jobs("a")
    stand_in(a="trains on")
    cluster, noted = OnThisMachine(tmp_path / "slurm"), dict[str, str]()

    def stop() -> None:
        until((job.folder / "v0001" / "metrics.jsonl").exists)
        os.kill(os.getpid(), signal.SIGINT)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(StoppedError, match="the trainings go on in Slurm") as stopped:
        ClusterCrew(tmp_path, cluster, {}, noted.update).run_all([job])
    stopper.join()
    assert stopped.value.exit_code == 130
    (number,) = noted.values()
    assert cluster.alive([number]) == {number}
    # Its time is over, of which Slurm warns all its processes: it saves, and whoever watches now sees it end.
    watched: list[Outcome] = []
    watcher = threading.Thread(
        target=lambda: watched.extend(ClusterCrew(tmp_path, cluster, noted, noted.update).run_all([job]))
    )
    watcher.start()
    parent = int((job.folder / "v0001" / "parent").read_text())
    (child,) = _children(parent)
    os.kill(child, signal.SIGUSR2)
    os.kill(parent, signal.SIGUSR2)
    # Queued again, as Slurm does it and submitit on this machine, it comes to its end.
    watcher.join()
    assert (job.folder / "v0001" / "saved").exists()
    assert [outcome.status for outcome in watched] == ["done"]
    assert len(cluster.jobs) == 1


def _children(process: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch, squeue: str) -> None:
    """Commands of Slurm that say what a test wants."""
    folder.mkdir()
    for name, says in (("squeue", squeue), ("srun", ""), ("sbatch", "echo 'Submitted batch job 7'")):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{says}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_the_queue_says_what_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert alive_in_slurm([]) == set()
    fake_slurm(tmp_path / "bin", monkeypatch, "echo 7_0; echo 7_1; echo 9")
    assert alive_in_slurm(["7_0", "7_2", "9"]) == {"7_0", "9"}
    (tmp_path / "bin" / "squeue").write_text(
        "#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n"
    )
    assert alive_in_slurm(["7_0"]) == set()
    (tmp_path / "bin" / "squeue").write_text("#!/bin/sh\necho 'cannot contact controller' >&2\nexit 1\n")
    with pytest.raises(RunFailedError, match="the queue cannot be read: cannot contact controller"):
        alive_in_slurm(["7_0"])


def test_settings_are_those_of_sbatch() -> None:
    found = slurm_parameters("time=30,partition=gpu gpus_per_node=1", "mine", 2, 4)
    assert found == {
        "job_name": "mine",
        "cpus_per_task": 2,
        "array_parallelism": 4,
        "time": 30,
        "partition": "gpu",
        "gpus_per_node": 1,
    }
    text = slurm_script(Path("/home"), found, 10)
    for line in (
        "#SBATCH --array=0-9%4",
        "#SBATCH --time=30",
        "#SBATCH --partition=gpu",
        "#SBATCH --cpus-per-task=2",
    ):
        assert line in text
    assert f"{sys.executable} -u -m submitit.core._submit /home" in text
    for wrong, told in (
        ("", "give the minutes"),
        ("time=x", "give the minutes"),
        ("tim=3", "'tim=3': write KEY=VALUE"),
    ):
        with pytest.raises(BadInputError, match=told):
            slurm_parameters(wrong, "mine", 1, None)


def test_the_command_shows_the_script_and_refuses_what_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, stand_in: Behave
) -> None:
    monkeypatch.chdir(tmp_path)
    mapping = {
        "name": "tiny",
        "device": "cpu",
        "data": {"task": "digits"},
        "model": {"layer": {"kind": "lru", "state_dim": 4}, "model_dim": 4},
        "train": {"steps": 20, "batch_size": 16},
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(mapping))
    words = ["sweep", "tiny.yaml", "train.learning_rate=0.01,0.02"]
    assert run([*words, "--slurm", "time=10", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "#SBATCH --array=0-1%2" in shown
    assert f"submitit.core._submit {tmp_path}/outputs/sweeps/tiny/v0001/slurm" in shown
    assert not (tmp_path / "outputs").exists()
    assert run([*words, "--slurm", "tim=10"]) == 2
    assert not (tmp_path / "outputs").exists()
    assert run([*words, "--quiet"]) == 0
    home = tmp_path / "outputs" / "sweeps" / "tiny" / "v0001"
    plan = json.loads((home / "sweep.json").read_text())
    (home / "sweep.json").write_text(json.dumps({**plan, "cluster": {"learning_rate=0.01, seed 0": "7_0"}}))
    fake_slurm(tmp_path / "bin", monkeypatch, "echo 7_0")
    capsys.readouterr()
    assert run(words) == 2
    assert "1 of its trainings are in Slurm's queue (7_0)" in capsys.readouterr().err
