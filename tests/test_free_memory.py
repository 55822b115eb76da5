"""How much memory a process may still take: of the machine, of a container or a job, of several processes."""

from pathlib import Path

import pytest

from compressm_cli.core import memory
from compressm_cli.core.memory import free_memory

MIB = 2**20


@pytest.fixture(autouse=True)
def _system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 100 MiB free, without groups."""
    machine = tmp_path / "meminfo"
    machine.write_text(f"MemTotal: 9999999 kB\nMemAvailable:   {100 * 1024} kB\n")
    monkeypatch.setattr(memory, "MACHINE", machine)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def put_group(folder: Path, limit: str, taken: int, files: int, version: int = 2) -> None:
    most, used, again = memory.NAMES[version == 2]
    folder.mkdir(parents=True)
    (folder / most).write_text(f"{limit}\n")
    (folder / used).write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{again} {files}\n")


def test_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_memory() == 100 * MIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory() == 25 * MIB


def test_where_nothing_is_told_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MACHINE", tmp_path / "absent")
    assert free_memory() is None


@pytest.mark.parametrize("version", [1, 2])
def test_the_least_of_what_groups_may_take(tmp_path: Path, version: int) -> None:
    kind, root = ("memory", tmp_path / "groups" / "memory") if version == 1 else ("", tmp_path / "groups")
    (tmp_path / "own").write_text(f"7:cpu,pids:/else\n3:{kind}:/slurm/job_1/step\n")
    put_group(root / "slurm" / "job_1", str(60 * MIB), 50 * MIB, 30 * MIB, version)
    put_group(root / "slurm" / "job_1" / "step", "max", 1, 0, version)
    assert free_memory() == 40 * MIB
    (root / "slurm" / "job_1" / memory.NAMES[version == 2][1]).write_text(str(100 * MIB))
    assert free_memory() == 0
