"""Train the runs of reliability.py with several processes, and compare them with runs of one process.

    python benchmarks/processes.py --processes 2,4 --losses 4 [--parallel fsdp]
    python benchmarks/processes.py --processes 2 --losses 100 --cases lru --moments compression,construction,evaluation

Every run has cuts. With several processes the orders must be those of the run of one, the checksums of weights and
optimizer state the same in all processes after every change of shape (a run in which they differ fails), and the
losses equal to rounding. Then, ``--losses`` times a case, torchrun loses one process, drawn by lot, at a random
moment or at those of ``--moments`` in turn (SIGKILL), starts all anew and goes on: the run must end bit-identical to
an undisturbed one of as many.
"""

import argparse
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import reliability
import torch
import yaml

from compressm_cli.cli import main
from compressm_cli.cli import train as cli_train
from compressm_cli.runs.folder import Run

LIMIT_SECONDS = 600.0
PLACES = {
    "data": ("compressm_cli.engine.experiment:load_data", 1),
    "construction": ("compressm_cli.engine.train_state:build_optimizer", 1),
    "step": ("compressm_cli.engine.loop:training_step", reliability.STEPS),
    "evaluation": ("compressm_cli.engine.validation:evaluate", 8),
    "cut": ("compressm_cli.structure.surgery:apply_plan", 2),
    "saving": ("compressm_cli.engine.saving:Saving._process_state", 10),
}
"""Moments within a process: name -> a function whose call is the moment, and of how many calls one is drawn."""
MOMENTS = ["random", *reliability.KINDS, *PLACES]
SHOWN = 4000
"""Characters shown of what torchrun and its processes said last, where that went wrong."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def write_recipe(folder: Path, case: str, **changes: dict[str, Any]) -> Path:
    """The recipe of a case of reliability.py without dropout, which each process draws for itself."""
    mapping = reliability.recipe(case, folder)
    mapping["model"]["dropout"] = 0.0
    for part, values in changes.items():
        mapping[part] = {**(mapping.get(part) or {}), **values}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(mapping), encoding="utf-8")
    return path


def members(count: int, *arguments: str) -> list[BaseProcess]:
    """``compressm`` with these arguments in so many processes, begun as torchrun would."""
    return begun(count, _command, *arguments)


def begun(count: int, work: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """``work`` with these arguments in so many processes, begun as torchrun would."""
    port = free_port()
    found: list[BaseProcess] = [
        reliability.PROCESSES.Process(
            target=_member, args=(rank, count, port, reliability.PREPARATIONS, work, arguments)
        )
        for rank in range(count)
    ]
    for member in found:
        member.start()
    return found


def ended(found: list[BaseProcess], late: Callable[[], bool] = lambda: False) -> list[int]:
    """Wait for processes; their exit codes, by rank. Those that take too long, or are ``late``, are killed."""
    until = time.monotonic() + LIMIT_SECONDS
    while any(member.is_alive() for member in found):
        time.sleep(0.01)
        if late() or time.monotonic() > until:
            for member in found:
                member.kill()
    for member in found:
        member.join()
    return [-1 if member.exitcode is None else member.exitcode for member in found]


def _member(
    rank: int,
    count: int,
    port: int,
    preparations: list[Callable[[], None]],
    work: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), **where}
    cli_train.draw_plots = lambda run: None  # which takes as long as the run
    for prepare in preparations:
        prepare()
    work(*arguments)


def _command(*arguments: str) -> None:
    sys.exit(main.run(arguments))


def train(folder: Path, case: str, count: int, **changes: dict[str, Any]) -> Run:
    """A run of a case in so many processes; RuntimeError where one of them does not end with exit code 0."""
    path = write_recipe(folder, case, **changes)
    codes = ended(members(count, "train", str(path), "--quiet"))
    if any(codes):
        raise RuntimeError(f"{case}: {count} processes ended with exit codes {codes}")
    return Run.open(folder / "kill" / "v0001")


def torchrun(
    recipe: Path, count: int, restarts: int = 0, losing: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Train a recipe in so many processes that torchrun starts, and starts anew where one is lost.

    ``losing`` is what losing.py is told.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    command += ["--master-port", str(free_port()), "--max-restarts", str(restarts)]
    command += [str(Path(__file__).with_name("losing.py")), *losing] if losing else ["-m", "compressm_cli"]
    command += ["train", str(recipe), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def workers(parent: int) -> list[int]:
    """The process numbers of a torchrun's members, by rank."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            if f"\nPPid:\t{parent}\n" in status:
                variables = (folder / "environ").read_bytes().split(b"\0")
                rank = next(v for v in variables if v.startswith(b"RANK="))
                found.append((int(rank.removeprefix(b"RANK=")), int(folder.name)))
        except (OSError, StopIteration):
            continue
    return [number for _, number in sorted(found)]


