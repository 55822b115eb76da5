"""Start one recipe in many processes at the same moment, and then go on with one run in as many.

    python benchmarks/concurrency.py --processes 50

First every process must get a version of its own, and all must end alike. Then, of as many ``compressm train
--auto-resume`` on one run that was killed, exactly one must go on with it.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reliability
import torch
import yaml

from compressm_cli.cli import main, train
from compressm_cli.runs.folder import Run

NAME = "kill"
"""What benchmarks/reliability.py calls its runs."""
START_SECONDS = 600.0
"""How long all processes together may take until they stand at the start."""


@dataclass
class Outcome:
    """How one process ended."""

    code: int | None
    printed: str
    """Name of the run folder that it printed."""
    told: str
    """Its standard error."""


def at_once(count: int, folder: Path, *arguments: str) -> list[Outcome]:
    """Run one command in so many processes that wait for one another before they begin."""
    folder.mkdir(parents=True)
    barrier = reliability.PROCESSES.Barrier(count)
    given = [(barrier, folder / f"{i}.out", folder / f"{i}.err", arguments) for i in range(count)]
    many = [reliability.PROCESSES.Process(target=_command, args=one) for one in given]
    for process in many:
        process.start()
    for process in many:
        process.join()
    return [
        Outcome(process.exitcode, Path(out.read_text().strip()).name, err.read_text())
        for process, (_, out, err, _) in zip(many, given, strict=True)
    ]


def _command(barrier: Any, out: Path, err: Path, arguments: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    train.draw_plots = _no_plots
    barrier.wait(START_SECONDS)
    sys.exit(main.run(arguments))


def _no_plots(_: Run) -> None:
    """Drawing them would take most of the time, and nothing depends on them."""


def written(folder: Path, steps: int) -> Path:
    """The recipe of a tiny run below a folder."""
    folder.mkdir(parents=True)
    recipe = reliability.recipe("lru", folder)
    recipe["train"] |= {"steps": steps, "checkpoint_every": max(1, steps // 4)}
    recipe["compression"]["schedule"]["at_steps"] = [max(1, steps // 3)]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def distinct_versions(work: Path, count: int) -> tuple[int, list[str]]:
    """Begin so many runs at once; how many distinct versions there are, and everything that is not as it must be."""
    path = written(work, steps=6)
    ended = at_once(count, work / "told", "train", str(path), "--quiet")
    return len({one.printed for one in ended}), list(_wrong_with_versions(work / NAME, ended, count))


def _wrong_with_versions(folder: Path, ended: list[Outcome], count: int) -> Iterator[str]:
    yield from (f"exit code {one.code}: {one.told}" for one in ended if one.code != 0)
    expected = [f"v{number:04d}" for number in range(1, count + 1)]
    if (printed := sorted(one.printed for one in ended)) != expected:
        yield f"printed were {printed}"
    if (entries := sorted(os.listdir(folder))) != ["latest", *expected]:
        yield f"in the folder are {entries}"
    if (target := os.readlink(folder / "latest")) != expected[-1]:
        yield f"latest is {target}"
    runs = Run.find(folder)
    for run in runs:
        info = run.read_info()
        if (info["status"], info["seed"], "resumed" in info) != ("done", 0, False):
            yield f"{run.folder}: run.json says {info}"
        yield from (f"{run.folder}: {text}" for text in reliability.differences(runs[0], run))


def one_goes_on(work: Path, count: int) -> tuple[int, list[str]]:
    """Kill a run and go on with it in so many processes at once; how many did, and what is not as it must be."""
    whole = at_once(1, work / "first", "train", str(written(work / "whole", steps=24)), "--quiet")
    path = written(work / "part", steps=24)
    folder = work / "part" / NAME
    first = folder / "v0001"
    process = reliability.command("train", str(path), "--quiet")
    if not reliability.killed(process, lambda: bool(list((first / "checkpoints").glob("last-*.pt")))):
        raise RuntimeError("the run to go on with ended before it could be killed")
    ended = at_once(count, work / "told", "train", str(path), "--auto-resume", "--quiet")
    wrong = [f"exit code {one.code}: {one.told}" for one in [*whole, *ended] if one.code != 0]
    went_on = sum(f"going on with {first}" in one.told for one in ended)
    undisturbed = Run.open(work / "whole" / NAME / "v0001")
    for run in Run.find(folder):
        resumed = len(run.read_info().get("resumed", []))
        if resumed != (run.folder == first.resolve()):
            wrong.append(f"{run.folder} was resumed {resumed} times")
        wrong += [f"{run.folder}: {text}" for text in reliability.differences(undisturbed, run)]
    return went_on, wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--work", type=Path, help="where the runs go; a temporary folder by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        began = time.monotonic()
        versions, wrong = distinct_versions((given.work or Path(temporary)) / "versions", given.processes)
        print(f"{versions} distinct versions of {given.processes} processes started at once", flush=True)
        went_on, more = one_goes_on((given.work or Path(temporary)) / "auto-resume", given.processes)
        print(f"{went_on} of {given.processes} processes went on with the one unfinished run", flush=True)
    for text in [*wrong, *more]:
        print(f"wrong: {text}")
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(bool(wrong or more) or versions != given.processes or went_on != 1)
