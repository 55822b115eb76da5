"""The roof of a machine."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compressm_cli.measure import clock
from compressm_cli.measure import roof as roof_module
from compressm_cli.measure.roof import Roof, measure_roof

CPU = torch.device("cpu")


class FakeMachine:
    """A clock, and products that move it on by what they would take in each of the three layouts."""

    def __init__(self, rates: list[float], overhead: float = 0.0) -> None:
        self.now, self.rates, self.overhead = 100.0, rates, overhead
        self.sizes: list[int] = []

    def perf_counter(self) -> float:
        return self.now

    def products(self, size: int, device: torch.device, dtype: torch.dtype) -> list[Callable[[], Tensor]]:
        def product(rate: float) -> Callable[[], Tensor]:
            def call() -> Tensor:
                self.sizes.append(size)
                self.now += self.overhead + 2 * size**3 / rate
                return torch.empty(0)

            return call

        return [product(rate) for rate in self.rates]


def best_product(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> tuple[float, int, float]:
    """FLOP/s, rows of the matrices, and the seconds that it took to find them."""
    for module in (roof_module, clock):
        monkeypatch.setattr(module, "time", machine)
    monkeypatch.setattr(roof_module, "_products", machine.products)
    began = machine.now
    rate, size = roof_module._best_product(CPU, torch.float32)
    return rate, size, machine.now - began


def test_the_fastest_layout_counts_and_slow_ones_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """As bfloat16 on a CPU without instructions for it."""
    rate, _, seconds = best_product(FakeMachine([1e9, 15e9, 20e9]), monkeypatch)
    assert rate == pytest.approx(20e9)
    assert seconds < 1.5


@pytest.mark.parametrize("rate", [2e8, 1e10, 3e12])
def test_it_is_over_in_time_on_slow_and_on_fast_machines(
    monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    found, size, seconds = best_product(FakeMachine([rate] * 3), monkeypatch)
    assert found == pytest.approx(rate)
    assert seconds < 1.5
    assert size <= roof_module.LARGEST["cpu"]


def test_products_grow_until_the_start_of_a_call_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine([1e11] * 3, overhead=0.01)
    rate, size, seconds = best_product(machine, monkeypatch)
    assert size > roof_module.SMALLEST
    assert rate > 0.5e11
    assert seconds < 1.5


def test_the_best_size_wins_even_where_it_is_not_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = FakeMachine([1e12] * 3, overhead=1e-5)
    plain = machine.products

    def slow_when_large(size: int, device: torch.device, dtype: torch.dtype) -> list[Callable[[], Tensor]]:
        machine.rates = [1e12 if size <= 512 else 1e11] * 3
        return plain(size, device, dtype)

    machine.products = slow_when_large  # type: ignore[method-assign]
    rate, size, _ = best_product(machine, monkeypatch)
    assert (rate, size) == (pytest.approx(1e12, rel=0.05), 512)
    assert max(machine.sizes) > 512


def test_a_copy_counts_what_is_read_and_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(roof_module.COPIED_BYTES, "cpu", 4096)
    monkeypatch.setattr(roof_module, "COPY_SECONDS", 0.0)
    monkeypatch.setattr(roof_module, "_seconds", lambda call, device: call() is None or 0.5)
    assert roof_module._best_copy(CPU) == 2 * 4096 / 0.5


def test_products_are_those_of_the_layouts() -> None:
    results = [product().clone() for product in roof_module._products(512, CPU, torch.float64)]
    plain, transposed, weight = results
    assert plain.shape == (512, 512)
    assert plain.dtype == torch.float64
    assert not any(torch.equal(plain, other) for other in (transposed, weight))
    # a b^T and a^T b of the same tiles: equal traces.
    torch.testing.assert_close(transposed.trace(), weight.trace())


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_real_machine(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(roof_module, "PRODUCT_SECONDS", 0.02)
    monkeypatch.setattr(roof_module, "COPY_SECONDS", 0.0)
    monkeypatch.setitem(roof_module.COPIED_BYTES, "cpu", 2**20)
    before = torch.get_float32_matmul_precision()
    found = measure_roof(CPU, precision)
    assert math.isfinite(found.flops_per_second)
    assert found.flops_per_second > 1e6
    assert found.bytes_per_second > 1e6
    assert found.matrix_size in (256, 512, 1024, 2048, 4096)
    assert (found.precision, found.device, found.threads) == (precision, "cpu", torch.get_num_threads())
    assert torch.get_float32_matmul_precision() == before


def test_the_share_of_the_roof() -> None:
    roof = Roof(2e9, 1e10, 1024, "fp32", "cpu", 1)
    # A billion FLOPs take half a second at the roof; a step of two seconds reaches a quarter of it.
    assert roof.fraction(10**9, 2.0) == 0.25
    assert roof.fraction(10**9, 0.5) == 1.0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_roof_of_a_gpu() -> None:
    device = torch.device("cuda")
    before = torch.get_float32_matmul_precision()
    full, half = measure_roof(device, "fp32"), measure_roof(device, "bf16")
    assert half.flops_per_second > full.flops_per_second > 1e11
    assert full.bytes_per_second > 1e10
    assert torch.get_float32_matmul_precision() == before
