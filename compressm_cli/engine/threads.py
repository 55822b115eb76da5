"""How many CPU threads a run takes: as many as make its steps faster, on this machine and beside what else it does.

Threads wait for one another several times a layer. For small models that costs what they save; on a busy machine,
where the system takes one of them off its processor while the others wait, many times more.
"""

import hashlib
import json
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.caches import remember, remembered
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.precision import resolve_device
from compressm_cli.engine.trainee import Setting, Trainee
from compressm_cli.engine.view import View
from compressm_cli.ops.machine import is_busy, processor_name
from compressm_cli.recipe import Recipe
from compressm_cli.recipe.bounds import least_parameters

VERSION = 1
"""Of what is timed."""
GAIN = 0.85
"""Twice the threads are taken where a step then costs at most so much of its time."""
FEWEST_ROUNDS, MOST_ROUNDS = 3, 9
SECONDS, SAMPLE_SECONDS = 1.0, 0.03
"""Aims for all rounds and for one sample: fast steps are timed several at once, slow ones in fewer rounds."""
LARGEST_TIMED = 100_000_000
"""Parameters from which on a model is not made for a timing: its products are worth all threads."""


@contextmanager
def using(threads: int) -> Iterator[None]:
    """Within, PyTorch and our kernels take so many threads for one operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_to_begin(
    recipe: Recipe, data: DataSpec, processes: int, initial: Checkpoint | None = None
) -> int:
    """For a run that begins: of several processes each takes what torchrun, or the user, has given it."""
    if processes > 1 and recipe.train.threads == "auto":
        return torch.get_num_threads()
    return choose_threads(recipe, data, None if initial is None else initial.orders)


def threads_to_go_on(recipe: Recipe, checkpoint: Checkpoint, view: View) -> int:
    """For a run that is resumed: as many as it had, since sums over more or fewer are rounded otherwise."""
    available = torch.get_num_threads()
    if recipe.train.threads != "auto":
        return recipe.train.threads
    had = (checkpoint.training or {}).get("threads", available)
    if had > available:
        view.message(
            f"warning: the run had {had} CPU threads, here there are {available}: it goes on from the same weights, "
            "not bit for bit as it would have"
        )
    return min(had, available)


def choose_threads(recipe: Recipe, data: DataSpec, orders: dict[str, int] | None = None) -> int:
    """The recipe's ``train.threads``; for ``auto`` what training steps of its model, at some orders, are fastest with.

    At most PyTorch's number of threads as it is now (OMP_NUM_THREADS, else the cores). It is found by timing steps on
    random data, with 1 and 2 threads, 2 and 4, and so on while that pays, and kept in the user's cache - unless other
    work keeps the machine busy: then it holds for this run. Leaves the random state as it was.
    """
    available, wanted = torch.get_num_threads(), recipe.train.threads
    if wanted != "auto":
        return wanted
    if (
        available == 1
        or resolve_device(recipe.device).type != "cpu"
        or least_parameters(recipe) > LARGEST_TIMED
    ):
        return available
    busy = is_busy()
    name = f"threads-{_problem(recipe, data, orders)}.json"
    if not busy and (known := _kept(name, available)) is not None:
        return known
    threads = _fastest(recipe, data, orders, available)
    if not busy:
        remember(name, {"threads": threads})
    return threads


def _kept(name: str, available: int) -> int | None:
    try:
        threads = remembered(name)["threads"]
    except (KeyError, TypeError):
        return None
    return threads if type(threads) is int and 1 <= threads <= available else None


def _problem(recipe: Recipe, data: DataSpec, orders: dict[str, int] | None) -> str:
    """Everything that the time of a step depends on, as a name."""
    train = recipe.train
    facts = [
        *(VERSION, processor_name(), platform.machine(), torch.__version__, torch.get_num_threads()),
        *(recipe.model.model_dump(mode="json"), orders, repr(data)),
        *(train.batch_size, train.accumulate, train.precision, train.form),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _fastest(recipe: Recipe, data: DataSpec, orders: dict[str, int] | None, available: int) -> int:
    threads = 1
    with torch.random.fork_rng(devices=[]):
        while threads < available:
            more = min(2 * threads, available)
            one, other = _seconds(recipe, data, orders, (threads, more))
            if other > GAIN * one:
                break
            threads = more
    return threads


def _seconds(
    recipe: Recipe, data: DataSpec, orders: dict[str, int] | None, counts: tuple[int, int]
) -> tuple[float, float]:
    """Of a step with either number of threads: medians over rounds in alternation, of some steps in a row each."""
    # What is compiled takes as many threads as what is not, and a second compilation takes long.
    plain = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": False})})
    trainees, repeats = [], []
    for threads in counts:
        with using(threads):
            trainee = Trainee(Setting.of(plain, data), orders)
            trainee.train(1)  # loads kernels
            repeats.append(max(1, round(SAMPLE_SECONDS / trainee.train(1))))
            trainees.append(trainee)
    found: tuple[list[float], list[float]] = ([], [])
    begun = time.perf_counter()
    while len(found[0]) < FEWEST_ROUNDS or (
        len(found[0]) < MOST_ROUNDS and time.perf_counter() - begun < SECONDS
    ):
        for trainee, steps, threads, times in zip(trainees, repeats, counts, found, strict=True):
            with using(threads):
                times.append(trainee.train(steps))
    return statistics.median(found[0]), statistics.median(found[1])
