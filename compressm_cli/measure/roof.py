"""The roof of a machine: how fast it multiplies matrices and moves memory at best, measured in about a second."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from compressm_cli.measure.clock import mean_seconds

DEFINITION = (
    "Share of the roof: the counted FLOPs of a training step over the FLOP/s of a matrix product, measured just "
    "before on this machine in the same precision, over the median seconds of the step. 100 % would be a step "
    "that does nothing but counted FLOPs, each as fast as in a large matrix product."
)
"""What ``Roof.fraction`` is; written beside it in tables and documentation."""

PRODUCT_SECONDS = 0.6
COPY_SECONDS = 0.25
SHORTEST_SAMPLE = 0.01
"""Seconds, on CUDA: faster calls are repeated within a sample, so that waiting for the device does not count."""
SMALLEST = 256
LARGEST = {"cpu": 4096, "cuda": 8192}
"""Rows of the square matrices; the largest is taken only where the time allows."""
COPIED_BYTES = {"cpu": 2**27, "cuda": 2**28}
"""More than caches hold."""


@dataclass(frozen=True)
class Roof:
    """What a device reaches at best, measured."""

    flops_per_second: float
    """Of a product of two square matrices, 1 multiply-add = 2 FLOPs: the best size, layout and repetition."""
    bytes_per_second: float
    """Of a copy within the device's memory, bytes read plus bytes written: the best repetition."""
    matrix_size: int
    """Rows of the matrices of the best product."""
    precision: str
    device: str
    threads: int
    """Threads of PyTorch on the CPU."""

    def fraction(self, flops: int, seconds: float) -> float:
        """The share of the roof that work of ``flops`` counted FLOPs reaches in ``seconds``; see ``DEFINITION``."""
        return flops / self.flops_per_second / seconds


def measure_roof(device: torch.device, precision: str) -> Roof:
    """Measure a device in a recipe's precision: fp32, tf32 (on CUDA, else the same as fp32) or bf16.

    Sizes grow as long as the time allows, so that it takes about a second on slow and on fast machines; a CPU
    without bfloat16 instructions multiplies such matrices up to a hundred times slower than fp32.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.inference_mode(), _matmul_precision(device, precision):
        flops_per_second, size = _best_product(device, dtype)
        bytes_per_second = _best_copy(device)
    return Roof(flops_per_second, bytes_per_second, size, precision, str(device), torch.get_num_threads())


def _best_product(device: torch.device, dtype: torch.dtype) -> tuple[float, int]:
    """FLOP/s of the best product, and the rows of its matrices."""
    products = _products(SMALLEST, device, dtype)
    mean_seconds(products[0], 1, device)  # loads the library
    deadline = time.perf_counter() + PRODUCT_SECONDS
    samples = [_seconds(product, device) for product in products]
    # One layout is enough where they differ little, and where they differ much it is the slow ones that cost time.
    layout = samples.index(min(samples))
    size, product = SMALLEST, products[layout]
    seconds = {size: samples[layout]}
    # Twice the size takes up to eight times as long, less where a small product was mostly overhead.
    while size < LARGEST[device.type] and time.perf_counter() + 4 * seconds[size] < deadline:
        size *= 2
        product = _products(size, device, dtype)[layout]
        seconds[size] = _seconds(product, device)
    while time.perf_counter() < deadline:
        seconds[size] = min(seconds[size], _seconds(product, device))
    rates = {size: 2 * size**3 / least for size, least in seconds.items()}
    fastest = max(rates, key=rates.__getitem__)
    return rates[fastest], fastest


def _products(size: int, device: torch.device, dtype: torch.dtype) -> list[Callable[[], Tensor]]:
    """One product in the three layouts of a linear map: its input's gradient, its output, its weight's gradient."""
    generator = torch.Generator().manual_seed(0)
    tiles = size // SMALLEST
    a, b = torch.randn(2, SMALLEST, SMALLEST, generator=generator).to(device, dtype).repeat(1, tiles, tiles)
    out = torch.empty_like(a)
    return [
        lambda: torch.mm(a, b, out=out),
        lambda: torch.mm(a, b.mT, out=out),
        lambda: torch.mm(a.mT, b, out=out),
    ]


def _best_copy(device: torch.device) -> float:
    """Bytes a second, read and written."""
    size = COPIED_BYTES[device.type]
    source = torch.ones(size // 4, device=device)
    # Written to once before it is timed: new pages are handed out by the system, not by the memory.
    target = source.clone()
    deadline = time.perf_counter() + COPY_SECONDS
    fastest = math.inf
    while fastest == math.inf or time.perf_counter() < deadline:
        fastest = min(fastest, _seconds(lambda: target.copy_(source), device))
    return 2 * size / fastest


def _seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of one call, the best of two samples."""
    once = mean_seconds(call, 1, device)
    repeats = math.ceil(SHORTEST_SAMPLE / once) if device.type == "cuda" else 1
    return min(once, mean_seconds(call, repeats, device))


@contextmanager
def _matmul_precision(device: torch.device, precision: str) -> Iterator[None]:
    """Matrix products of float32 on CUDA as in training with this precision; put back afterwards."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
