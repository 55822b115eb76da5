"""What a training step costs on a machine that has other work to do, with the threads that a run takes there.

    python benchmarks/busy_machine.py [--recipes quickstart/baseline,smnist/lru_baseline] [--loads 3] [--rounds 5]

Each line is one recipe on the idle machine, or beside so many processes that do nothing but compute. In alternation
a process each trains it with one thread, with as many as there are cores, both as OpenMP waits by default and without
spinning, and with ``train.threads: auto``; a process begins its own measurement of what is fastest, with nothing in
the cache. Prints the medians over the rounds of the milliseconds of a step, and their ratios to one thread, paired by
round.
Leave the machine alone meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

STEP = """
import json, sys
import torch
from compressm_cli.recipe import load_recipe
from compressm_cli.engine.threads import choose_threads, using
from compressm_cli.engine.trainee import Setting, Trainee
recipe = load_recipe(sys.argv[1], ["device=cpu", f"train.threads={sys.argv[2]}"])
data = recipe.data.spec()
with using(choose_threads(recipe, data)):
    trainee = Trainee(Setting.of(recipe, data), None)
    trainee.train(3)
    steps = max(1, round(0.2 / trainee.train(1)))
    print(json.dumps([sorted(trainee.train(steps) for _ in range(5))[2], torch.get_num_threads()]))
"""
LOAD = "while True: pass"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CONTENDERS = {
    "one thread": ("1", None),
    f"{CORES} threads": (str(CORES), None),
    f"{CORES} threads, not spinning": (str(CORES), "passive"),
    "auto": ("auto", None),
}


@contextmanager
def busy(loads: int) -> Iterator[None]:
    """Within, so many other processes compute."""
    others = [subprocess.Popen([sys.executable, "-c", LOAD]) for _ in range(loads)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def step(recipe: str, threads: str, policy: str | None) -> tuple[float, int]:
    """Seconds of a step in a process of its own, and the threads that it took."""
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    if policy is not None:
        environment["OMP_WAIT_POLICY"] = policy
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-c", STEP, recipe, threads],
            env={**environment, "COMPRESSM_CACHE": cache},
            capture_output=True,
            text=True,
            check=True,
        )
    seconds, taken = json.loads(done.stdout.splitlines()[-1])
    return seconds, taken


def measure(recipe: str, loads: int, rounds: int) -> None:
    found: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    taken: list[int] = []
    with busy(loads):
        for _ in range(rounds):
            for name, (threads, policy) in CONTENDERS.items():
                seconds, count = step(recipe, threads, policy)
                found[name].append(seconds)
                if name == "auto":
                    taken.append(count)
    print(f"{recipe}, {'idle' if not loads else f'beside {loads} loads'} (auto took {taken} threads)")
    first = found["one thread"]
    for name, times in found.items():
        ratio = statistics.median(t / one for t, one in zip(times, first, strict=True))
        print(f"  {name:32} {1e3 * statistics.median(times):8.1f} ms   {ratio:5.2f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", default="quickstart/baseline,smnist/lru_baseline,text_lm/mamba_baseline")
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for recipe in options.recipes.split(","):
        for loads in (0, options.loads):
            measure(recipe, loads, options.rounds)


if __name__ == "__main__":
    main()
