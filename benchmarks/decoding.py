"""What a step of decoding takes with many and with few states, and whether it is the same after many steps.

    python benchmarks/decoding.py [--kind mamba] [--width 256] [--depth 1] [--states 128,16] [--threads 2]

The two models differ in their states alone, are timed in alternation in this process, and their weights are random.
Prints tokens a second of each and their ratio, paired by round, at 64 sequences and at one; the bytes of the state of a
sequence; and the seconds of a token at positions 100, 10,000 and 100,000, each over the first one's. Run it on an idle
machine.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import torch

from compressm_cli.data.interface import DataSpec
from compressm_cli.layers import LAYERS
from compressm_cli.models import SequenceModel
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.reports.decoding import DecodingReport, decoding_speed
from compressm_cli.reports.estimates import Estimate

VOCABULARY = 256
POSITIONS = (100, 10_000, 100_000)
AROUND = 100
"""Steps whose median is the time at a position."""


def build(kind: str, width: int, depth: int, states: int) -> SequenceModel:
    """A language model of bytes with random weights."""
    torch.manual_seed(0)
    layer = LAYERS[kind].Config(kind=kind, state_dim=states)
    config = SequenceConfig(kind="sequence", layer=layer, model_dim=width, depth=depth, norm="rms")
    return SequenceModel.build(config, data(1)).eval()


def data(length: int) -> DataSpec:
    return DataSpec(classes=VOCABULARY, length=length, vocabulary=VOCABULARY, per_step=True)


def at_positions(model: SequenceModel) -> list[float]:
    """Median seconds of a step just before each position, of one sequence."""
    token, state = torch.zeros(1, dtype=torch.int64), model.initial_state(1)
    found, times = [], []
    for position in range(1, max(POSITIONS) + 1):
        began = time.perf_counter()
        _, state = model.step(token, state)
        times.append(time.perf_counter() - began)
        if position in POSITIONS:
            found.append(statistics.median(times[-AROUND:]))
            times.clear()
    return found


def with_interval(ratio: Estimate) -> str:
    spread = "" if ratio.low is None or ratio.high is None else f" ({ratio.low:.2f} to {ratio.high:.2f})"
    return f"{ratio.value:.2f}x{spread}"


def show_speed(states: Sequence[int], report: DecodingReport) -> None:
    print(f"{'':28}" + "".join(f"{f'N = {n}':>14}" for n in states) + "   last over first")
    for speed in report.batches:
        numbers = "".join(f"{s:>14,.0f}" for s in speed.tokens_per_second)
        print(f"{f'tokens/s, {speed.batch} at once':28}{numbers}   {with_interval(speed.ratios[-1])}")
    sizes = "".join(f"{size:>14,}" for size in report.state_bytes)
    share = report.state_bytes[-1] / report.state_bytes[0]
    print(f"{'bytes of a state':28}{sizes}   {share:.4f}x, one of {1 / share:.2f}")
    seconds = "".join(f"{1e3 * s:>14.2f}" for s in report.first_token_seconds)
    name = f"first token of {report.prompt:,}, ms"
    print(f"{name:28}{seconds}   {with_interval(report.first_token_ratios[-1])}")
    busy = ", the machine was busy" if report.busy else ""
    print(f"threads: {report.threads}, rounds: {report.rounds}{busy}", flush=True)


def show_positions(positions: list[list[float]]) -> None:
    for i, position in enumerate(POSITIONS):
        numbers = "".join(f"{1e6 * found[i]:>14.1f}" for found in positions)
        against = ", ".join(f"{found[i] / found[0]:.2f}x" for found in positions)
        print(f"{f'token {position:,}, us':28}{numbers}   over token {POSITIONS[0]}: {against}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", default="mamba", choices=list(LAYERS))
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--states", default="128,16")
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    states = [int(n) for n in given.states.split(",")]
    models = [build(given.kind, given.width, given.depth, n) for n in states]
    report = decoding_speed(models, data(given.prompt), torch.device("cpu"))
    show_speed(states, report)
    show_positions([at_positions(model) for model in models])


if __name__ == "__main__":
    main()
