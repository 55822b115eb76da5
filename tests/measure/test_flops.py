"""FLOP counts against counts by hand, and the promise that counting leaves the model alone."""

import math

import pytest
import torch
from torch import Tensor, nn

from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.layers.attention import Attention
from compressm_cli.measure.flops import (
    CONVENTION,
    TrainingFlops,
    count_inference,
    count_training_step,
    inference_flops,
    training_step_flops,
)
from compressm_cli.measure.probe import example_batch
from compressm_cli.ops import diagonal_scan, diagonal_ssm
from compressm_cli.ops.forms import Form

BATCH, LENGTH, FEATURES, CLASSES = 3, 8, 5, 4


def batch_of(rows: int = BATCH, length: int = LENGTH, features: int = FEATURES) -> Split:
    return Split(torch.randn(rows, length, features), torch.arange(rows) % CLASSES)


class Mean(nn.Module):
    """A layer over time, then the mean and a fixed number of classes, with nothing else to count."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.layer(inputs).mean(dim=1)[:, :CLASSES]


def test_linear_is_one_product_forward_and_two_backward() -> None:
    model = Mean(nn.Linear(FEATURES, 6))
    product = 2 * BATCH * LENGTH * FEATURES * 6
    assert inference_flops(model, batch_of()) == product
    # The input needs no gradient, so the backward is the gradient of the weight alone.
    assert training_step_flops(model, batch_of()) == 2 * product
    deep = Mean(nn.Sequential(nn.Linear(FEATURES, 6), nn.Linear(6, 7)))
    second = 2 * BATCH * LENGTH * 6 * 7
    assert training_step_flops(deep, batch_of()) == 2 * product + 3 * second


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_is_its_linear_maps_and_two_products_a_head(kv_heads: int, causal: bool) -> None:
    layer = Attention(FEATURES, 4, kv_heads=kv_heads, head_dim=6, causal=causal)
    maps = 2 * BATCH * LENGTH * FEATURES * 6 * (4 + kv_heads + kv_heads + 4)
    product = 2 * BATCH * 4 * LENGTH**2 * 6
    assert inference_flops(Mean(layer), batch_of()) == maps + 2 * product
    # No gradient of the input: of the maps but the last one, that of the weight alone. The scores are computed again.
    last = 2 * BATCH * LENGTH * FEATURES * 6 * 4
    assert training_step_flops(Mean(layer), batch_of()) == 2 * maps + last + 7 * product


class ComplexProduct(nn.Module):
    def __init__(self, states: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(FEATURES, states, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.weight).real


@pytest.mark.parametrize("batched", [False, True])
def test_complex_product_is_eight_a_multiply_add(batched: bool) -> None:
    model = Mean(ComplexProduct(6))
    if batched:
        model.layer.weight = nn.Parameter(torch.randn(BATCH, FEATURES, 6, dtype=torch.complex64))
    product = 8 * BATCH * LENGTH * FEATURES * 6
    assert inference_flops(model, batch_of()) == product
    assert training_step_flops(model, batch_of()) == 2 * product


class Vector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight)[..., None].expand(-1, -1, CLASSES)


def test_matrix_times_vector_is_counted() -> None:
    assert inference_flops(Mean(Vector()), batch_of()) == 2 * BATCH * LENGTH * FEATURES


class Convolution(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.inner = nn.Linear(FEATURES, 6, bias=False)
        self.conv = nn.Conv1d(6, 6, 3, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.inner(x).transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("groups", [1, 6])
def test_convolution_backward_costs_two_forwards_also_with_groups(groups: int) -> None:
    count = count_training_step(Mean(Convolution(groups)), batch_of())
    forward = 2 * BATCH * (LENGTH - 2) * 6 * (6 // groups) * 3
    assert count.by_operator["aten.convolution"] == forward
    assert count.by_operator["aten.convolution_backward"] == 2 * forward


class SpectralConvolution(nn.Module):
    """y = irfft(rfft(u) * rfft(k)), padded to twice the length: one channel a feature."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(LENGTH, FEATURES))

    def forward(self, u: Tensor) -> Tensor:
        size = 2 * LENGTH
        product = torch.fft.rfft(u, n=size, dim=1) * torch.fft.rfft(self.kernel, n=size, dim=0)
        return torch.fft.irfft(product, n=size, dim=1)[:, :LENGTH]


def test_real_transforms_cost_half_a_complex_one_of_the_padded_length() -> None:
    n = 2 * LENGTH
    real_transform = 5 * n * math.log2(n) / 2
    count = count_inference(Mean(SpectralConvolution()), batch_of())
    assert count.by_operator == {
        "aten._fft_r2c": (BATCH + 1) * FEATURES * real_transform,
        "aten._fft_c2r": BATCH * FEATURES * real_transform,
    }
    # Backward: a real transform for the inverse one; the kernel's as PyTorch does it, as a complex one.
    trained = count_training_step(Mean(SpectralConvolution()), batch_of())
    assert trained.by_operator == {
        "aten._fft_r2c": (2 * BATCH + 1) * FEATURES * real_transform,
        "aten._fft_c2r": BATCH * FEATURES * real_transform,
        "aten._fft_c2c": FEATURES * 2 * real_transform,
    }


class Scan(nn.Module):
    def __init__(self, states: int) -> None:
        super().__init__()
        self.inner = nn.Linear(FEATURES, 2 * states, bias=False)
        self.poles_re = nn.Parameter(torch.full((states,), 0.5))
        self.poles_im = nn.Parameter(torch.zeros(states))

    def forward(self, u: Tensor) -> Tensor:
        return diagonal_scan(self.inner(u), self.poles_re, self.poles_im)


