"""Step times of shipped recipes in this checkout and in another one, by turns in processes of one thread.

    python benchmarks/versions.py ../earlier --recipes quickstart/compressed,text_lm/mamba_compressed --rounds 5

Prints, of each recipe, the least mean time of a step at the start of the run and after the cuts, and their ratio to the
other checkout's: what is the same work takes the same time, whatever else the machine does meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


def step_seconds(checkout: Path, recipe: str, steps: int) -> tuple[float, float]:
    """Mean seconds of a step before the first cut, and since the last, of a run in a fresh process."""
    with tempfile.TemporaryDirectory() as root:
        settings = [f"train.steps={steps}", "train.threads=1", "device=cpu", f"output.root={root}"]
        subprocess.run(
            [sys.executable, "-m", "compressm_cli", "train", recipe, *settings, "--seeds", "0", "--quiet"],
            cwd=checkout,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)},
            check=True,
            capture_output=True,
        )
        (summary,) = Path(root).glob("*/v0001/summary.json")
        times = json.loads(summary.read_text(encoding="utf-8"))["step_seconds"]
    return times["start"], times["final"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--recipes", default="quickstart/compressed")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(f"{'recipe':32} {'':6} {'this':>10} {'other':>10} {'ratio':>7}")
    for recipe in given.recipes.split(","):
        times: dict[Path, list[tuple[float, float]]] = {HERE: [], given.other.resolve(): []}
        for _ in range(given.rounds):
            for checkout, found in times.items():
                found.append(step_seconds(checkout, recipe, given.steps))
        for when, name in enumerate(("start", "final")):
            this, other = (min(pair[when] for pair in found) for found in times.values())
            print(
                f"{recipe:32} {name:6} {1e3 * this:8.2f}ms {1e3 * other:8.2f}ms {this / other:6.3f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
