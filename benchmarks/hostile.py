"""Feed the commands with mutated recipes and with damaged and malicious checkpoints, and count what became of them.

    python benchmarks/hostile.py --recipes 2000 --checkpoints 500

Each refused recipe goes through ``recipes validate``, ``train --dry-run`` and ``train``, each refused checkpoint
through ``analyze``, ``compare``, ``compress``, ``export`` and ``train --resume``: the exit code must be 2, with one
message of bounded length, no traceback and no control characters; no file may change or appear, nothing may be
executed, and memory must not grow. Of what is still valid, some is run. Ends with exit code 1 on any failure.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reliability"))

import hostile

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipes", type=int, default=2000)
    parser.add_argument("--checkpoints", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    # Of the archives with an entry that is there twice, when they are made.
    warnings.filterwarnings("ignore", message="Duplicate name")
    tally = hostile.Tally()
    with tempfile.TemporaryDirectory() as temporary:
        hostile.fuzz_recipes(Path(temporary), given.recipes, given.seed, tally)
        hostile.fuzz_checkpoints(Path(temporary), given.checkpoints, given.seed, tally)
    print("\n".join([*tally.lines(), *tally.failures]))
    sys.exit(bool(tally.failures))
