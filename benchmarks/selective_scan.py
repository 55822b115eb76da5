"""How long a training step of one Mamba block takes with our operators, against mambapy's, and what memory it takes.

    python benchmarks/selective_scan.py [--states 2,4,8,14,16,32,64,128] [--against 16,128] [--threads 1] [--repeats 9]

A step is forward and backward of a whole block: projections, convolution, scan, gate. Ours (``Block``) holds the
parameters of mambapy's ``MambaBlock`` (``pip install mambapy``, which runs its parallel scan), so that both compute
the same; that output and gradients agree is checked first. All take their turn in each round, in this process.

Times are CPU time of the process, summed over threads, because on a shared machine wall time measures the others too:
median and, in brackets, smallest of the rounds; ratios are medians of each round's ratio. Peak memory is that of a
process of its own (Linux), over what it held before the step.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from compressm_cli.ops import causal_conv1d, selective_scan, selective_scan_gated
from compressm_cli.ops.scan import load_kernels

BATCH, LENGTH, MODEL_DIM = 4, 512, 64


class Block(nn.Module):
    """mambapy's block, computed with our operators."""

    def __init__(self, theirs: nn.Module) -> None:
        super().__init__()
        self.theirs = theirs

    def forward(self, x: Tensor) -> Tensor:
        block, config = self.theirs, self.theirs.config
        x, z = block.in_proj(x).chunk(2, dim=-1)
        x = causal_conv1d(x, block.conv1d.weight[:, 0], block.conv1d.bias, "silu")
        sizes = [config.dt_rank, config.d_state, config.d_state]
        dt, B, C = block.x_proj(x).split(sizes, dim=-1)
        A = -torch.exp(block.A_log)
        y = selective_scan_gated(x, dt @ block.dt_proj.weight.T, block.dt_proj.bias, A, B, C, block.D, z)
        return block.out_proj(y)


class Step:
    """One training step: ``step()`` leaves the gradients in the parameters and in ``x``."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        generator = torch.Generator().manual_seed(1)
        self.x, self.grad = torch.randn(2, BATCH, LENGTH, MODEL_DIM, generator=generator)
        self.x.requires_grad_()

    def __call__(self) -> None:
        self.block.zero_grad()
        self.x.grad = None
        self.block(self.x).backward(self.grad)

    def results(self) -> list[Tensor]:
        self()
        return [self.block(self.x).detach(), self.x.grad, *(p.grad.clone() for p in self.block.parameters())]


def blocks(n: int) -> tuple[Block, nn.Module]:
    """Ours and mambapy's, of the same parameters."""
    from mambapy.mamba import MambaBlock, MambaConfig

    torch.manual_seed(0)
    theirs = MambaBlock(MambaConfig(MODEL_DIM, 1, d_state=n))
    return Block(theirs), theirs


def check(ours: Step, theirs: Step, n: int) -> float:
    """The largest relative difference, in norm; exit where it is no rounding."""
    pairs = zip(ours.results(), theirs.results(), strict=True)
    error = max((torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b)).item() for a, b in pairs)
    if not error < 1e-4:
        sys.exit(f"the blocks differ by {error:.1e} at N={n}")
    return error


