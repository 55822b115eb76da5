"""How a training step's time falls with what is frozen: ratios to the step that trains everything.

    python benchmarks/frozen.py [--kinds lru,mamba,mamba2] [--depth 4] [--width 64] [--rounds 30]

One thread, and processor time, which a busy machine disturbs least. The steps take turns in one process, and of each
the least time counts. Frozen are: the encoder and the first half of the blocks; the same, with what they put out kept
by row (``FrozenPrefix``); of all blocks what is no matrix; of
all blocks the matrices; the second half of the blocks, which gradients still pass; all but the encoder.
"""

import argparse
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.frozen_prefix import FrozenPrefix
from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import parameter_roles
from compressm_cli.models import SequenceModel, build_model

BATCH, LENGTH, CLASSES = 8, 256, 10
KEPT = "first half, kept"


def build(kind: str, depth: int, width: int) -> SequenceModel:
    layer = LAYERS[kind].Config(kind=kind)
    torch.manual_seed(0)
    config = SimpleNamespace(
        kind="sequence",
        layer=layer,
        model_dim=width,
        dropout=0.0,
        norm="layer",
        final_norm=False,
        tie_embeddings=False,
        state_dims=lambda: [layer.state_dim] * depth,
    )
    return build_model(config, DataSpec(classes=CLASSES, length=LENGTH, features=1))


def frozen_sets(model: SequenceModel) -> dict[str, set[str]]:
    roles, half = parameter_roles(model), len(model.blocks) // 2
    number = {name: int(name.split(".")[1]) for name in roles if name.startswith("blocks.")}
    first = {n for n in roles if n.startswith("encoder.") or number.get(n, half) < half}
    return {
        "nothing": set(),
        "first half": first,
        KEPT: first,
        "all but matrices": {n for n in number if roles[n] != "matrix"},
        "matrices": {n for n in number if roles[n] == "matrix"},
        "second half": {n for n, block in number.items() if block >= half},
        "all but encoder": {n for n in roles if not n.startswith("encoder.")},
    }


def trainer(model: SequenceModel, frozen: set[str], kept: bool) -> Callable[[], None]:
    """A step of a model with so much frozen: passes forward and backward, and AdamW.

    ``kept``: what a frozen beginning puts out is computed once.
    """
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    generator = torch.Generator().manual_seed(1)
    inputs: Tensor = torch.randn(BATCH, LENGTH, 1, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    cache, rows = FrozenPrefix(model, BATCH, limit=2**30), torch.arange(BATCH)

    def step() -> None:
        optimizer.zero_grad()
        outputs = cache(rows, inputs) if kept else model(inputs)
        nn.functional.cross_entropy(outputs, labels).backward()
        optimizer.step()

    return step


def measure(kind: str, depth: int, width: int, rounds: int) -> dict[str, float]:
    """The least seconds of each step."""
    sets = frozen_sets(build(kind, depth, width))
    steps = {name: trainer(build(kind, depth, width), frozen, name == KEPT) for name, frozen in sets.items()}
    least = dict.fromkeys(steps, float("inf"))
    for turn in range(rounds + 2):
        for name, step in steps.items():
            began = time.process_time()
            step()
            if turn >= 2:
                least[name] = min(least[name], time.process_time() - began)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default="lru,mamba,mamba2")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for kind in arguments.kinds.split(","):
        least = measure(kind, arguments.depth, arguments.width, arguments.rounds)
        whole = least.pop("nothing")
        ratios = ", ".join(f"{name} {seconds / whole:.2f}" for name, seconds in least.items())
        print(f"{kind}: {1e3 * whole:.1f} ms; frozen, ratio: {ratios}", flush=True)


if __name__ == "__main__":
    main()
