"""What compression does to selective layers: one shot on trained models, and while they train.

    python benchmarks/selective_study.py run [--tasks text-mamba,...] [--seeds 0,1,2] [--root outputs/selective-study]
    python benchmarks/selective_study.py report

``run`` trains what is not there yet with the recipes of ``recipes/`` (``compressm train``), in processes of one thread,
then cuts each full model in one shot by every variant to every order (``training.oneshot``) and evaluates it
on the test split. ``report`` prints the tables of docs/selective.md: means over the seeds with 95 % intervals.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from compressm_cli.data.interface import Split

CHANNEL = (
    *("random", "aire", "last", "ghost", "gramian", "mean_lti", "pivoted", "balanced_real", "balanced"),
    "balanced+distill",
)
GROUP = ("random", "ghost", "gramian", "gramian+distill", "balanced", "balanced+distill", "balanced+shared")
VECTOR = ("random", "gramian", "pivoted", "pivoted+distill")
DISTILL_STEPS = 150
"""Of ``+distill``; ``+shared`` shares out as many states over the layers by their Hankel energy."""

ONE_SHOT: dict[str, tuple[str, tuple[str, ...], tuple[int, ...]]] = {
    "text-mamba": ("text_lm/mamba_baseline", CHANNEL, (2, 4, 8, 16)),
    "text-mamba2": ("text_lm/mamba2_baseline", GROUP, (2, 4, 8, 16, 32)),
    "text-gla": ("text_lm/gla_baseline", VECTOR, (8, 16, 32)),
    "mqar-mamba2": ("mqar/mamba2_baseline", GROUP, (2, 4, 8, 16)),
    "digits-mamba": ("digits/mamba_baseline", CHANNEL, (2, 4, 8, 16)),
    "mnist1d-mamba": ("study/mnist1d_mamba", CHANNEL, (2, 4, 8, 16)),
}
"""Task -> the recipe of the full model, the variants and the orders."""

IN_TRAINING: dict[str, dict[str, tuple[str, list[str]]]] = {
    "text-mamba": {
        "small from scratch": ("text_lm/mamba_baseline", ["model.layer.state_dim=4"]),
        "balanced": ("text_lm/mamba_compressed", []),
        "gramian": ("text_lm/mamba_compressed", ["compression.variant=gramian"]),
        "random": ("text_lm/mamba_compressed", ["compression.variant=random"]),
    },
    "mqar-mamba2": {
        "small from scratch": ("mqar/mamba2_baseline", ["model.layer.state_dim=16"]),
        "balanced": ("mqar/mamba2_compressed", []),
        "random": ("mqar/mamba2_compressed", ["compression.variant=random"]),
    },
}
"""Task -> arm -> recipe and overrides; the full size is the model of ``ONE_SHOT``."""

FULL = "full size"


def folder_of(root: Path, task: str, arm: str, seed: int) -> Path:
    return root / task / arm.replace(" ", "-") / f"seed{seed}"


def train(root: Path, task: str, arm: str, seed: int) -> Path:
    """The run folder of one arm and seed; trained only where it has no summary yet."""
    place = folder_of(root, task, arm, seed)
    done = list(place.glob("*/v*/summary.json"))
    if done:
        return done[-1].parent
    recipe, overrides = (ONE_SHOT[task][0], []) if arm == FULL else IN_TRAINING[task][arm]
    command = [sys.executable, "-m", "compressm_cli", "train", recipe, *overrides]
    command += [f"seeds={seed}", f"output.root={place}", "device=cpu", "--quiet"]
    subprocess.run(command, check=True, env=one_thread(), stdout=subprocess.PIPE)
    return next(iter(place.glob("*/v*/summary.json"))).parent


def one_thread() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def one_shot(root: Path, task: str, seed: int) -> None:
    """Cut one trained model by every variant to every order; writes one_shot.json beside the run."""
    run = train(root, task, FULL, seed)
    if is_missing(run / "one_shot.json", task):
        arguments = [sys.executable, __file__, "cuts", "--tasks", task, "--run", str(run)]
        subprocess.run(arguments, check=True, env=one_thread())
        print(f"{task} seed {seed}: cut in one shot", flush=True)


def is_missing(file: Path, task: str) -> bool:
    """Whether a cut of the task is not in the file yet."""
    lines = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    found = {(line["variant"], line.get("order")) for line in lines}
    _, variants, orders = ONE_SHOT[task]
    return not {(variant, order) for variant in variants for order in orders} <= found


def cuts(task: str, run: Path) -> None:
    """``one_shot`` inside a process of its own."""
    import torch

    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.core.errors import RunFailedError
    from compressm_cli.engine.evaluation import evaluate
    from compressm_cli.engine.oneshot import compress
    from compressm_cli.engine.precision import prepare
    from compressm_cli.methods.hankel.method import HankelConfig

    prepare(torch.device("cpu"), "fp32")
    checkpoint = Checkpoint.load(run / "checkpoints" / "final.pt")
    dataset = checkpoint.recipe.data.load()
    whole = checkpoint.build_model()
    full, logits = evaluate(whole, dataset.test, 32), logits_of(whole, dataset.test)
    file = run / "one_shot.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    found: list[dict[str, object]] = known or [
        {"variant": FULL, "loss": full.loss, "accuracy": full.metrics["accuracy"]}
    ]
    _, variants, orders = ONE_SHOT[task]
    for variant in variants:
        for order in orders:
            if any((line["variant"], line.get("order")) == (variant, order) for line in known):
                continue
            name, _, how = variant.partition("+")
            target = {"target_order_total": order * len(checkpoint.orders)}
            config = HankelConfig(
                method="hankel",
                variant=name,
                distill_steps=DISTILL_STEPS if how == "distill" else 0,
                **(target if how == "shared" else {"target_order": order}),
            )
            line: dict[str, object] = {"variant": variant, "order": order}
            try:
                done = compress(checkpoint, config, dataset, evaluated=False)
            except RunFailedError as error:
                found.append({**line, "refused": str(error)})
                continue
            small = done.checkpoint.build_model()
            result = evaluate(small, dataset.test, 32)
            line |= {"loss": result.loss, "accuracy": result.metrics["accuracy"]}
            line["errors"] = [
                (r.details["measured_error"], r.details["predicted_error"]) for r in done.records
            ]
            difference = logits_of(small, dataset.test) - logits
            line["logits_error"] = float(difference.norm() / logits.norm())
            found.append(line)
    file.write_text(json.dumps(found, indent=1), encoding="utf-8")


def logits_of(model: "nn.Module", split: "Split") -> "Tensor":
    """Of up to a thousand rows."""
    import torch

    batch = split.rows(torch.arange(min(1000, len(split))))
    with torch.no_grad():
        logits: Tensor = model.eval()(batch.inputs, batch.lengths)
    return logits


def run_all(root: Path, tasks: list[str], seeds: list[int], workers: int) -> None:
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(one_shot, root, task, seed) for seed in seeds for task in tasks]
        jobs += [
            pool.submit(train, root, task, arm, seed)
            for seed in seeds
            for task in tasks
            for arm in IN_TRAINING.get(task, {})
        ]
        for job in jobs:
            job.result()


# ---- the tables ----------------------------------------------------------------------------------------------


def interval(values: Iterable[float]) -> str:
    """Mean and half the 95 % interval (Student's t)."""
    from scipy.stats import t

    found = list(values)
    if len(found) < 2:
        return f"{found[0]:.4f} (one seed)" if found else "-"
    half = t.ppf(0.975, len(found) - 1) * statistics.stdev(found) / math.sqrt(len(found))
    return f"{statistics.mean(found):.4f} ± {half:.4f}"


def report_one_shot(root: Path, task: str) -> None:
    files = sorted(root.glob(f"{task}/full-size/seed*/*/v*/one_shot.json"))
    runs = [json.loads(f.read_text(encoding="utf-8")) for f in files]
    if not runs:
        return
    key = "loss" if task.startswith("text") else "accuracy"
    print(f"\n### {task}: one shot, test {key}, {len(runs)} seeds\n")
    full = interval(line[key] for run in runs for line in run if line["variant"] == FULL)
    _, variants, orders = ONE_SHOT[task]
    print(f"Full size: {full}\n")
    print("| variant | " + " | ".join(f"r = {order}" for order in orders) + " |")
    print("| --- |" + " --- |" * len(orders))
    for variant in variants:
        cells = []
        for order in orders:
            lines = [
                line
                for run in runs
                for line in run
                if (line["variant"], line.get("order")) == (variant, order)
            ]
            cells.append(interval(line[key] for line in lines if key in line))
        if any(cell != "-" for cell in cells):
            print(f"| `{variant}` | " + " | ".join(cells) + " |")
    ratios = [
        measured / predicted
        for run in runs
        for line in run
        if line["variant"] == "balanced"
        for measured, predicted in line.get("errors", [])
        if predicted
    ]
    errors = [
        line["logits_error"]
        for run in runs
        for line in run
        if (line["variant"], line.get("order")) == ("balanced", 8) and "logits_error" in line
    ]
    if errors:
        print(f"\nRelative error of the logits, balanced at 8 states: {max(errors):.3f} at most")
    if ratios:
        print(f"\nMeasured over predicted error, balanced: {min(ratios):.2f} to {max(ratios):.2f}")


def report_in_training(root: Path, task: str) -> None:
    arms = [FULL, *IN_TRAINING.get(task, {})]
    found = {}
    for arm in arms:
        files = sorted(root.glob(f"{task}/{arm.replace(' ', '-')}/seed*/*/v*/summary.json"))
        found[arm] = [json.loads(f.read_text(encoding="utf-8")) for f in files]
    found = {arm: runs for arm, runs in found.items() if runs}
    if "small from scratch" not in found:
        return
    print(f"\n### {task}: cut while training, {len(found[FULL])} seeds\n")
    print(
        "| arm | test loss | minus small from scratch | test accuracy | loss jump at the cut | training FLOPs |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    small = {s["seed"]: s["test"]["loss"] for s in found["small from scratch"]}
    whole = {s["seed"]: s["flops"]["training"] for s in found[FULL]}
    for arm, runs in found.items():
        losses = interval(s["test"]["loss"] for s in runs)
        minus = (
            "-"
            if arm == "small from scratch"
            else interval(s["test"]["loss"] - small[s["seed"]] for s in runs)
        )
        accuracy = interval(s["test"]["accuracy"] for s in runs)
        flops = statistics.mean(s["flops"]["training"] / whole[s["seed"]] for s in runs)
        print(f"| {arm} | {losses} | {minus} | {accuracy} | {jump(root, task, arm)} | {flops:.2f}x |")


def jump(root: Path, task: str, arm: str) -> str:
    """Validation loss right after the cut less that right before it."""
    found = []
    for file in root.glob(f"{task}/{arm.replace(' ', '-')}/seed*/*/v*/metrics.jsonl"):
        lines = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
        after = [m for m in lines if m.get("after_cut")]
        before = [m for m in lines if after and m["step"] == after[0]["step"] and "validation_loss" in m]
        if after:
            found.append(after[0]["validation_loss"] - before[0]["validation_loss"])
    return interval(found) if found else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["run", "report", "cuts"])
    parser.add_argument("--tasks", default=",".join(ONE_SHOT))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--root", type=Path, default=Path("outputs/selective-study"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    tasks = options.tasks.split(",")
    if options.action == "run":
        run_all(options.root, tasks, [int(s) for s in options.seeds.split(",")], options.workers)
    elif options.action == "cuts":
        cuts(tasks[0], options.run)
    else:
        for task in tasks:
            report_one_shot(options.root, task)
            report_in_training(options.root, task)


if __name__ == "__main__":
    main()