def alternate(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU milliseconds of ``repeats`` rounds, in each of which all have their turn; one before is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            began = time.process_time()
            work()
            taken[name].append(1e3 * (time.process_time() - began))
    return {name: times[1:] for name, times in taken.items()}


def shown(times: list[float]) -> str:
    return f"{statistics.median(times):9.2f} ({min(times):8.2f})"


def ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def peak_memory(kind: str, n: int, threads: int) -> float:
    """Megabytes that three steps add to a fresh process."""
    command = [sys.executable, __file__, "--memory-of", kind, "--states", str(n), "--threads", str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def status(field: str) -> int:
    """Of this process, in kB."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def report_memory(kind: str, n: int) -> None:
    ours, theirs = blocks(n)
    # What libraries load and compile on first use is not what a step needs.
    small = Step(Block(theirs) if kind == "ours" else theirs)
    small.x, small.grad = small.x.detach()[:1, :4].requires_grad_(), small.grad[:1, :4]
    small()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    step = Step(ours if kind == "ours" else theirs)
    for _ in range(3):
        step()
    print((status("VmHWM") - before) / 1024)


def block_table(states: list[int], against: list[int], repeats: int, threads: int) -> None:
    works: dict[str, Callable[[], object]] = {}
    for n in states:
        ours, theirs = map(Step, blocks(n))
        works[f"ours {n}"] = ours
        if n in against:
            print(f"N={n}: the blocks differ by {check(ours, theirs, n):.0e}", flush=True)
            works[f"mambapy {n}"] = theirs
    taken = alternate(works, repeats)
    last = taken[f"ours {states[-1]}"]
    head = f"{'N':>5}{'ours':>20}{f'over N={states[-1]}':>14}"
    print(f"\nblock step, CPU ms\n{head}{'mambapy':>22}{'ratio':>8}{'MB':>7}{'mambapy MB':>12}")
    for n in states:
        line = f"{n:5}{shown(taken[f'ours {n}'])}{ratio(last, taken[f'ours {n}']):12.2f}x"
        memory = f"{peak_memory('ours', n, threads):7.0f}"
        if n in against:
            theirs_taken = taken[f"mambapy {n}"]
            line += f"{shown(theirs_taken):>24}{ratio(theirs_taken, taken[f'ours {n}']):7.1f}x"
            print(f"{line}{memory}{peak_memory('mambapy', n, threads):12.0f}", flush=True)
        else:
            print(f"{line}{'':32}{memory}", flush=True)


def scan_step(n: int, kept: Tensor | None = None) -> Callable[[], object]:
    """Forward and backward of the scan alone."""
    channels = 2 * MODEL_DIM
    generator = torch.Generator().manual_seed(0)
    x, grad, raw = torch.randn(3, BATCH, LENGTH, channels, generator=generator)
    B, C = torch.randn(2, BATCH, LENGTH, n, generator=generator)
    A = -torch.arange(1.0, n + 1).expand(channels, n)
    leaves = [t.clone().requires_grad_() for t in (x, torch.exp(raw - 4), A, B, C, torch.ones(channels))]
    return lambda: torch.autograd.grad(selective_scan(*leaves, kept=kept), leaves, grad)


def scan_table(states: list[int], repeats: int) -> None:
    channels, largest = 2 * MODEL_DIM, states[-1]
    # An average of an eighth, from geometrically few to all.
    uneven = (largest * torch.logspace(0, -3, channels, base=10)).round().clamp(1, largest).to(torch.int64)
    works = {f"N={n}": scan_step(n) for n in states}
    for n in states[:-1]:
        works[f"N={largest}, {n} kept"] = scan_step(largest, torch.full((channels,), n))
    works[f"N={largest}, {uneven.float().mean():.1f} kept on average"] = scan_step(largest, uneven)
    print("\nscan alone, forward and backward, CPU ms")
    for name, times in alternate(works, repeats).items():
        print(f"{name:32}{shown(times)}", flush=True)


def report_kernels(when: str, repeats: int) -> None:
    """CPU milliseconds of a block's step with a convolution of PyTorch's before it, by when the kernels were loaded."""
    if when == "first":
        load_kernels(torch.device("cpu"))
    convolution = nn.Conv1d(MODEL_DIM, MODEL_DIM, 3, padding=1)
    ours, _ = blocks(16)
    x = torch.randn(BATCH, LENGTH, MODEL_DIM)
    if when == "last":
        convolution(x.mT).sum().backward()

    def step() -> None:
        ours(convolution(x.mT).mT).square().sum().backward()

    print(statistics.median(alternate({"step": step}, repeats)["step"]))


def kernel_order(repeats: int, threads: int) -> None:
    """Numba's kernels share the process's threads with PyTorch: it must not matter which comes first."""
    found = {}
    for when in ("first", "last"):
        command = [sys.executable, __file__, "--kernels", when, "--threads", str(threads)]
        command += ["--repeats", str(repeats)]
        found[when] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"\nblock step after a convolution, CPU ms: {found['first']:.1f} where the kernels are loaded before "
        f"PyTorch computes, {found['last']:.1f} where they are loaded after it: {found['last'] / found['first']:.2f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def integers(text: str) -> list[int]:
        return sorted(int(part) for part in text.split(",") if part)

    parser.add_argument("--states", type=integers, default="2,4,8,14,16,32,64,128")
    parser.add_argument("--against", type=integers, default="16,128", help="where mambapy is timed too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--memory-of", choices=["ours", "mambapy"], help=argparse.SUPPRESS)
    parser.add_argument("--kernels", choices=["first", "last"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)  # as in training
    if options.memory_of:
        report_memory(options.memory_of, options.states[0])
        return
    if options.kernels:
        report_kernels(options.kernels, options.repeats)
        return
    print(f"torch {torch.__version__}, {options.threads} threads, medians of {options.repeats}")
    print(f"batch {BATCH}, length {LENGTH}, d_model {MODEL_DIM}, d_inner {2 * MODEL_DIM}")
    block_table(options.states, options.against, options.repeats, options.threads)
    scan_table(options.states, options.repeats)
    kernel_order(options.repeats, options.threads)


if __name__ == "__main__":
    main()
