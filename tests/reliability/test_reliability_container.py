"""A container or a notebook: no name, no home, a package that is only read, folders without ``fsync``."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import pytest
import reliability

import compressm_cli
from compressm_cli.runs.folder import Run

USER = 12345
"""Has no entry in the system's list of users."""
HOSTILE = """
import errno, os, pwd, stat

def getpwuid(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

def fsync(descriptor, sync=os.fsync):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    sync(descriptor)

def symlink(*names, **more):
    raise PermissionError(errno.EPERM, "Operation not permitted")

pwd.getpwuid, os.fsync, os.symlink = getpwuid, fsync, symlink
"""
"""What Python executes when it starts."""
TOGETHER = """
import contextlib, io, json, sys
del sys.path[0]  # the current folder
from compressm_cli.cli.main import run
told = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    told.append([code, out.getvalue(), err.getvalue()])
json.dump(told, sys.stdout)
"""
"""Python that executes command lines one after another, since to import PyTorch takes longer than each of them."""
RECIPE = """
name: tiny
seeds: [0]
data: {task: digits}
model: {layer: {kind: lru, state_dim: 8}, model_dim: 8}
train: {steps: 4, batch_size: 16, log_every: 1, eval_every: 2, checkpoint_every: 2, form: recurrent}
compression: {method: hankel, keep_fraction: 0.5, schedule: {kind: listed, at_steps: [2]}}
output: {keep_last: 2}
"""


@dataclass(frozen=True)
class Container:
    """Commands are run in ``work``, the only folder beside ``temporary`` that they can write to."""

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def package(self) -> Path:
        return self.root / "site" / "compressm_cli"

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{self.root / 'hostile'}:{self.root / 'site'}",
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }
        command = [*as_nobody(), sys.executable, *arguments]
        return subprocess.run(
            command, cwd=self.work, env=environment, capture_output=True, text=True, check=False, timeout=300
        )


