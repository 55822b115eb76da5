"""The study of docs/results.md: what compression during training wins, against its alternatives at equal order.

    python benchmarks/study.py run mnist1d [--seeds 0,1,2,3,4] [--arms full,compressed,...] [--root outputs/study]
    python benchmarks/study.py report mnist1d [--root outputs/study]
    python benchmarks/study.py run mnist1d --arms rates --rates 4e-3,8e-3,16e-3    # and report, with the same rates

``run`` trains every arm with ``compressm train`` in processes of one thread, two at a time, and skips what is there.
For each seed (and learning rate) the orders that the arm ``compressed`` ended with are given to all others, and
``scratch-flops`` trains for as many steps as cost what ``compressed`` did. ``report`` prints Markdown.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scipy.stats import t as student

HALFWAY = "{kind: listed, fractions: [0.3]}"
PAPER_TIMES = "{kind: equidistant, until: 0.1, count: 4}"
PAPER = "realization: complex, gramian: analytic, horizon: infinite, moments: slice"


def hankel(settings: str = "", schedule: str = HALFWAY) -> str:
    """The override that cuts to the given orders, written ORDERS."""
    parts = ["method: hankel", "target_order: ORDERS", f"schedule: {schedule}", settings]
    return "compression={" + ", ".join(p for p in parts if p) + "}"


ARMS: dict[str, tuple[str, str, list[str]]] = {
    # name: (what it is, recipe, overrides)
    "full": ("full size, never cut", "full", []),
    "compressed": ("cut at 30 % by energy threshold (this project's defaults)", "compressed", []),
    "scratch": ("small from scratch", "full", ["model.layer.state_dim=ORDERS"]),
    "paper": ("paper's truncation, cut at 30 %", "full", [hankel(PAPER)]),
    "paper-early": ("paper's truncation, 4 cuts in the first 10 %", "full", [hankel(PAPER, PAPER_TIMES)]),
    "real": (
        "real-output truncation, analytic Gramians, cut at 30 %",
        "full",
        [hankel("gramian: analytic, horizon: infinite")],
    ),
    "early": ("this project's truncation, 4 cuts in the first 10 %", "full", [hankel(schedule=PAPER_TIMES)]),
    "post": (
        "this project's truncation after training, no training after it",
        "full",
        [hankel(schedule="{kind: listed, fractions: [1.0]}")],
    ),
    "post-paper": (
        "paper's truncation after training, no training after it",
        "full",
        [hankel(PAPER, "{kind: listed, fractions: [1.0]}")],
    ),
    "random": (
        "random states of the balanced real-output system, cut at 30 %",
        "full",
        [hankel("selection: random, gramian: analytic, horizon: infinite")],
    ),
}
ABLATIONS: dict[str, tuple[str, str, list[str]]] = {
    "random-refitted": (
        "random states, Gramians and read-out from data",
        "full",
        [hankel("selection: random")],
    ),
    "half": ("cut at 50 %", "full", [hankel(schedule="{kind: listed, fractions: [0.5]}")]),
    "several": (
        "4 cuts between 7.5 % and 30 %",
        "full",
        [hankel(schedule="{kind: equidistant, until: 0.3, count: 4}")],
    ),
    "adaptive": (
        "when the wanted order has settled",
        "full",
        [hankel(schedule="{kind: adaptive, every: 50}")],
    ),
    "transport": ("moments transported", "full", [hankel("moments: transport")]),
    "slice": ("moments sliced by index", "full", [hankel("moments: slice")]),
    "infinite": ("infinite horizon for Q", "full", [hankel("horizon: infinite")]),
    "sequence": ("analytic Gramians over the sequence's length", "full", [hankel("gramian: analytic")]),
    "complex": ("complex realization, else as compressed", "full", [hankel("realization: complex")]),
}
EQUAL_COST: dict[str, tuple[str, str, list[str]]] = {
    "scratch-flops": (
        "small from scratch, for the FLOPs of `compressed`",
        "full",
        ["model.layer.state_dim=ORDERS", "train.steps=STEPS"],
    ),
}
ALL = {**ARMS, **ABLATIONS, **EQUAL_COST}
GROUPS = {"ablations": list(ABLATIONS), "rates": ["full", "compressed", "scratch", "scratch-flops"]}


def folder(root: Path, task: str, arm: str, seed: int, rate: str | None = None) -> Path:
    name = f"{task}-{arm}" if rate is None else f"{task}-{arm}-lr{rate}"
    return root / f"seed{seed}" / name


def summary(root: Path, task: str, arm: str, seed: int, rate: str | None = None) -> dict | None:
    """The summary of a finished run, or None."""
    path = folder(root, task, arm, seed, rate) / "latest" / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else None


def finished(root: Path, task: str, arm: str, seed: int, rate: str | None) -> dict:
    """The summary of a run that must be there."""
    found = summary(root, task, arm, seed, rate)
    assert found is not None, f"{folder(root, task, arm, seed, rate)} is not finished"
    return found


def equal_cost_steps(root: Path, task: str, seed: int, rate: str | None) -> int:
    """The steps that a small model trains for the FLOPs of ``compressed``."""
    train(root, task, "scratch", seed, rate)
    spent = finished(root, task, "compressed", seed, rate)["flops"]["training"]
    return round(spent / finished(root, task, "scratch", seed, rate)["flops"]["training_final_per_step"])


def filled(override: str, root: Path, task: str, seed: int, rate: str | None) -> str:
    """An override with what only runs before it can tell: ORDERS and STEPS."""
    if "ORDERS" in override:
        orders = list(finished(root, task, "compressed", seed, rate)["orders"]["final"].values())
        return override.replace("ORDERS", json.dumps(orders))
    if "STEPS" in override:
        return override.replace("STEPS", str(equal_cost_steps(root, task, seed, rate)))
    return override


def train(root: Path, task: str, arm: str, seed: int, rate: str | None) -> None:
    """One run, unless it is there."""
    if summary(root, task, arm, seed, rate) is not None:
        return
    _, recipe, overrides = ALL[arm]
    place = folder(root, task, arm, seed, rate)
    command = [
        sys.executable, "-m", "compressm_cli", "train", f"study/{task}_{recipe}", "--quiet", f"--seeds={seed}",
        f"name={place.name}", f"output.root={place.parent}",
        *(filled(override, root, task, seed, rate) for override in overrides),
        *([] if rate is None else [f"train.learning_rate={rate}"]),
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stderr}")
    accuracy = 100 * finished(root, task, arm, seed, rate)["test"]["accuracy"]
    print(f"{place.name} seed {seed}: {accuracy:.2f} %", flush=True)


def run_seed(root: Path, task: str, arms: list[str], rates: list[str | None], seed: int) -> None:
    """All arms of one seed; the orders come from ``compressed``."""
    for rate in rates:
        for arm in ["compressed", *arms]:
            train(root, task, arm, seed, rate)


def interval(values: list[float]) -> str:
    """Mean and half width of the 95 % t-interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.2f} (one seed)"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:.2f} ± {half:.2f}"


