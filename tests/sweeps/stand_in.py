"""What ``compressm train RECIPE --auto-resume`` does to files, without training anything."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml

from compressm_cli.core.lifeline import hold_on


def main() -> int:
    """Succeeds, or does what the variable STAND_IN says by the name of the recipe."""
    hold_on()
    path = Path(sys.argv[1])
    recipe = yaml.safe_load(path.read_text())
    name, seed = recipe["name"], recipe["seeds"][0]
    run = _run(Path(recipe["output"]["root"]) / name, path, seed)
    with (run / "tries").open("a") as file:
        file.write("x")
    known = json.loads(os.environ["STAND_IN"])
    behaviour = known.get(name, known.get("*", "succeeds"))
    if behaviour == "fails":
        _info(run, seed, "failed")
        print(f"warning: of no importance\nerror: {name} went wrong", file=sys.stderr)
        return 1
    if behaviour == "fails without a word":
        return 3
    if behaviour == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "trains on" and not (run / "saved").exists():
        return _train_on(run, seed)
    value = 0.5 + seed / 100 + recipe["train"]["learning_rate"]
    _log(run, {"step": 20, "train_loss": 1.0, "orders": {"a": 4}})
    _log(run, {"step": 20, "validation_loss": 1.0, "validation_accuracy": value})
    summary = {
        "format": 2,
        "seed": seed,
        "steps": 20,
        "primary": {"name": "accuracy", "title": "accuracy", "higher_is_better": True, "unit": "share"},
        "test": {"accuracy": value - 0.1, "loss": 1.0},
        "validation": {"accuracy": value, "loss": 1.0, "best_accuracy": value, "best_step": 20},
        "flops": {"training": 1e6},
        "seconds": {"total": 2.0},
    }
    (run / "summary.json").write_text(json.dumps(summary))
    _info(run, seed, "done")
    return 0


def _run(folder: Path, recipe: Path, seed: int) -> Path:
    """That of this seed, or a new one."""
    folder.mkdir(parents=True, exist_ok=True)
    for known in sorted(folder.glob("v*")):
        if json.loads((known / "run.json").read_text())["seed"] == seed:
            return known
    for number in range(1, 100):
        run = folder / f"v{number:04d}"
        try:
            run.mkdir()
        except FileExistsError:
            continue
        break
    (run / "recipe.yaml").write_text(recipe.read_text())
    _info(run, seed, "running")
    return run


def _info(run: Path, seed: int, status: str) -> None:
    temporary = run / f".run.{os.getpid()}"
    temporary.write_text(json.dumps({"seed": seed, "status": status}))
    temporary.replace(run / "run.json")


def _log(run: Path, line: dict[str, object]) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def _train_on(run: Path, seed: int) -> int:
    """Until it is told to stop: then it takes a moment to save."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: asked.append(received))
    (run / "parent").write_text(str(os.getppid()))
    step = 0
    while not asked:
        step = min(step + 1, 10)
        _log(run, {"step": step, "train_loss": 1.0 / step, "orders": {"a": 4}})
        _log(run, {"step": step, "validation_loss": 1.0, "validation_accuracy": 0.1})
        time.sleep(0.02)
    time.sleep(0.3)
    if signal.SIGINT in asked:
        return 130
    (run / "saved").touch()
    _info(run, seed, "interrupted")
    return 143


sys.exit(main())