def largest_difference(one: Run, other: Run) -> float:
    """The largest relative difference of a logged loss; RuntimeError where steps or orders differ."""
    a, b = ([m for m in run.read_metrics() if "checksum" not in m] for run in (one, other))
    cuts = [[(c["step"], c["unit"], c["after"]) for c in run.read_compression()] for run in (one, other)]
    if cuts[0] != cuts[1]:
        raise RuntimeError(f"{other.folder}: orders {cuts[1]}, and {cuts[0]} with one process")
    if [m["step"] for m in a] != [m["step"] for m in b]:
        raise RuntimeError(f"{other.folder}: other steps are logged than with one process")
    keys = ("train_loss", "validation_loss")
    return max(abs(x[k] - y[k]) / abs(x[k]) for x, y in zip(a, b, strict=True) for k in keys if k in x)


def checksums(run: Run) -> list[str]:
    return [m["checksum"] for m in run.read_metrics() if "checksum" in m]


def lost(
    folder: Path,
    case: str,
    count: int,
    chance: random.Random,
    whole: Run,
    seconds: float,
    moment: str = "random",
    **changes: dict[str, Any],
) -> tuple[str, list[str]]:
    """Lose one process at a moment; what was lost when, and in what the run then differs."""
    run, recipe, victim = folder / "kill" / "v0001", write_recipe(folder, case, **changes), None
    if moment in PLACES:
        place, calls = PLACES[moment]
        victim, call = chance.randrange(count), chance.randint(1, calls)
        name = f"{moment}, call {call}"
        launcher = torchrun(recipe, count, restarts=1, losing=("SIGKILL", str(victim), place, str(call)))
    else:
        launcher = torchrun(recipe, count, restarts=1)
        kind = None if moment == "random" else moment
        name, has_come = reliability.moment(chance, run, seconds, kind)
        victim = _killed(launcher, run, has_come, count, chance.randrange(count))
    errors = _said(launcher)
    what = f"nothing ({name})" if victim is None else f"process {victim} of {count}, {name}"
    if launcher.returncode != 0:
        return what, [f"torchrun ended with exit code {launcher.returncode}: {errors[-SHOWN:]}"]
    return what, list(reliability.differences(whole, Run.open(run)))


def _killed(
    launcher: subprocess.Popen[str], run: Path, has_come: Callable[[], bool], count: int, victim: int
) -> int | None:
    """Kill a process of a torchrun when the moment has come; None where all had ended before."""
    while launcher.poll() is None:
        if (run / "run.json").is_file() and has_come():
            found = workers(launcher.pid)
            if len(found) == count:
                os.kill(found[victim], 9)
                return victim
        time.sleep(reliability.POLL_SECONDS)
    return None


def _said(launcher: subprocess.Popen[str]) -> str:
    """What a torchrun and its processes say until they end. Those that take too long are killed."""
    try:
        return launcher.communicate(timeout=LIMIT_SECONDS)[1]
    except subprocess.TimeoutExpired:
        for number in [launcher.pid, *workers(launcher.pid)]:
            os.kill(number, 9)
        return launcher.communicate()[1]


def main_program() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", default="2,4", help="numbers of processes")
    parser.add_argument("--losses", type=int, default=4, help="how often a process is lost, a case")
    parser.add_argument("--cases", default=",".join(reliability.CASES))
    parser.add_argument("--moments", default="random", help=f"in turn, of {', '.join(MOMENTS)}")
    parser.add_argument("--parallel", choices=["ddp", "fsdp"], default="ddp", help="train.parallel")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counts, bad, chance = [int(n) for n in given.processes.split(",")], 0, random.Random(given.seed)
    losses, identical = 0, 0
    held, moments = {"parallel": given.parallel}, given.moments.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        for case in given.cases.split(","):
            one = train(Path(temporary) / f"{case}-1", case, 1)
            for count in counts:
                began = time.monotonic()
                run = train(Path(temporary) / f"{case}-{count}", case, count, train=held)
                seconds = time.monotonic() - began
                try:
                    difference = largest_difference(one, run)
                except RuntimeError as error:
                    bad += 1
                    print(f"{case}, {count} processes: {error}", flush=True)
                    continue
                told = f"{len(checksums(run))} checksums agreed, orders as with one process"
                print(f"{case}, {count} processes: {told}; losses differ by {difference:.1e}", flush=True)
            for number in range(given.losses):
                folder = Path(temporary) / f"{case}-lost{number}"
                moment = moments[number % len(moments)]
                what, found = lost(folder, case, count, chance, run, seconds, moment, train=held)
                losses, identical = losses + 1, identical + (not found)
                print(f"{case}: lost {what}: {'; '.join(found) or 'bit-identical'}", flush=True)
    print(f"{identical} of {losses} runs that lost a process ended bit-identical", flush=True)
    return int(bad > 0 or identical < losses)


if __name__ == "__main__":
    sys.exit(main_program())
