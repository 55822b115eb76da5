"""Convolutions against PyTorch's own modules and sums by hand, and channels that leave, also through residual sums."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Literal

import pytest
import torch
from cut_units import (
    EXACT,
    assert_cut_is_silence,
    assert_surgery_follows,
    axes_of,
    cut,
    is_heard,
    numbers,
    randomized,
    removals,
    silenced,
)
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.core.axes import Axis, Slot
from compressm_cli.layers.channel_norm import ChannelNorm
from compressm_cli.layers.convolution import Activation, Convolution, ResidualBlock, ResidualStage
from compressm_cli.models import pool_statistics
from compressm_cli.ops import batch_norm
from compressm_cli.structure.edits import Park, Wake
from compressm_cli.structure.surgery import apply_edits

SPACE = {1: (9,), 2: (7, 5)}


class Network(nn.Module):
    """A stem, a stage that adds to its channels, one that makes others, and a head: who reads a stage ties its axis."""

    def __init__(self, dims: Literal[1, 2], **settings: Any) -> None:
        super().__init__()
        norm = settings.get("norm", True)
        self.stem = Convolution(3, 5, 3, dims=dims, norm=norm, activation="silu")
        self.stages = nn.ModuleList(
            [
                ResidualStage(5, 5, 2, inner=7, dims=dims, **settings),
                ResidualStage(5, 6, 2, dims=dims, stride=2, **settings),
            ]
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.flatten(2).mean(-1))

    def axes(self) -> Iterator[Axis]:
        first, second = self.stages
        assert isinstance(first, ResidualStage)
        assert isinstance(second, ResidualStage)
        assert first.input_slots("stages.0") == ()
        between = self.stem.output_slots("stem") + second.input_slots("stages.1")
        own = tuple(f"stages.0{axis.name}" for axis in first.axes())
        yield Axis(":between", "channel", self.stem.weight.shape[0], between, "", own)
        read = (Slot("head.weight", 1),)
        yield Axis(":read", "channel", self.head.weight.shape[1], read, "", ("stages.1:channels",))


NETWORKS: dict[str, dict[str, Any]] = {
    "images": {"dims": 2},
    "sequences": {"dims": 1, "kernel": 5, "activation": "gelu"},
    "bottleneck": {"dims": 2, "bottleneck": True},
    "depthwise": {"dims": 2, "depthwise": True, "activation": "silu"},
    "without norm": {"dims": 2, "norm": False},
    "depthwise without norm": {"dims": 1, "norm": False, "depthwise": True, "activation": "gelu"},
}


REMOVED = {
    "stages.0.blocks.1:channels": [0, 3, 6],
    "stages.0:channels": [4, 1],
    "stages.1.blocks.0:channels": [2],
    "stages.1:channels": [0, 2, 5],
}
"""Of both dimensions of some weights."""


def network_of(kind: str, training: bool) -> tuple[Network, Tensor]:
    return randomized(Network(**NETWORKS[kind])).train(training), numbers(
        3, 3, *SPACE[NETWORKS[kind]["dims"]]
    )


def by_hand(layer: Convolution, x: Tensor) -> Tensor:
    """A sum over the offsets of the kernel, then batch statistics, or the running ones, and the activation."""
    weight = layer.weight if layer.weight.ndim == 4 else layer.weight[:, :, None]
    image = x if x.ndim == 4 else x[:, :, None]
    (high, wide), stride = weight.shape[2:], layer.stride
    size = [-(-n // stride) for n in image.shape[2:]]
    padded = functional.pad(image, (wide // 2, wide // 2, high // 2, high // 2))
    channels = []
    for i, rows in enumerate(weight):
        read = padded[:, [i]] if layer.depthwise else padded
        y = torch.zeros(len(x), *size, dtype=x.dtype)
        for a in range(high):
            for b in range(wide):
                seen = read[:, :, a::stride, b::stride][:, :, : size[0], : size[1]]
                y = y + (seen * rows[:, a, b, None, None]).sum(1)
        if layer.bias is not None:
            y = y + layer.bias[i]
        if layer.norm is not None:
            mean, variance = layer.norm.running_mean[i], layer.norm.running_var[i]
            if layer.training:
                mean, variance = y.mean(), y.var(correction=0)
            y = (y - mean) / torch.sqrt(variance + 1e-5) * layer.norm.weight[i] + layer.norm.bias[i]
        channels.append(y)
    y = torch.stack(channels, dim=1)
    y = {
        None: lambda: y,
        "relu": lambda: y.clamp_min(0),
        "silu": lambda: y / (1 + torch.exp(-y)),
        "gelu": lambda: y * (1 + torch.erf(y / 2**0.5)) / 2,
    }[layer.activation]()
    return y if x.ndim == 4 else y[:, :, 0]


@pytest.mark.parametrize("mode", ["training", "evaluation", "without norm"])
@pytest.mark.parametrize(("activation", "stride"), [("relu", 2), ("gelu", 1), ("silu", 3), (None, 2)])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("dims", [1, 2])
def test_it_is_its_sum_by_hand_and_so_are_its_gradients(
    dims: Literal[1, 2], depthwise: bool, activation: Activation | None, stride: int, mode: str
) -> None:
    norm, outputs = mode != "without norm", 5 if depthwise else 4
    layer = Convolution(
        5, outputs, 3, dims=dims, stride=stride, depthwise=depthwise, norm=norm, activation=activation
    )
    x = numbers(3, 5, *SPACE[dims])
    randomized(layer).train(mode == "training")
    results = []
    for y in (by_hand(layer, x), layer(x)):
        weights = numbers(*y.shape, seed=2).detach()
        results.append((y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_block_adds_its_convolutions_to_its_shortcut(depthwise: bool) -> None:
    x = numbers(2, 4, 6, 5)
    for outputs, stride in ((4, 1), (3, 1), (4, 2)):
        block = randomized(
            ResidualBlock(4, 7, outputs, stride=stride, depthwise=depthwise, activation="silu")
        )
        convolutions = [block.first, *([] if block.middle is None else [block.middle]), block.last]
        assert [c.activation for c in convolutions] == ["silu"] * (len(convolutions) - 1) + [None]
        y = x
        for convolution in convolutions:
            y = by_hand(convolution, y)
        assert (block.shortcut is None) == (outputs == 4 and stride == 1)
        y = y + (x if block.shortcut is None else by_hand(block.shortcut, x))
        torch.testing.assert_close(block(x), y * torch.sigmoid(y), **EXACT)


def test_the_norm_is_pytorchs_own_to_the_bit() -> None:
    for own, space in ((nn.BatchNorm1d(5), (9,)), (nn.BatchNorm2d(5), (4, 3))):
        norm = ChannelNorm(5)
        assert list(norm.state_dict()) == list(own.state_dict())
        for training in (True, True, False):
            x = torch.randn(4, 5, *space, requires_grad=True)
            found = []
            for module in (norm.train(training), own.train(training)):
                y = module(x)
                found.append((y, *torch.autograd.grad(y.sin().sum(), [x, *module.parameters()])))
            assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), own.buffers(), strict=True))


def test_the_norm_of_several_processes_is_that_of_all_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that pass the same rows: as one process with each row twice."""
    monkeypatch.setattr(batch_norm, "of_all_processes", lambda own, processes: own.expand(processes, -1))
    shared = randomized(Convolution(3, 5, 3))
    alone, x = deepcopy(shared), numbers(2, 3, 4, 3)
    pool_statistics(shared, 2)
    assert alone.norm is not None
    assert shared.norm is not None
    assert (alone.norm.processes, shared.norm.processes) == (1, 2)
    torch.testing.assert_close(shared(x), alone(torch.cat([x, x]))[:2], **EXACT)
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(shared.get_buffer(name), buffer, **EXACT)
    (once,) = torch.autograd.grad(shared(x).sin().sum(), x)
    (twice,) = torch.autograd.grad(alone(torch.cat([x, x])).sin().sum(), x)
    torch.testing.assert_close(2 * once, twice, **EXACT)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_any_channels_may_leave_at_once(kind: str, training: bool) -> None:
    network, x = network_of(kind, training)

    @settings(max_examples=10, deadline=None)
    @given(removals(network))
    def check(removed: dict[str, list[int]]) -> None:
        assert_cut_is_silence(network, removed, x, lambda model: model(x))

    check()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_weight_is_cut_on_both_sides(kind: str, training: bool) -> None:
    network, x = network_of(kind, training)
    assert_cut_is_silence(network, REMOVED, x)
    assert all(is_heard(network, {name: units}, x) for name, units in REMOVED.items())
    small, _ = cut(network, REMOVED)
    shapes = {name: tuple(p.shape[:2]) for name, p in small.named_parameters()}
    assert shapes["stages.0.blocks.1.first.weight"] == (7 if kind == "bottleneck" else 4, 3)
    assert shapes["stages.0.blocks.1.last.weight"] == (3, 4)
    assert shapes["stages.1.blocks.0.shortcut.weight"] == (3, 3)
    assert shapes["stem.weight"] == (3, 3)
    assert shapes["head.weight"] == (4, 3)
    found = {name: axis.size for name, axis in axes_of(small).items() if axis.kind == "channel"}
    inner = {name: found.pop(name) for name in list(found) if name.endswith(":inner")}
    assert list(inner.values()) == ([7, 7, 6, 6] if kind == "bottleneck" else [])
    assert found == {
        ":between": 3,
        ":read": 3,
        "stages.0:channels": 3,
        "stages.0.blocks.0:channels": 7,
        "stages.0.blocks.1:channels": 4,
        "stages.1:channels": 3,
        "stages.1.blocks.0:channels": 5,
        "stages.1.blocks.1:channels": 6,
    }


