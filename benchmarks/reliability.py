"""Kill runs with SIGKILL at chosen and at random moments, resume them, and compare how they end.

    python benchmarks/reliability.py --kills 200

Each run is killed once to three times and resumed with ``compressm train --resume`` after each. Then its weights,
orders and log lines, apart from times, must be those of a run that nobody disturbed, bit for bit.
"""

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import main
from compressm_cli.runs.folder import LOGS, Run

STEPS = 60
POLL_SECONDS = 0.001
KINDS = ["metrics", "compression", "checkpoint", "writing", "best", "final", "time"]
"""Moments that are seen from outside: a file has grown, or was written, or is being written; or some time is over."""
TIMES = {"seconds", "step_seconds", "joules", "peak_memory", "checkpoint_bytes"}

PRELOADED = [
    "compressm_cli.cli.train",
    "compressm_cli.engine.experiment",
    "compressm_cli.engine.sharded",
    "compressm_cli.render.plain_view",
    "compressm_cli.render.plots",
    "compressm_cli.reports",
    # matplotlib imports these with a figure: it takes longer than the run.
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "compressm_cli.engine.preloaded",
]
"""What the processes have imported before they begin."""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(PRELOADED)
PREPARATIONS: list[Callable[[], None]] = []
"""What each process does before its command line, such as to leave out what takes long and is not looked at."""


def recipe(case: str, root: Path) -> dict[str, Any]:
    """Of a case: a run of some seconds on the digits, with two cuts, after which every file is in motion."""
    layer, safety = CASES[case]
    return {
        "name": "kill",
        "device": "cpu",
        "data": {"task": "digits"},
        "model": {"layer": {"kind": layer, "state_dim": 8}, "model_dim": 8, "dropout": 0.1},
        "train": {
            "steps": STEPS,
            "batch_size": 16,
            "learning_rate": 1e-2,
            "form": "recurrent" if layer == "lru" else "auto",
            "log_every": 3,
            "eval_every": 7,
            "checkpoint_every": 5,
        },
        "compression": {
            "method": "hankel",
            "keep_fraction": 0.6,
            "schedule": {"kind": "listed", "at_steps": [18, 37]},
            **({} if safety is None else {"safety": safety}),
        },
        "budget": BUDGETS.get(case),
        "output": {"root": str(root)},
    }


CASES: dict[str, tuple[str, dict[str, Any] | None]] = {
    "lru": ("lru", None),
    "lru-trial": ("lru", {"trial_steps": 8, "tolerance": 0.0}),
    "lru-budget": ("lru", {"trial_steps": 8, "tolerance": 0.2}),
    "mamba": ("mamba", None),
}
"""Name -> layer and ``safety:`` section; without tolerance the slightest fall undoes a cut."""
BUDGETS = {"lru-budget": {"flops": "0.8x"}}
"""Cases that have a ``budget:``."""


@dataclass
class Tally:
    """What happened so far."""

    kills: int = 0
    runs: int = 0
    identical: int = 0
    moments: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def command(*arguments: str) -> multiprocessing.process.BaseProcess:
    """``compressm`` in a process of its own, which has torch imported already."""
    process = PROCESSES.Process(target=_command, args=(PREPARATIONS, arguments))
    process.start()
    return process


def _command(preparations: list[Callable[[], None]], arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for prepare in preparations:
        prepare()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    sys.exit(main.run(arguments))


def train(folder: Path, case: str) -> multiprocessing.process.BaseProcess:
    """Begin a run of a case below a folder."""
    folder.mkdir(parents=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(case, folder)), encoding="utf-8")
    return command("train", str(path), "--quiet")


def undisturbed(folder: Path, case: str) -> tuple[Run, float]:
    """A run that nobody kills, and the seconds it takes."""
    began = time.monotonic()
    process = train(folder, case)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{case}: the run ended with exit code {process.exitcode}")
    return Run.open(folder / "kill" / "v0001"), time.monotonic() - began