def jump(root: Path, task: str, arm: str, seed: int) -> float | None:
    """Points of validation accuracy lost over all cuts, each measured right before and right after it."""
    path = folder(root, task, arm, seed) / "latest" / "metrics.jsonl"
    before, lost = 0.0, None
    for line in map(json.loads, path.read_text().splitlines()):
        if line.get("after_cut"):
            lost = (lost or 0.0) + 100 * (before - line["validation_accuracy"])
        before = line.get("validation_accuracy", before)
    return lost


def report(root: Path, task: str, seeds: list[int]) -> None:
    """A Markdown table of all arms that are there; differences to ``scratch`` are paired by seed."""
    columns = [
        "arm",
        "test accuracy, %",
        "minus small from scratch, points",
        "lost at the cuts, points",
        "orders",
    ]
    print(f"| {' | '.join([*columns, 'training FLOPs', 'seconds'])} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    found = {arm: {s: r for s in seeds if (r := summary(root, task, arm, s))} for arm in ALL}
    full, scratch = found["full"], found["scratch"]
    for arm, runs in found.items():
        if not runs:
            continue
        accuracy = interval([100 * r["test"]["accuracy"] for r in runs.values()])
        paired = [
            100 * (r["test"]["accuracy"] - scratch[s]["test"]["accuracy"])
            for s, r in runs.items()
            if s in scratch
        ]
        jumps = [j for s in runs if (j := jump(root, task, arm, s)) is not None]
        flops = statistics.mean(
            r["flops"]["training"] / full[s]["flops"]["training"] for s, r in runs.items() if s in full
        )
        seconds = statistics.mean(r["seconds"]["training"] for r in runs.values())
        orders = sorted({tuple(r["orders"]["final"].values()) for r in runs.values()})
        shown = ", ".join("+".join(map(str, o)) for o in orders)
        lost = f"{statistics.mean(jumps):.1f}" if jumps else "-"
        difference = interval(paired) if arm != "scratch" and paired else "-"
        print(
            f"| {ALL[arm][0]} (`{arm}`) | {accuracy} | {difference} | {lost} | {shown} | {flops:.2f}x | {seconds:.0f} |"
        )


def report_rates(root: Path, task: str, seeds: list[int], arms: list[str], rates: list[str]) -> None:
    """A Markdown table of arms by learning rates; each arm's best rate by *validation* accuracy is bold."""
    print(f"| arm | {' | '.join(rates)} | orders | training GFLOP |")
    print("| --- |" + " --- |" * (len(rates) + 2))
    for arm in arms:
        runs = {rate: [finished(root, task, arm, seed, rate) for seed in seeds] for rate in rates}
        chosen = max(rates, key=lambda r: statistics.mean(run["validation"]["accuracy"] for run in runs[r]))
        cells = {r: interval([100 * run["test"]["accuracy"] for run in runs[r]]) for r in rates}
        shown = [f"**{cells[r]}**" if r == chosen else cells[r] for r in rates]
        every = [run for at_rate in runs.values() for run in at_rate]
        orders = sorted({tuple(run["orders"]["final"].values()) for run in every})
        flops = sorted(run["flops"]["training"] / 1e9 for run in every)
        columns = [
            *shown,
            ", ".join("+".join(map(str, o)) for o in orders),
            f"{flops[0]:.0f} - {flops[-1]:.0f}",
        ]
        print(f"| {ALL[arm][0]} (`{arm}`) | {' | '.join(columns)} |")
    won = " | ".join(gains(root, task, seeds, rate) for rate in rates)
    print(f"| `compressed` minus `scratch-flops`, points | {won} | | |")


def gains(root: Path, task: str, seeds: list[int], rate: str) -> str:
    """What compression wins over the small model of equal cost at one rate, paired by seed."""

    def accuracy(arm: str, seed: int) -> float:
        return 100 * finished(root, task, arm, seed, rate)["test"]["accuracy"]

    return interval([accuracy("compressed", seed) - accuracy("scratch-flops", seed) for seed in seeds])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "report"])
    parser.add_argument("task", choices=["mnist1d", "digits", "digits256"])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument(
        "--arms", help="or: ablations, rates [default: all of the first study; with --rates, rates]"
    )
    parser.add_argument("--rates", help="learning rates to train every arm with; else the recipe's alone")
    parser.add_argument("--root", type=Path, default=Path("outputs/study"))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    seeds = [int(s) for s in options.seeds.split(",")]
    rates = options.rates.split(",") if options.rates else None
    wanted = options.arms or ("rates" if rates else ",".join(ARMS))
    arms = GROUPS.get(wanted) or wanted.split(",")
    if options.action == "report" and rates:
        report_rates(options.root, options.task, seeds, arms, rates)
    elif options.action == "report":
        report(options.root, options.task, seeds)
    else:
        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(lambda s: run_seed(options.root, options.task, arms, rates or [None], s), seeds))


if __name__ == "__main__":
    main()
