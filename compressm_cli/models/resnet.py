"""Residual networks over images."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.core.axes import Axis, Slot
from compressm_cli.layers.convolution import Convolution, ResidualStage
from compressm_cli.models.config import ModelConfig
from compressm_cli.models.interface import Model

IMAGENET: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks of each stage."""
BOTTLENECKS_FROM = 50
"""Depth, in the layout of ImageNet."""
EXPANSION = 4
"""How many times as many channels a bottleneck adds as it has within."""


class ResNetConfig(ModelConfig):
    """A residual network over images (He et al. 2016; ``model: {kind: resnet}``).

    Convolutions with batch normalization and ReLU, in stages of residual blocks; each stage but the first halves the
    image and has twice the channels. Then the mean over the image, and a head. Where a block changes the shape, its
    shortcut is a convolution of size 1. A bottleneck has its stride in the convolution of size 3.
    """

    reads: ClassVar[Literal["images"]] = "images"

    kind: Literal["resnet"] = "resnet"
    layout: Literal["cifar", "imagenet"] = "cifar"
    """``cifar``: a convolution of size 3 and three stages, for small images; ``imagenet``: one of size 7 and a pooling
    that take each every other pixel, and four stages."""
    depth: Annotated[int, Field(ge=8, le=2000)] = 20
    """Number of layers with weights, as networks are called by: of ``cifar`` 6 n + 2 (20, 32, 44, 56, 110), of
    ``imagenet`` 18, 34, 50, 101 or 152, from 50 on of bottlenecks."""
    width: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Channels of the first convolution, and within the blocks of the first stage; null is 16 (``cifar``), 64
    (``imagenet``)."""

    @model_validator(mode="after")
    def _a_depth_of_its_layout(self) -> Self:
        if self.layout == "cifar" and self.depth % 6 != 2:
            raise ValueError(
                f"depth is 6 n + 2 in the layout cifar, as 20 or 56, not {self.depth}; write such, or layout: imagenet"
            )
        if self.layout == "imagenet" and self.depth not in IMAGENET:
            listed = ", ".join(map(str, IMAGENET))
            raise ValueError(f"depth is one of {listed} in the layout imagenet, not {self.depth}")
        return self

    def channels(self) -> int:
        """Of the first convolution."""
        return self.width or (16 if self.layout == "cifar" else 64)

    def stages(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return ((self.depth - 2) // 6,) * 3 if self.layout == "cifar" else IMAGENET[self.depth]

    @property
    def has_bottlenecks(self) -> bool:
        return self.layout == "imagenet" and self.depth >= BOTTLENECKS_FROM

    def least_parameters(self, ends: int) -> int:
        """Of the convolutions of size 3 in blocks."""
        each = 1 if self.has_bottlenecks else 2
        inner = ((blocks - 1) * (self.channels() * 2**i) ** 2 for i, blocks in enumerate(self.stages()))
        return 9 * each * sum(inner)


class ResNet(Model):
    """Stem, stages of residual blocks, mean over the image, head: (batch, channels, height, width) -> scores."""

    Config = ResNetConfig

    def __init__(self, stem: Convolution, pool: bool, stages: list[ResidualStage], head: nn.Linear) -> None:
        """With ``pool`` the largest of 3 x 3 pixels is taken after the stem, at every other one."""
        super().__init__()
        self.stem = stem
        self.pool = pool
        self.stages = nn.ModuleList(stages)
        self.head = head

    @classmethod
    def build(cls, config: Any, data: Any, orders: Mapping[str, int] | None = None) -> "ResNet":
        width, imagenet = config.channels(), config.layout == "imagenet"
        stem = Convolution(data.image[0], width, 7 if imagenet else 3, stride=2 if imagenet else 1)
        stages, inputs = [], width
        for i, depth in enumerate(config.stages()):
            inner = width * 2**i
            outputs = inner * (EXPANSION if config.has_bottlenecks else 1)
            stages.append(
                ResidualStage(
                    inputs,
                    outputs,
                    depth,
                    inner=inner,
                    stride=2 if i else 1,
                    bottleneck=config.has_bottlenecks,
                )
            )
            inputs = outputs
        model = cls(stem, imagenet, stages, nn.Linear(inputs, data.outputs))
        for part in model.modules():
            if isinstance(part, Convolution):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        return model

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Images (batch, channels, height, width) -> scores (batch, classes); ``lengths`` is None, of images."""
        x = self.stem(inputs)
        if self.pool:
            x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for stage in self.stages:
            x = stage(x)
        y: Tensor = self.head(x.mean((2, 3)))
        return y

    def axes(self) -> Iterator[Axis]:
        """Of each stage the channels where they are made before it, or read behind it, tied to those of the stage.

        Where the first block of a stage has no shortcut, it adds to what is made before.
        """
        made, size = self.stem.output_slots("stem"), self.stem.weight.shape[0]
        tied: tuple[str, ...] = ()
        for name, stage in self.stages.named_children():
            assert isinstance(stage, ResidualStage)
            place = f"stages.{name}"
            if read := stage.input_slots(place):
                yield Axis(f":inputs{name}", "channel", size, (*made, *read), "", tied)
                made, tied = (), ()
            for axis in stage.axes():
                tied, size = (*tied, place + axis.name), axis.size
        yield Axis(":features", "channel", size, (*made, Slot("head.weight", 1)), "", tied)
