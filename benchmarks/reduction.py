"""How long one layer's whole reduction takes: Hankel singular values, truncation, write-back.

    python benchmarks/reduction.py [--state-dim 384] [--model-dim 64] [--order 93] [--repeats 7]

Prints the median and the least seconds for each kind of realization and Gramian, the calibration forward passes of the
empirical one left out (its inputs are given), its state simulation and regression included.
"""

import argparse
import statistics
import time

import torch

from compressm_cli.engine.precision import prepare
from compressm_cli.layers.lru import LRU, LRUConfig
from compressm_cli.methods.hankel.method import Hankel, HankelConfig
from compressm_cli.methods.method import CheckContext
from compressm_cli.methods.schedule import ListedSchedule
from compressm_cli.structure import surgery


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (("state-dim", 384), ("model-dim", 64), ("order", 93), ("repeats", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    prepare(torch.device("cpu"), "fp32")  # as a training run does
    torch.manual_seed(0)
    inputs = [torch.randn(16, 256, options.model_dim) for _ in range(4)]
    print(
        f"N={options.state_dim}, H={options.model_dim}, order {options.order}, {torch.get_num_threads()} threads"
    )
    for realization in ("real", "complex"):
        for gramian, horizon in (
            ("analytic", "infinite"),
            ("analytic", "sequence"),
            ("empirical", "sequence"),
        ):
            seconds = []
            for _ in range(options.repeats + 1):
                layer = LRU(
                    LRUConfig(kind="lru", r_min=0.9, r_max=0.999), options.model_dim, options.state_dim
                )
                model = torch.nn.ModuleDict({"layer": layer})
                method = Hankel(
                    HankelConfig(
                        method="hankel",
                        target_order=options.order,
                        realization=realization,
                        gramian=gramian,
                        horizon=horizon,
                        schedule=ListedSchedule(kind="listed", at_steps=[1]),
                    )
                )
                context = CheckContext(1, 1, 256, torch.Generator(), lambda count: {"layer": inputs[:count]})
                began = time.perf_counter()
                plan = method.plan(model, context)
                surgery.apply_plan(model, None, plan)
                seconds.append(time.perf_counter() - began)
                assert layer.state_dim <= options.order, plan.records
            print(
                f"{realization:8} {gramian:10} {horizon:9} {statistics.median(seconds[1:]):.3f} s"
                f" (least {min(seconds[1:]):.3f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
