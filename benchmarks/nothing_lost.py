"""Everything of docs/reliability.md in its long form, one after the other; ends with exit code 1 where any of it fails.

    python benchmarks/nothing_lost.py

It takes an hour or two on two cores. Each part can be run by itself, with other numbers.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

PARTS = (
    ("reliability.py", "--kills", "200"),
    ("hostile.py", "--recipes", "2000", "--checkpoints", "500"),
    ("concurrency.py", "--processes", "50"),
    ("processes.py", "--processes", "2,4", "--losses", "4"),
    ("processes.py", "--processes", "2", "--losses", "1", "--parallel", "fsdp"),
)


def main() -> int:
    failed = 0
    for name, *arguments in PARTS:
        print(f"== {name} {shlex.join(arguments)}", flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, Path(__file__).with_name(name), *arguments], check=False)
        failed += done.returncode != 0
        print(f"== exit code {done.returncode}, {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
