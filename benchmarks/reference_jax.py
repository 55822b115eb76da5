"""One training step of the JAX reference implementation of CompreSSM, and ours, at equal shapes.

    git clone https://github.com/camail-official/compressm REFERENCE
    python -m venv JAX && JAX/bin/pip install jax equinox optax scipy pyyaml tqdm
    python benchmarks/reference_jax.py REFERENCE --python JAX/bin/python [--shape all] [--steps 4] [--turns 8]

A step is forward, backward and AdamW's update on a fixed random batch, with normalization, dropout and optimizer as
each side's own recipe of the data set has them (the reference drops the same entries in all rows of a batch). For
each shape two processes on the CPU, one a side, take turns of a few steps while the other waits. Prints medians and
ratios (reference to ours, with the least and the largest of the turns); also the first step of each process, which
compiles; peak resident memory up to there; and what a cut costs: the reduction itself, by the reference's method on
both sides, and the first step at the new shapes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

# Standard library only: a process's peak memory starts at that of the process that spawned it.

WORKER = Path(__file__).with_name("step_worker.py")


@dataclass(frozen=True)
class Shape:
    """One row of measurements: a recipe of each side, and what is changed in it."""

    recipe: str
    """Ours."""
    config: str
    """The reference's, in ``configs/paper``."""
    blocks: int
    state_dim: int
    model_dim: int
    length: int
    batch: int
    features: int
    cut: int | None = None
    """Order to cut to after the steps."""
    classes: int = 10

    def __str__(self) -> str:
        blocks = f"{self.blocks} block{'s' if self.blocks > 1 else ''}"
        sizes = f"N={self.state_dim}, H={self.model_dim}, length {self.length}, batch {self.batch}"
        return f"{blocks}, {sizes}, {self.features} input feature{'s' if self.features > 1 else ''}"


def smnist(state_dim: int, cut: int | None = None) -> Shape:
    return Shape("smnist/lru_tau0.02", "smnist_tau0.02.yaml", 1, state_dim, 8, 784, 50, 1, cut)


def scifar(state_dim: int, cut: int | None = None) -> Shape:
    """Two blocks and a batch of 8 instead of 6 and 50, which a small machine has no memory for."""
    return Shape("scifar/lru_tau0.10", "scifar_tau0.10.yaml", 2, state_dim, 512, 1024, 8, 3, cut)


SHAPES = {
    "smnist": smnist(256, 28),
    "smnist28": smnist(28),
    "scifar": scifar(384, 93),
    "scifar93": scifar(93),
}


class Side:
    """A worker process, which works only while it is asked something."""

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
        self.command = command
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.start = self._answer()

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self._answer()

    def steps(self, count: int) -> list[float]:
        return self.ask(f"steps {count}")["steps"]

    def end(self) -> None:
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a worker ended with code {self.process.wait()}: {' '.join(self.command)}")
        return json.loads(line)


def row(name: str, unit: str, values: list[float], spread: str = "") -> None:
    theirs, ours = values
    print(f"  {name:34}{theirs:9.3f} {unit:3}{ours:9.3f} {unit:3}{theirs / ours:8.2f}x{spread}", flush=True)


def compare(shape: Shape, sides: list[Side], steps: int, turns: int) -> None:
    """Let the reference and ours take turns, and print the shape's table."""
    taken: list[list[list[float]]] = [[], []]
    for turn in range(turns):
        for mine, side in zip(taken, sides, strict=True):
            mine.append(side.steps(steps))
        print(f"turn {turn + 1} of {turns}", file=sys.stderr)
    ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(*taken, strict=True)]
    medians = [statistics.median(chain(*mine)) for mine in taken]
    row("step", "s", medians, f" ({min(ratios):.2f} to {max(ratios):.2f})")
    row("first step of the process", "s", [side.start["first_step"] for side in sides])
    row("peak memory", "GB", [side.ask("memory")["peak_bytes"] / 1e9 for side in sides])
    if shape.cut is None:
        return
    cuts = [side.ask("cut") for side in sides]
    after = [statistics.median(side.steps(max(steps, 3))) for side in sides]
    row(f"reduction to N={shape.cut}", "s", [cut["reduction"] for cut in cuts])
    row("first step after it", "s", [cut["first_step"] for cut in cuts])
    row("later steps", "s", after)


def require_jax(parser: argparse.ArgumentParser, python: str) -> None:
    """End with a usage error where the interpreter does not start or lacks what the reference imports."""
    command = [python, "-c", "import equinox, jax, optax, scipy, tqdm, yaml"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        parser.error(f"--python {python}: {error.strerror}")
    if done.returncode:
        parser.error(f"--python {python}: {done.stderr.strip().splitlines()[-1]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="a checkout of the reference implementation")
    parser.add_argument("--python", default=sys.executable, help="interpreter with JAX (default: this one)")
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all")
    parser.add_argument("--steps", type=int, default=4, help="steps a turn")
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()
    if min(options.steps, options.turns) < 1:
        parser.error("--steps and --turns must be at least 1")
    if not (options.checkout / "compressm" / "models" / "lru.py").is_file():
        parser.error(f"{options.checkout} is no checkout of the reference: it has no compressm/models/lru.py")
    require_jax(parser, options.python)
    checkout = str(options.checkout.resolve())
    for name in SHAPES if options.shape == "all" else [options.shape]:
        shape = SHAPES[name]
        text = json.dumps(asdict(shape))
        print(f"{name}: {shape}", file=sys.stderr)
        sides = [
            Side([options.python, str(WORKER), "reference", text, checkout]),
            Side([sys.executable, str(WORKER), "ours", text]),
        ]
        print(f"\n{name}: {shape}\n  {'':34}{'reference':>13}{'ours':>13}{'ratio':>9}")
        print(f"  {'':34}{sides[0].start['software']} | {sides[1].start['software']}", flush=True)
        compare(shape, sides, options.steps, options.turns)
        for side in sides:
            side.end()


if __name__ == "__main__":
    main()
