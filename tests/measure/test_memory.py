"""Peak memory, measured and estimated."""

import mmap
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compressm_cli.data.interface import Split
from compressm_cli.measure.memory import PeakMemory, estimate_training_bytes

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak cannot be reset here")
def test_peak_counts_from_the_start_only() -> None:
    peak = PeakMemory(CPU)
    peak.start()
    base = peak.result()["bytes"]
    # Straight from the system, to which it goes back: an allocator may keep what is freed.
    with mmap.mmap(-1, 100 * MIB) as block:
        block.write(b"x" * (100 * MIB))
        during = peak.result()
    assert during["kind"] == "resident set of the process"
    assert during["bytes"] - base > 90 * MIB
    assert peak.result()["bytes"] - base > 90 * MIB
    peak.start()
    assert peak.result()["bytes"] < during["bytes"] - 90 * MIB


def test_where_the_peak_cannot_be_reset_the_kind_says_so(tmp_path: Path) -> None:
    peak = PeakMemory(CPU, process=tmp_path / "absent")
    peak.start()
    result = peak.result()
    assert "since it began" in result["kind"]
    assert result["bytes"] > 10 * MIB


def test_high_water_mark_is_read_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t 1000 kB\n")
    peak = PeakMemory(CPU, process=tmp_path)
    peak.start()
    assert (tmp_path / "clear_refs").read_text() == "5"
    assert peak.result() == {"bytes": 2 * MIB, "kind": "resident set of the process"}


class Relu(nn.Module):
    """Small enough to follow every tensor of a step by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64, bias=False)
        self.frozen = nn.Parameter(torch.zeros(10), requires_grad=False)
        self.register_buffer("table", torch.zeros(20))

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        return torch.relu(self.linear(inputs)).mean(dim=1)


def batch_of(rows: int, length: int = 32) -> Split:
    return Split(
        torch.randn(rows, length, 64), torch.zeros(rows, dtype=torch.int64), torch.full((rows,), length)
    )


def test_estimate_is_parameters_moments_and_the_peak_of_a_step() -> None:
    rows, weights = 200, 4 * 64 * 64
    fixed = 3 * weights + 4 * (10 + 20)
    # Most is alive in the backward of ReLU: its output, the gradient that comes in, the one that goes out.
    activations = 3 * 4 * rows * 32 * 64
    rest = estimate_training_bytes(Relu(), batch_of(rows)) - fixed - activations
    assert 0 <= rest <= weights + 4 * (4 * rows * 64)


def test_estimate_grows_with_the_batch_and_leaves_the_model_alone() -> None:
    model = Relu()
    small, large = (estimate_training_bytes(model, batch_of(n)) for n in (500, 1500))
    assert (large - small) / 1000 == pytest.approx(3 * 4 * 32 * 64, rel=0.1)
    assert model.linear.weight.grad is None


def test_estimate_with_values_is_the_same_as_without() -> None:
    class NeedsValues(Relu):
        def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
            assert torch.isfinite(inputs).all()
            return super().forward(inputs)

    with pytest.warns(UserWarning, match="on a copy with values"):
        with_values = estimate_training_bytes(NeedsValues(), batch_of(100))
    assert with_values == pytest.approx(estimate_training_bytes(Relu(), batch_of(100)), rel=0.01)
