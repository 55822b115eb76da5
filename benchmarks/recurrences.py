"""How long the diagonal scan and the layer around it take, against other ways to compute the same.

    python benchmarks/recurrences.py [--shapes 8x1024x384,50x784x256] [--widths 1,8,64,512] [--repeats 7]

A shape is batch x length x N. All contenders of a table run in this process, in turn, on the same float32
numbers, each in the layout it works on; that scans agree, in output and gradients, is checked first. Prints
median milliseconds of the forward pass without gradients and of forward and backward together, with their
ratios to the first line.

The sequential loop is that of ``ops/reference.py`` with its input unbound once: indexing it at each step makes
the gradient's work quadratic in the length, tens of seconds instead of 0.1 s at length 1024.

mambapy's parallel scan (``pip install mambapy``) is compared where it is installed. It is real-valued, so it is
compared on N real poles: half the arithmetic of the complex problem, which ours does all the same.
"""

import argparse
import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch._higher_order_ops.associative_scan import associative_scan

from compressm_cli.ops import diagonal_scan, diagonal_ssm

Seconds = tuple[float, float]
"""Medians: forward alone, forward and backward."""
LARGEST_KERNEL = 2**27
"""Entries (length x p x p) that the convolution is timed to: 0.5 GB; its forward pass held twelve times that."""


@dataclass(frozen=True)
class Contender:
    """One way to compute; ``function(*inputs)`` is differentiated with respect to all inputs."""

    name: str
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    grad: Tensor
    """Gradient of the output that the backward pass starts from."""

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.function(*self.inputs)

    def both(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.function(*self.inputs), self.inputs, self.grad)


def trainable(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.clone().requires_grad_() for t in tensors)


def split(z: Tensor) -> Tensor:
    """Complex (..., N) -> (..., 2 N): real parts, then imaginary parts."""
    return torch.cat([z.real, z.imag], dim=-1)


def log_depth(x: Tensor, poles: Tensor) -> Tensor:
    """PyTorch's own associative scan over pairs (a, b), each the map h -> a h + b; complex (batch, length, N)."""

    def then(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return second[0] * first[0], second[0] * first[1] + second[1]

    pairs = (poles.expand(1, x.shape[1], -1), x)
    return associative_scan(then, pairs, dim=1, combine_mode="generic")[1]


def sequential(x: Tensor, poles: Tensor) -> Tensor:
    """One step after the other; complex (batch, length, N)."""
    h = torch.zeros_like(x[:, 0])
    states = []
    for step in x.unbind(1):
        h = poles * h + step
        states.append(h)
    return torch.stack(states, dim=1)


def random_poles(n: int) -> Tensor:
    """Of size 0.9 to 0.999, as the LRU recipes start."""
    return torch.polar(0.9 + 0.099 * torch.rand(n), 2 * torch.pi * torch.rand(n))


def complex_scans(batch: int, length: int, n: int) -> list[Contender]:
    """Ours, log-depth, one step after the other."""
    x, grad = (torch.randn(batch, length, n, dtype=torch.complex64) for _ in range(2))
    poles = random_poles(n)
    ours, theirs = trainable(split(x), poles.real, poles.imag), trainable(x, poles)
    return [
        Contender("ours", diagonal_scan, ours, split(grad)),
        Contender("torch associative_scan", log_depth, theirs, grad),
        Contender("sequential loop", sequential, theirs, grad),
    ]


def real_scans(batch: int, length: int, n: int) -> list[Contender]:
    """Ours, with imaginary parts of zero, and mambapy's."""
    from mambapy.pscan import pscan

    x, grad = (torch.randn(batch, length, n) for _ in range(2))
    poles = random_poles(n).abs()
    zeros = torch.zeros_like(x)

    def mambapy(x: Tensor, poles: Tensor) -> Tensor:
        return pscan(poles.expand_as(x), x)

    ours = trainable(torch.cat([x, zeros], -1), poles, torch.zeros(n))
    return [
        Contender("ours", diagonal_scan, ours, torch.cat([grad, zeros], -1)),
        Contender("mambapy", mambapy, trainable(x[:, :, None], poles), grad[:, :, None]),
    ]


def check(contenders: list[Contender], n: int) -> None:
    """Exit where a contender's output or a gradient (of x, of the poles) is not that of the first."""

    def flat(contender: Contender) -> list[Tensor]:
        dx, *dpoles = contender.both()
        results = [contender.forward(), dx, torch.cat(dpoles, dim=-1)]
        # The real parts come first in every layout.
        return [(split(t) if t.is_complex() else t).flatten(2 if t.ndim > 2 else 0) for t in results]

    wanted = flat(contenders[0])
    for contender in contenders[1:]:
        for found, right in zip(flat(contender), wanted, strict=True):
            error = (found - right[..., : found.shape[-1]]).abs().max() / right.abs().max()
            if not error < 1e-3:
                sys.exit(f"{contender.name} differs from {contenders[0].name} by {error:.1e} at N={n}")


def alternate(contenders: list[Contender], repeats: int) -> list[Seconds]:
    """Medians of ``repeats`` rounds, in each of which everything has its turn; one round before is not counted."""
    taken: list[tuple[list[float], list[float]]] = [([], []) for _ in contenders]
    for _ in range(repeats + 1):
        for contender, lists in zip(contenders, taken, strict=True):
            for work, seconds in zip((contender.forward, contender.both), lists, strict=True):
                began = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - began)
    return [(statistics.median(a[1:]), statistics.median(b[1:])) for a, b in taken]