def test_a_scan_is_eight_a_state_and_step_and_sixteen_backward() -> None:
    count = count_training_step(Mean(Scan(7)), batch_of())
    scans = {name: n for name, n in count.by_operator.items() if name.startswith("compressm.")}
    assert sorted(scans.values()) == [8 * BATCH * LENGTH * 7, 16 * BATCH * LENGTH * 7]
    assert count.total == sum(scans.values()) + 2 * (2 * BATCH * LENGTH * FEATURES * 14)


def test_fewer_states_cost_less() -> None:
    small, large = (training_step_flops(Mean(Scan(n)), batch_of()) for n in (2, 7))
    assert small * 7 == large * 2


class Recurrent(nn.Module):
    """The recurrence of a layer."""

    def __init__(self, states: int, form: Form) -> None:
        super().__init__()
        self.form = form
        self.log_abs = nn.Parameter(torch.full((states,), -0.1))
        self.angle = nn.Parameter(torch.zeros(states))
        self.inner = nn.ParameterList([torch.randn(states, FEATURES) for _ in range(2)])
        self.outer = nn.ParameterList([torch.randn(CLASSES, states) for _ in range(2)])

    def forward(self, u: Tensor) -> Tensor:
        return diagonal_ssm(u, self.log_abs, self.angle, *self.inner, *self.outer, form=self.form)


@pytest.mark.filterwarnings("error:measured on a copy with values")
def test_recurrences_are_counted_without_values_in_both_forms() -> None:
    scanned = count_training_step(Mean(Recurrent(2, "recurrent")), batch_of()).by_operator
    assert "compressm.diagonal_scan_v2" in scanned
    convolved = count_training_step(Mean(Recurrent(2, "convolution")), batch_of()).by_operator
    assert "aten._fft_r2c" in convolved
    assert "compressm.diagonal_scan_v2" not in convolved


class Stateful(nn.Module):
    """Everything that a careless count would disturb: statistics, random numbers, gradients, a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(FEATURES, CLASSES)
        self.calls = 0

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        self.calls += 1
        x = self.norm(inputs.flatten(0, 1)).view_as(inputs)
        return self.head(self.drop(x).mean(dim=1))


class NeedsValues(Stateful):
    """Branches on the data, so it cannot run without values."""

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        assert float(inputs.abs().max()) > 0
        return super().forward(inputs, lengths)


@pytest.mark.parametrize("kind", [Stateful, NeedsValues])
@pytest.mark.filterwarnings("ignore:measured on a copy with values")
def test_counting_changes_nothing(kind: type[Stateful]) -> None:
    model, batch = kind(), batch_of()
    nn.functional.cross_entropy(model(batch.inputs), batch.labels).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = {name: (id(p), p.grad.clone()) for name, p in model.named_parameters()}
    inputs, random, calls = batch.inputs.clone(), torch.get_rng_state(), model.calls
    for training in (True, False):
        model.train(training)
        training_step_flops(model, batch)
        inference_flops(model, batch)
        assert model.training is training
        assert model.drop.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for name, p in model.named_parameters():
        assert id(p) == parameters[name][0]
        assert torch.equal(p.grad, parameters[name][1])
        assert p.device.type == "cpu"
    assert torch.equal(batch.inputs, inputs)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.calls == calls


def test_a_model_that_needs_values_is_counted_the_same_and_says_so() -> None:
    expected = training_step_flops(Stateful(), batch_of())
    with pytest.warns(UserWarning, match=r"on a copy with values, .* without them /.*test_flops.py:\d+: \w"):
        assert training_step_flops(NeedsValues(), batch_of()) == expected > 0


def test_a_model_that_cannot_run_at_all_raises() -> None:
    with (
        pytest.warns(UserWarning, match="on a copy with values"),
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
    ):
        inference_flops(Mean(nn.Linear(FEATURES + 1, 6)), batch_of())


def test_shared_weights_stay_shared_in_the_copy() -> None:
    shared = nn.Linear(FEATURES, FEATURES, bias=False)
    product = 2 * BATCH * LENGTH * FEATURES**2
    model = Mean(nn.Sequential(shared, nn.ReLU(), shared))
    assert training_step_flops(model, batch_of()) == 5 * product


def test_counts_need_no_data() -> None:
    spec = DataSpec(classes=CLASSES, length=LENGTH, features=FEATURES)
    model = Mean(nn.Linear(FEATURES, 6))
    assert training_step_flops(model, example_batch(spec, BATCH)) == training_step_flops(model, batch_of())
    assert inference_flops(model, example_batch(spec, 1)) == 2 * LENGTH * FEATURES * 6
    tokens = example_batch(DataSpec(classes=2, length=9, vocabulary=11), 4)
    assert (tokens.inputs.shape, tokens.inputs.dtype, len(tokens)) == ((4, 9), torch.int64, 4)
    with pytest.raises(ValueError, match="features or a vocabulary"):
        example_batch(DataSpec(classes=2, length=9), 4)


def test_training_flops_sum_over_segments_and_survive_a_restart() -> None:
    flops = TrainingFlops()
    with pytest.raises(RuntimeError, match="segment"):
        flops.step()
    flops.segment(100)
    flops.step(3)
    resumed = TrainingFlops()
    resumed.load_state_dict(flops.state_dict())
    resumed.step()
    resumed.segment(10)
    resumed.step(2)
    assert (flops.total, resumed.total) == (300, 420)


def test_the_convention_names_the_unit_and_the_gaps() -> None:
    assert "1 multiply-add = 2 FLOPs" in CONVENTION
    assert "Not counted" in CONVENTION