def moment(
    chance: random.Random, run: Path, seconds: float, kind: str | None = None
) -> tuple[str, Callable[[], bool]]:
    """A moment to kill at: its name, and whether it has come. Counted from now, so also in a resumed run."""
    kind = kind or chance.choice(KINDS)
    began, checkpoints = time.monotonic(), run / "checkpoints"
    if kind in ("metrics", "compression"):
        path, more = run / f"{kind}.jsonl", chance.randint(1, 25 if kind == "metrics" else 2)
        size = _lines(path)
        return f"{more} more lines of {path.name}", lambda: _lines(path) >= size + more
    if kind == "checkpoint":
        known, count = _names(checkpoints, "last-*.pt"), chance.randint(1, 5)
        seen: set[str] = set()

        def written() -> bool:
            seen.update(_names(checkpoints, "last-*.pt") - known)
            return len(seen) >= count

        return f"{count} more checkpoints", written
    if kind == "writing":
        return "within a write", lambda: bool(_names(checkpoints, ".*.*"))
    if kind in ("best", "final"):
        path = checkpoints / f"{kind}.pt"
        old = _changed(path)
        return f"{path.name} written", lambda: _changed(path) != old
    until = chance.uniform(0.0, seconds)
    return f"after {until:.3f} s", lambda: time.monotonic() - began >= until


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _names(folder: Path, pattern: str) -> set[str]:
    return {path.name for path in folder.glob(pattern)}


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def killed(process: multiprocessing.process.BaseProcess, has_come: Callable[[], bool]) -> bool:
    """Kill a process when its moment has come; False where it ended before, or the run was done (exit code 2)."""
    while process.is_alive():
        if has_come():
            process.kill()
            break
        time.sleep(POLL_SECONDS)
    process.join()
    if process.exitcode not in (0, 2, -9):
        raise RuntimeError(f"a run ended with exit code {process.exitcode}")
    return process.exitcode == -9


def disturbed(
    folder: Path, case: str, kills: int, chance: random.Random, seconds: float, tally: Tally
) -> Run:
    """A run that is killed so many times, if it lives that long, and resumed each time until it is done."""
    run = folder / "kill" / "v0001"
    name, has_come = moment(chance, run, seconds)
    process = train(folder, case)
    for left in reversed(range(kills)):
        if not killed(process, has_come):
            break
        tally.kills += 1
        tally.moments.append(name)
        name, has_come = moment(chance, run, seconds) if left else ("", lambda: False)
        if (run / "run.json").is_file():
            process = command("train", "--resume", str(run), "--quiet")
        else:  # nothing was begun; the next version is the first that is
            run = run.with_name(f"v{int(run.name[1:]) + 1:04d}")
            process = command("train", str(folder / "recipe.yaml"), "--quiet")
    process.join()
    if process.exitcode not in (0, 2):  # 2: it was done already, and only the plots were missing
        raise RuntimeError(f"{case}: resuming ended with exit code {process.exitcode}")
    return Run.open(run)


def differences(one: Run, other: Run) -> Iterator[str]:
    """In what two runs differ apart from times; nothing where they are identical."""
    for name in ("final_checkpoint", "best_checkpoint"):
        a, b = (Checkpoint.load(getattr(run, name)) for run in (one, other))
        if a.orders != b.orders or a.step != b.step:
            yield f"{name}: orders {a.orders} after {a.step} steps, {b.orders} after {b.step}"
        yield from (f"{name}: {key}" for key in a.weights if not torch.equal(a.weights[key], b.weights[key]))
    for name in LOGS:
        a_lines, b_lines = (_log(run.folder / name) for run in (one, other))
        if a_lines != b_lines:
            yield f"{name}: {len(a_lines)} lines, {len(b_lines)} lines"
    a_summary, b_summary = one.read_summary(), other.read_summary()
    yield from (f"summary.json: {k}" for k in a_summary if k not in TIMES and a_summary[k] != b_summary[k])
    if left := [path.name for path in other.folder.rglob(".*")]:
        yield f"left behind: {left}"
    if other.read_info()["status"] != "done":
        yield f"status {other.read_info()['status']}"


def _log(path: Path) -> list[dict[str, Any]]:
    """Every line, each of which must be whole; none where nothing was logged."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not text.endswith("\n"):
        raise ValueError(f"{path}: torn last line")
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text.splitlines()]


def measure(work: Path, kills: int, seed: int, known: dict[str, tuple[Run, float]], most: int = 3) -> Tally:
    """Kill until there were so many kills, each run once to ``most`` times; what came of it.

    ``known`` is what ``undisturbed`` gave of each case.
    """
    chance, tally, cases = random.Random(seed), Tally(), list(known)
    while tally.kills < kills:
        case = cases[tally.runs % len(cases)]
        whole, seconds = known[case]
        times = min(chance.randint(1, most), kills - tally.kills)
        run = disturbed(work / f"run-{tally.runs}", case, times, chance, seconds, tally)
        found = list(differences(whole, run))
        tally.runs += 1
        tally.identical += not found
        tally.differences += [f"{case}, {run.folder}: {difference}" for difference in found]
    return tally


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--work", type=Path, help="where the runs go; a temporary folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        wholes = {case: undisturbed(folder / f"whole-{case}", case) for case in given.cases.split(",")}
        result = measure(folder, given.kills, given.seed, wholes)
    for text in result.moments:
        print(f"killed {text}")
    for text in result.differences:
        print(f"differs: {text}")
    print(f"{result.kills} kills; {result.identical} of {result.runs} resumed runs ended bit-identical")
    sys.exit(result.identical != result.runs)