def as_nobody() -> list[str]:
    """Root may write to what is only read, so it becomes a user who may read all; others are such users already."""
    if os.geteuid() != 0:
        return []
    ids = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    return ["setpriv", *ids, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    if as_nobody() and subprocess.run([*as_nobody(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("root can become no other user here: setpriv or its capabilities are missing")
    # Not among pytest's, which only their owner may look into.
    made = Container(Path(mkdtemp(prefix="container-")))
    source = Path(compressm_cli.__file__).parent
    shutil.copytree(source, made.package, ignore=shutil.ignore_patterns("__pycache__"))
    (made.root / "hostile").mkdir()
    (made.root / "hostile" / "sitecustomize.py").write_text(HOSTILE)
    read_only = [made.root, *(p for p in made.root.rglob("*") if p.is_dir())]
    for folder in (made.work, made.temporary):
        folder.mkdir()
        if as_nobody():
            os.chown(folder, USER, USER)
    (made.work / "recipe.yaml").write_text(RECIPE)
    for folder in read_only:
        folder.chmod(0o555)
    yield made
    for folder in read_only:
        folder.chmod(0o755)
    shutil.rmtree(made.root)


def checked(container: Container, code: int, out: str, told: str) -> str:
    """What a command has printed that has nothing to complain of, and leaves nothing where it should not."""
    assert code == 0, told
    assert "warning" not in told.lower(), told
    assert "Traceback" not in told, told
    assert list(container.root.rglob("~*")) == []
    assert list(container.package.rglob("__pycache__")) == []
    assert sorted(p.name for p in container.root.iterdir()) == ["hostile", "site", "tmp", "work"]
    return out


@pytest.fixture(scope="module")
def run(container: Container) -> Run:
    """A run that was trained there, in a process that had no cache yet."""
    done = container.python("-m", "compressm_cli", "train", "recipe.yaml", "--quiet")
    folder = checked(container, done.returncode, done.stdout, done.stderr).strip()
    assert folder == "outputs/tiny/v0001"
    return Run.open(container.work / folder)


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run as it was trained."""
    return Run(Path(shutil.copytree(run.folder, tmp_path_factory.mktemp("trained") / "whole")))


COMMANDS = {
    "resume": ["train", "--resume", "outputs/tiny/v0001", "--quiet"],
    "analyze": ["analyze", "outputs/tiny/v0001", "--json", "--thresholds", "0.9"],
    "compress": ["compress", "outputs/tiny/v0001", "--order", "2", "--output", "small.pt", "--no-evaluation"],
    "export": ["export", "small.pt", "--to", "safetensors", "--output", "exported"],
    "compare": ["compare", "outputs/tiny/v0001", "small.pt", "--no-speed", "--html", "report.html"],
    "bench": ["bench", "recipe.yaml", "--orders", "4", "--repeats", "1", "--json"],
    "doctor": ["doctor", "--json"],
}


@pytest.fixture(scope="module")
def printed(container: Container, run: Run, whole: Run) -> dict[str, str]:
    """What each command prints, of the run that was interrupted at its only check."""
    for path in (run.folder / "summary.json", run.final_checkpoint, run.last_checkpoints()[-1]):
        path.unlink()
    (run.folder / "run.json").write_text(json.dumps({**run.read_info(), "status": "interrupted"}))
    done = container.python("-c", TOGETHER, json.dumps(list(COMMANDS.values())))
    told = json.loads(checked(container, done.returncode, done.stdout, done.stderr))
    return {name: checked(container, *one) for name, one in zip(COMMANDS, told, strict=True)}


@pytest.mark.slow
def test_train(container: Container, whole: Run) -> None:
    assert whole.read_info()["status"] == "done"
    assert whole.read_summary()["orders"]["final"] == {"blocks.0.layer": 4}
    assert len(list(whole.plots.glob("*.png"))) == 3
    assert sorted(p.name for p in (container.work / "outputs" / "tiny").iterdir()) == ["v0001"]
    (cache,) = container.temporary.glob("compressm-*")
    assert cache.stat().st_mode & 0o777 == 0o700
    assert list((cache / "numba").rglob("*.nbc"))
    assert list((cache / "matplotlib").iterdir())


@pytest.mark.slow
def test_resume(printed: dict[str, str], run: Run, whole: Run) -> None:
    assert printed["resume"].endswith("tiny/v0001\n")
    assert run.read_info()["status"] == "done"
    assert run.read_info()["resumed"][-1]["step"] == 2
    assert list(reliability.differences(whole, run)) == []


@pytest.mark.slow
def test_analyze(container: Container, printed: dict[str, str]) -> None:
    found = json.loads(printed["analyze"])
    assert len(found["plots"]) == 4
    assert all((container.work / p).is_file() for p in found["plots"])


@pytest.mark.slow
def test_compress_export_and_compare(container: Container, printed: dict[str, str]) -> None:
    assert (container.work / "small.pt").is_file()
    assert [p.name for p in (container.work / "exported").iterdir()] == ["model.safetensors"]
    assert "Verdict" in printed["compare"]
    assert (container.work / "report.html").read_text(encoding="utf-8").count("<svg") == 6


@pytest.mark.slow
def test_bench(printed: dict[str, str]) -> None:
    assert len(json.loads(printed["bench"])) == 1


@pytest.mark.slow
def test_doctor_says_where_caches_are_and_why(container: Container, printed: dict[str, str]) -> None:
    found = {line["name"]: line for line in json.loads(printed["doctor"])}
    (cache,) = container.temporary.glob("compressm-*")
    assert found["cache"]["ok"] is True
    assert found["cache"]["detail"] == f"{cache} (a temporary folder; this user has no home)"
    kernels = found["compiled kernels"]
    assert kernels["ok"] is True
    beside = container.package / "ops" / "__pycache__"
    assert kernels["detail"] == (
        f"{cache / 'numba'} (a temporary folder; this user has no home; {beside}: Permission denied)"
    )