def table(contenders: list[Contender], medians: list[Seconds]) -> None:
    print(f"  {'':24}{'forward':>11}{'ratio':>9}{'and backward':>15}{'ratio':>9}")
    for contender, (forward, both) in zip(contenders, medians, strict=True):
        ratios = forward / medians[0][0], both / medians[0][1]
        print(
            f"  {contender.name:24}{1e3 * forward:8.2f} ms{ratios[0]:8.2f}x{1e3 * both:12.2f} ms{ratios[1]:8.2f}x",
            flush=True,
        )


def layer_forms(batch: int, length: int, n: int, p: int) -> list[Contender]:
    """``diagonal_ssm`` with p inputs and p outputs, as recurrence and, where it fits, as convolution."""
    poles = random_poles(n)
    matrices = [torch.randn(n, p) / p**0.5 for _ in range(2)] + [torch.randn(p, n) / n**0.5 for _ in range(2)]
    inputs = trainable(torch.randn(batch, length, p), poles.abs().log(), poles.angle(), *matrices)
    grad = torch.randn(batch, length, p)

    forms = [Contender("recurrent", partial(diagonal_ssm, form="recurrent"), inputs, grad)]
    if length * p * p <= LARGEST_KERNEL:
        forms.append(Contender("convolution", partial(diagonal_ssm, form="convolution"), inputs, grad))
    return forms


def integers(text: str, separator: str) -> list[int]:
    numbers = [int(part) for part in text.split(separator)]
    if min(numbers) < 1:
        raise ValueError(text)
    return numbers


def shape(text: str) -> tuple[int, int, int]:
    """batch x length x N."""
    batch, length, n = integers(text, "x")
    return batch, length, n


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shapes",
        type=lambda text: [shape(s) for s in text.split(",")],
        default="8x1024x384,8x1024x93,50x784x256,50x784x28",
    )
    parser.add_argument("--widths", type=lambda text: integers(text, ","), default="1,8,64,512")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_flush_denormal(True)  # as in training
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, medians of {options.repeats}")
    kinds = [("N complex poles", complex_scans)]
    if importlib.util.find_spec("mambapy"):
        kinds.append(("N real poles", real_scans))
    else:
        print("mambapy is not installed: left out")
    for batch, length, n in options.shapes:
        for name, build in kinds:
            print(f"\nscan, {name}: batch {batch}, length {length}, N={n}", flush=True)
            contenders = build(batch, length, n)
            check(contenders, n)
            table(contenders, alternate(contenders, options.repeats))
    for batch, length, n in options.shapes:
        for p in options.widths:
            print(f"\ndiagonal_ssm, p=q={p}: batch {batch}, length {length}, N={n}", flush=True)
            contenders = layer_forms(batch, length, n, p)
            table(contenders, alternate(contenders, options.repeats))
            if len(contenders) == 1:
                print(f"  convolution: left out, its kernel alone would take {4e-9 * length * p * p:.1f} GB")
            del contenders
            gc.collect()


if __name__ == "__main__":
    main()