@pytest.mark.parametrize("kind", NETWORKS)
def test_plans_cut_park_and_wake_its_channels(kind: str) -> None:
    network, x = network_of(kind, True)
    assert_surgery_follows(network, REMOVED, x)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("settings_of", [{}, {"depthwise": True}, {"bottleneck": True}], ids=str)
def test_blocks_without_a_shortcut_leave_and_come_back(
    settings_of: dict[str, Any], activation: Activation
) -> None:
    network = randomized(Network(2, activation=activation, **settings_of)).eval()
    x = numbers(2, 3, *SPACE[2])
    before = network(x)
    leaving = [name for name, axis in axes_of(network).items() if axis.kind == "sublayer"]
    assert leaving == [f"stages.{place}:sublayer" for place in ("0.blocks.0", "0.blocks.1", "1.blocks.1")]
    silent = deepcopy(network)
    with torch.no_grad():
        for name in leaving:
            last = silent.get_submodule(name.removesuffix(":sublayer")).last
            for tensor in (last.weight, last.norm.weight, last.norm.bias):
                tensor.zero_()
    apply_edits(network, None, [Park(name, [0]) for name in leaving])
    assert "stages.0:channels" not in axes_of(network)  # where all blocks are removed, nothing adds to them
    torch.testing.assert_close(network(x), silent(x), **EXACT)
    apply_edits(network, None, [Wake(name, [0]) for name in leaving])
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("dims", [1, 2])
def test_no_backward_pass_has_a_stride_over_single_pixels(
    dims: Literal[1, 2], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of oneDNN corrupts memory where channels come last and are few."""
    layer = Convolution(3, 4, 1, dims=dims, stride=2)
    called = f"conv{dims}d"
    strides: list[int] = []
    convolve = getattr(functional, called)

    def watching(
        x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, *rest: Any, **more: Any
    ) -> Tensor:
        strides.append(stride)
        return convolve(x, weight, bias, stride, *rest, **more)

    monkeypatch.setattr(functional, called, watching)
    layer(numbers(2, 3, *SPACE[dims]).float())
    assert strides == [1]


def by_role(block: ResidualBlock) -> dict[str, set[str]]:
    slots = axes_of(block)[":channels"].slots
    return {role: {slot.tensor for slot in slots if slot.role == role} for role in ("in", "out")}


def test_what_silences_a_channel_is_where_its_last_values_are_made() -> None:
    """So that zeros there leave gradients in all that is before."""
    assert by_role(ResidualBlock(4, 7, 4, depthwise=True)) == {
        "in": {"first.weight", "middle.weight"},
        "out": {"middle.norm.weight", "middle.norm.bias"},
    }
    assert by_role(ResidualBlock(4, 7, 4, depthwise=True, norm=False)) == {
        "in": {"first.weight"},
        "out": {"middle.weight", "middle.bias"},
    }
    assert by_role(ResidualBlock(4, 7, 4, norm=False)) == {"in": set(), "out": {"first.weight", "first.bias"}}


def test_zeros_in_the_convolution_alone_silence_no_channel() -> None:
    """Its norm makes its bias of them; why gain and bias have the role ``out`` and the convolution has not."""
    block, x = randomized(ResidualBlock(4, 7, 4)), numbers(2, 4, 6, 5)
    assert by_role(block) == {"in": {"first.weight"}, "out": {"first.norm.weight", "first.norm.bias"}}
    zeros = deepcopy(block)
    with torch.no_grad():
        zeros.first.weight[0].zero_()
        zeros.get_parameter("first.norm.bias")[0] = 1.0
    small, _ = cut(block, {":channels": [0]})
    assert (zeros(x) - small(x)).abs().max() > 1e-3
    torch.testing.assert_close(silenced(zeros, {":channels": [0]}, False)(x), small(x), **EXACT)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="the kernel has an odd size, not 4"):
        Convolution(3, 5, 4)
    with pytest.raises(ValueError, match="keeps its 3 channels, it cannot make 5"):
        Convolution(3, 5, 3, depthwise=True)
    with pytest.raises(ValueError, match="at least one block, not 0"):
        ResidualStage(3, 3, 0)
