"""Step times of shipped recipes in this checkout and in another one, a second of each by turns on one core.

    python benchmarks/versions.py ../earlier --recipes quickstart/compressed,text_lm/mamba_compressed --pairs 6

Both train at the same time, but only one of them runs: the other is stopped (SIGSTOP) meanwhile, so that whatever else
the machine does meets both alike. Prints the processor time of a step before any cut and after one, and its ratio to
that of the other checkout with the 95 % interval over pairs of processes: where memory happens to lie makes two of one
checkout differ by some percent for as long as they live. Linux only.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
TURN = 0.5
"""Seconds."""
POLL = 0.002
"""Seconds between two looks at a log."""
LONGEST = 30.0
"""Seconds that ``LOGGED`` steps may take."""
LOGGED = 10
"""Steps between two lines of a log, as far as the turns of a training are whole."""
STEADY = 20
"""Steps of each phase that are not counted."""
LENGTH = 100_000
"""Steps of the runs, which are ended long before."""
PHASES = {"start": 0.9, "final": 1e-4}
"""When the cut is made, as a share of the run: never, and after ten steps."""


class Training:
    """A run in a process of its own, which is stopped but for its turns."""

    def __init__(self, checkout: Path, recipe: str, cut: float, root: str, core: int) -> None:
        schedule = f"compression.schedule={{kind: listed, fractions: [{cut}]}}"
        settings = [
            f"train.steps={LENGTH}",
            "train.threads=1",
            f"train.log_every={LOGGED}",
            f"output.root={root}",
        ]
        settings += ["train.warmup=0", "train.eval_every=50000", "train.checkpoint_every=50000", "device=cpu"]
        self.root = Path(root)
        command = ["taskset", "-c", str(core), sys.executable, "-m", "compressm_cli", "train", recipe]
        self.process = subprocess.Popen(
            [*command, *settings, schedule, "--seeds", "0", "--quiet"],
            cwd=checkout,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        self.process.send_signal(signal.SIGSTOP)

    def turn(self) -> None:
        """Let it run for a time, and on to the next line of its log."""
        end, size = time.monotonic() + TURN, 0
        self.process.send_signal(signal.SIGCONT)
        while time.monotonic() < end or (self._size() == size and time.monotonic() < end + LONGEST):
            if time.monotonic() < end:
                size = self._size()
            time.sleep(POLL)
        self.process.send_signal(signal.SIGSTOP)
        if self.process.poll() is not None:
            assert self.process.stderr is not None
            sys.exit(self.process.stderr.read().decode())

    def _size(self) -> int:
        return sum(log.stat().st_size for log in self.root.glob("*/v0001/metrics.jsonl"))

    def logged(self) -> dict[str, Any]:
        """The last line of its log; empty before the first."""
        for log in self.root.glob("*/v0001/metrics.jsonl"):
            lines = log.read_bytes().splitlines()
            return json.loads(lines[-1]) if lines else {}
        return {}

    def step(self) -> int:
        return int(self.logged().get("step", 0))

    def shape(self) -> str:
        """What is computed: the orders, and the forms of the recurrences."""
        return json.dumps([self.logged().get("orders"), self.logged().get("forms")])

    def seconds(self) -> float:
        """Of processor time, of all threads: as the scheduler counts it, to the nanosecond."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def paired(checkouts: list[Path], recipe: str, cut: float, seconds: float, core: int) -> list[float]:
    """Seconds of a step in each checkout, of one pair of processes; the first has the first turn."""
    with tempfile.TemporaryDirectory() as root:
        pair = [Training(c, recipe, cut, f"{root}/{i}", core) for i, c in enumerate(checkouts)]
        try:
            for training in pair:
                while training.step() < STEADY:
                    training.turn()
            before, began = [(t.seconds(), t.step()) for t in pair], time.monotonic()
            while time.monotonic() - began < 2 * seconds:
                for training in pair:
                    training.turn()
            after = [(t.seconds(), t.step()) for t in pair]
            if len({training.shape() for training in pair}) > 1:
                print("not the same work:", *(training.shape() for training in pair), sep="\n  ")
            return [(s - s0) / (n - n0) for (s, n), (s0, n0) in zip(after, before, strict=True)]
        finally:
            for training in pair:
                training.end()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--recipes", default="quickstart/compressed")
    parser.add_argument("--seconds", type=float, default=10, help="of each process")
    parser.add_argument("--pairs", type=int, default=4, help="of processes, one after the other")
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--core", type=int, default=0)
    given = parser.parse_args()
    from compressm_cli.reports.estimates import mean

    print(f"{'recipe':32} {'':6} {'this':>10} {'other':>10}   ratio")
    for recipe in given.recipes.split(","):
        for name in given.phases.split(","):
            both, cut, found = [HERE, given.other.resolve()], PHASES[name], []
            for number in range(given.pairs):
                order = -1 if number % 2 else 1  # who begins has 1 % more or less, whoever it is
                found.append(paired(both[::order], recipe, cut, given.seconds, given.core)[::order])
            this, other = (mean([1e3 * pair[side] for pair in found]).value for side in (0, 1))
            ratio = mean([this / other for this, other in found])
            spread = "" if ratio.low is None else f" ({ratio.low:.3f} to {ratio.high:.3f})"
            print(
                f"{recipe:32} {name:6} {this:8.2f}ms {other:8.2f}ms   {ratio.value:.3f}x{spread}", flush=True
            )


if __name__ == "__main__":
    main()
