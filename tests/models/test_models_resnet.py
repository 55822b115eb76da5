"""Residual networks: PyTorch's modules put together by hand on the same weights, published costs, cuts."""

from typing import Any

import pytest
import torch
from cut_units import EXACT, assert_cut_is_silence, numbers, randomized, removals
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec
from compressm_cli.measure.flops import inference_flops
from compressm_cli.measure.probe import example_batch
from compressm_cli.models import build_model
from compressm_cli.models.resnet import ResNet, ResNetConfig
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.surgery import apply_edits

KINDS: dict[str, dict[str, Any]] = {
    "cifar": {"depth": 14, "width": 4},
    "imagenet": {"layout": "imagenet", "depth": 18, "width": 4},
    "bottlenecks": {"layout": "imagenet", "depth": 50, "width": 2},
}


def images_of(side: int, classes: int = 10) -> DataSpec:
    return DataSpec(classes=classes, length=side**2, features=3, image=(3, side, side))


def build(side: int = 16, classes: int = 10, **config: Any) -> ResNet:
    torch.manual_seed(0)
    model = build_model(ResNetConfig.model_validate(config), images_of(side, classes))
    assert isinstance(model, ResNet)
    return model


class Theirs(nn.Module):
    """A block of PyTorch's modules, as torchvision's: with the stride in the convolution of size 3."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        shapes = [(inputs, inner, 3, stride), (inner, outputs, 3, 1)]
        if bottleneck:
            shapes = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(i, o, k, stride=s, padding=k // 2, bias=False) for i, o, k, s in shapes
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in shapes)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            y = norm(convolution(y if y is x else torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    def named(self) -> list[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
        names = ["first", "last"] if len(self.norms) == 2 else ["first", "middle", "last"]
        found = list(zip(names, self.convolutions, self.norms, strict=True))
        return found + ([("shortcut", *self.downsample)] if self.downsample is not None else [])


def theirs(config: ResNetConfig, classes: int) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """The whole network, and its parameters and statistics by our names."""
    imagenet, width = config.layout == "imagenet", config.width or 16
    stem = nn.Conv2d(3, width, 7 if imagenet else 3, 2 if imagenet else 1, 3 if imagenet else 1, bias=False)
    norm = nn.BatchNorm2d(width)
    parts: list[nn.Module] = [stem, norm, nn.ReLU()]
    parts += [nn.MaxPool2d(3, 2, 1)] if imagenet else []
    blocks: dict[str, Theirs] = {}
    counts = {18: [2, 2, 2, 2], 50: [3, 4, 6, 3]}[config.depth] if imagenet else [(config.depth - 2) // 6] * 3
    bottleneck, inputs = config.depth == 50, width
    for i, count in enumerate(counts):
        inner = width * 2**i
        outputs = 4 * inner if bottleneck else inner
        for j in range(count):
            block = Theirs(inputs, inner, outputs, 2 if i and not j else 1, bottleneck)
            blocks[f"stages.{i}.blocks.{j}"] = block
            inputs = outputs
    head = nn.Linear(inputs, classes)
    whole = nn.Sequential(*parts, *blocks.values(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).double()
    named = [("stem", stem, norm)]
    named += [(f"{place}.{n}", c, b) for place, block in blocks.items() for n, c, b in block.named()]
    tensors = {"head.weight": head.weight, "head.bias": head.bias}
    for place, convolution, batch_norm in named:
        tensors[f"{place}.weight"] = convolution.weight
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{place}.norm.{name}"] = getattr(batch_norm, name)
    return whole, tensors


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_pytorchs_modules_put_together(kind: str, training: bool) -> None:
    side = 12 if kind == "cifar" else 40
    model = randomized(build(side, **KINDS[kind])).train(training)
    other, tensors = theirs(ResNetConfig.model_validate(KINDS[kind]), 10)
    other.train(training)
    ours = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert set(tensors) == {name for name in ours if not name.endswith("num_batches_tracked")}
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(ours[name])
    results = []
    for network in (model, other):
        x = numbers(4, 3, side, side)
        y = network(x)
        (y * numbers(*y.shape, seed=2).detach()).sum().backward()
        results.append((y, x.grad))
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)
    for name, tensor in tensors.items():
        torch.testing.assert_close(ours[name], tensor, **EXACT)
        if isinstance(tensor, nn.Parameter):
            torch.testing.assert_close(ours[name].grad, tensor.grad, **EXACT)


@pytest.mark.parametrize(
    ("config", "side", "classes", "multiply_adds", "parameters"),
    [
        ({"depth": 20}, 32, 10, 40.8e6, 0.27e6),
        ({"depth": 56}, 32, 10, 125.7e6, 0.86e6),
        ({"layout": "imagenet", "depth": 18}, 224, 1000, 1.814e9, 11_689_512),
        ({"layout": "imagenet", "depth": 50}, 224, 1000, 4.09e9, 25_557_032),
    ],
    ids=["ResNet-20", "ResNet-56", "ResNet-18", "ResNet-50"],
)
def test_published_costs(
    config: dict[str, Any], side: int, classes: int, multiply_adds: float, parameters: float
) -> None:
    with torch.device("meta"):
        model = build(side, classes, **config)
    flops = inference_flops(model, example_batch(images_of(side, classes), 1))
    assert flops / 2 == pytest.approx(multiply_adds, rel=2e-3)
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(parameters, rel=1e-2)
    assert 0 < ResNetConfig.model_validate(config).least_parameters(3 + classes) <= count


@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_a_cut_is_the_same_as_silence(data: Any) -> None:
    model = randomized(build(depth=8, width=4))
    assert_cut_is_silence(model, data.draw(removals(model)), numbers(3, 3, 16, 16))


def test_blocks_leave_beside_channels() -> None:
    model = build(depth=14, width=4).eval()
    x = torch.randn(2, 3, 16, 16)
    gone = [f"stages.{place}:sublayer" for place in ("0.blocks.0", "0.blocks.1", "2.blocks.1")]
    apply_edits(model, None, [Keep(name, []) for name in gone])
    apply_edits(model, None, [Keep(":inputs1", [0, 2]), Keep(":features", [1, 3, 5])])
    assert model.stem.weight.shape == (2, 3, 3, 3)
    assert model(x).shape == (2, 10)
    # Nothing but the stem is before the second stage.
    blocks = model.stages[1](model.stem(x))
    torch.testing.assert_close(model.head(model.stages[2](blocks).mean((2, 3))), model(x))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"depth": 18}, r"depth is 6 n \+ 2 in the layout cifar, .* not 18; .* layout: imagenet"),
        ({"layout": "imagenet"}, "depth is one of 18, 34, 50, 101, 152 in the layout imagenet, not 20"),
    ],
)
def test_depths_of_the_layouts(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ResNetConfig.model_validate(config)


def test_images_and_sequences_are_told_apart() -> None:
    with pytest.raises(
        BadInputError, match=r"resnet reads images, and the data are sequences; write data.as_images"
    ):
        build_model(ResNetConfig(), DataSpec(classes=10, length=64, features=1))
    sequence = SequenceConfig.model_validate({"layer": {"kind": "lru", "state_dim": 4}})
    with pytest.raises(
        BadInputError, match=r"sequence reads sequences, and the data are images; leave out .* resnet"
    ):
        build_model(sequence, images_of(8))
