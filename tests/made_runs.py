"""Finished runs of a tiny recipe, written by the documented format of the run folder, without training."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.methods.hankel.balanced import BalancedSystem
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, recipe_from_mapping, recipe_to_yaml
from compressm_cli.runs.folder import Run

STEPS = 100
MakeRun = Callable[..., Run]


def tiny_recipe(name: str, seed: int, compression: dict[str, Any] | None = None, **model: Any) -> Recipe:
    """Two LRU layers of 8 states on the digits."""
    layer = {"kind": "lru", "state_dim": 8, "r_min": 0.5, "r_max": 0.95}
    mapping = {
        "name": name,
        "seeds": [seed],
        "data": {"task": "digits"},
        "model": {"layer": layer, "model_dim": 8, "depth": 2, **model},
        "train": {"steps": STEPS, "batch_size": 16},
        "compression": compression or {"method": "none"},
    }
    return recipe_from_mapping(mapping, "test")


def tiny_checkpoint(recipe: Recipe, orders: dict[str, int] | None = None) -> Checkpoint:
    """A model with fresh weights, of the given orders."""
    torch.manual_seed(recipe.seeds[0])
    data = recipe.data.spec()
    return Checkpoint.of(build_model(recipe.model, data, orders), recipe, data, STEPS)


def _summary(checkpoint: Checkpoint, start: dict[str, int], accuracy: float, size: int) -> dict[str, Any]:
    share = sum(checkpoint.orders.values()) / sum(start.values())
    parameters = sum(p.numel() for p in checkpoint.build_model().parameters())
    return {
        "format": 1,
        "recipe": checkpoint.recipe.name,
        "seed": checkpoint.recipe.seeds[0],
        "steps": STEPS,
        "device": "cpu",
        "precision": "fp32",
        "test": {"accuracy": accuracy, "loss": 0.2, "rows": 360},
        "validation": {"accuracy": accuracy - 0.01, "loss": 0.2, "best_accuracy": accuracy, "best_step": 80},
        "orders": {"start": start, "final": checkpoint.orders},
        "parameters": {"start": 4000, "final": parameters},
        "checkpoint_bytes": size,
        "flops": {
            "training": 4e9 * share,
            "training_start_per_step": 4e7,
            "training_final_per_step": 4e7 * share,
            "inference_start_per_sequence": 1e6,
            "inference_final_per_sequence": 1e6 * share,
            "convention": "1 multiply-add = 2 FLOPs",
        },
        "seconds": {"total": 12.0 * share, "training": 10.0 * share, "evaluation": 2.0},
        "step_seconds": {"start": 0.1, "final": 0.1 * share},
        "joules": {"value": None, "reason": "no energy counter", "sources": []},
        "peak_memory": {"bytes": 512_000_000, "kind": "resident set of the process"},
        "checks": {"made": 2, "cut": 1, "rejected": 0},
    }


def _check_lines(checkpoint: Checkpoint, start: dict[str, int]) -> list[dict[str, Any]]:
    """A first check that cuts nothing, and a second one that cuts."""
    first = build_model(checkpoint.recipe.model, checkpoint.data)
    lines = []
    for name, layer in state_space_layers(first).items():
        hsv = BalancedSystem.of(layer.systems()[0], "real").hsv.tolist()
        after = checkpoint.orders[name]
        for step, order in ((20, start[name]), (40, after)):
            line = {
                "step": step,
                "layer": name,
                "order_before": start[name],
                "order_after": order,
                "hsv": hsv,
            }
            line |= {
                "reason": "test",
                "realization": "real",
                "gramian": "analytic",
                "tail": None,
                "bound": None,
            }
            cut = order != start[name]
            lines.append({**line, "measured_error": None, "seconds": 0.01, "accepted": True if cut else None})
    return lines


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """(name, seed, orders, accuracy, ...) -> a run below ``tmp_path/outputs``; ``old``: as it was logged once."""

    def make(
        name: str = "baseline",
        seed: int = 0,
        orders: tuple[int, int] = (8, 8),
        accuracy: float = 0.9,
        status: str = "done",
        model: dict[str, Any] | None = None,
        summary: dict[str, Any] | None = None,
        info: dict[str, Any] | None = None,
        old: bool = False,
    ) -> Run:
        compressed = orders != (8, 8)
        method = {"method": "hankel", "energy_threshold": 0.95} if compressed else None
        recipe = tiny_recipe(name, seed, method, **(model or {}))
        names = [f"blocks.{i}.layer" for i in range(2)]
        start = dict.fromkeys(names, 8)
        checkpoint = tiny_checkpoint(recipe, dict(zip(names, orders, strict=True)))
        run = Run.create(tmp_path / "outputs", name)
        run.recipe_path.write_text(recipe_to_yaml(recipe), encoding="utf-8")
        for step in range(10, STEPS + 1, 10):
            done = {"step": step, "train_loss": 2 * math.exp(-step / 40), "learning_rate": 1e-3}
            run.append_metrics({**done, "step_seconds": 0.1, "orders": checkpoint.orders})
            found = {"validation_loss": 2 * math.exp(-step / 50), "validation_accuracy": step / 120}
            spent = {} if old else {"flops": 4e7 * step, "seconds": 0.12 * step}
            run.append_metrics({"step": step, **found, **spent})
        if compressed:
            for line in _check_lines(checkpoint, start):
                run.append_compression(line)
        run.write_info(
            {
                "status": status,
                "seed": seed,
                "versions": {"torch": "2"},
                "device": {"type": "cpu", "name": "test", "threads": 1},
                "machine": {"system": "Linux", "node": "here"},
                "git": {"commit": "a" * 40, "dirty": False},
                **(info or {}),
            }
        )
        if status == "done":
            size = checkpoint.save(run.final_checkpoint)
            run.write_summary({**_summary(checkpoint, start, accuracy, size), **(summary or {})})
        else:
            checkpoint.save(run.last_checkpoint(50))
        return run

    return make
