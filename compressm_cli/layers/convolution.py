"""Convolutions with batch normalization, and stages of residual blocks, whose sums tie channels.

Channels come first, as PyTorch has them: (batch, channels, length) or (batch, channels, height, width).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.core.axes import Axis, Role, Slot
from compressm_cli.layers.channel_norm import ChannelNorm
from compressm_cli.layers.residual import sublayer_axis

Activation = Literal["relu", "gelu", "silu"]
"""Each is zero at zero, so that a channel without gain and bias is silent."""
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}


class Convolution(nn.Module):
    """``activation(norm(convolution(x)))``, padded by half a kernel; without norm the convolution has a bias.

    (batch, inputs, *space) -> (batch, outputs, *space), space divided by the stride and rounded up. ``weight`` is
    (outputs, inputs, *kernel), of a depthwise convolution (outputs, 1, *kernel), where each channel is a group. Sizes
    are read from it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        dims: Literal[1, 2] = 2,
        stride: int = 1,
        depthwise: bool = False,
        norm: bool = True,
        activation: Activation | None = "relu",
    ) -> None:
        """Raises ValueError for an even ``kernel``, or a depthwise convolution that changes the number of channels."""
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel has an odd size, not {kernel}")
        if depthwise and inputs != outputs:
            raise ValueError(f"a depthwise convolution keeps its {inputs} channels, it cannot make {outputs}")
        build = nn.Conv1d if dims == 1 else nn.Conv2d
        fresh = build(inputs, outputs, kernel, groups=inputs if depthwise else 1, bias=not norm)
        self.weight = fresh.weight
        self.bias = fresh.bias
        self.norm = ChannelNorm(outputs) if norm else None
        self.stride = stride
        self.depthwise = depthwise
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, *space) -> (batch, outputs, *space / stride)."""
        convolve = functional.conv1d if self.weight.ndim == 3 else functional.conv2d
        groups = self.weight.shape[0] if self.depthwise else 1
        padding, stride = self.weight.shape[-1] // 2, self.stride
        if padding == 0 and stride > 1:
            # The same, of the pixels that it looks at. With a stride, oneDNN's backward pass writes beyond its memory
            # where channels come last and are few (uxlfoundation/oneDNN#6035).
            x, stride = (x[..., ::stride] if x.ndim == 3 else x[..., ::stride, ::stride]), 1
        y = convolve(x, self.weight, self.bias, stride, padding, groups=groups)
        y = y if self.norm is None else self.norm(y)
        return y if self.activation is None else ACTIVATIONS[self.activation](y)

    def output_slots(self, name: str, passed_on: bool = False) -> tuple[Slot, ...]:
        """Where its output channels lie, with it at ``name``.

        A channel is silent, zero after norm and activation, where the gain *and* the bias of its norm are zero, or
        without norm its rows and its bias: these have the role ``out``. Zeros in the convolution alone do not do: the
        norm would make its bias of them, and in evaluation less the running mean. ``passed_on`` says that a depthwise
        convolution makes other values of the channels; what silences them is to be found there.
        """
        silencing: Role = "own" if passed_on else "out"
        if self.norm is None:
            slots = [Slot("weight", 0, role="in" if passed_on else "out"), Slot("bias", 0, role=silencing)]
        else:
            slots = [Slot("weight", 0, role="in")]
            slots += [Slot(f"norm.{gain}", 0, role=silencing) for gain in ("weight", "bias")]
            slots += [Slot(f"norm.{statistic}", 0) for statistic in ("running_mean", "running_var")]
        return tuple(slot.within(name) for slot in slots)

    def input_slots(self, name: str) -> tuple[Slot, ...]:
        """Where its input channels lie, with it at ``name``; a depthwise one has them in its outputs."""
        return () if self.depthwise else (Slot(f"{name}.weight", 1),)


class ResidualBlock(nn.Module):
    """``activation(last(first(x)) + shortcut(x))`` (He et al. 2016), over images or sequences.

    ``first`` makes ``inner`` channels; with ``bottleneck`` its kernel and that of ``last`` have the size 1, and a
    convolution ``middle`` is between them, with the stride; with ``depthwise`` that one is depthwise (Sandler et al.
    2018, "MobileNetV2"). The ``shortcut`` is a convolution of size 1 with norm where the shape changes, else the
    identity. Such a block may leave a network: it is ``activation(x)`` then, as with zeros in ``last``.
    """

    first: Convolution | None
    middle: Convolution | None
    last: Convolution | None

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        *,
        kernel: int = 3,
        dims: Literal[1, 2] = 2,
        stride: int = 1,
        depthwise: bool = False,
        bottleneck: bool = False,
        norm: bool = True,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        build = partial(Convolution, dims=dims, norm=norm)
        has_middle = depthwise or bottleneck
        outer = 1 if has_middle else kernel
        first_stride = 1 if has_middle else stride
        self.first = build(inputs, inner, outer, stride=first_stride, activation=activation)
        self.middle = None
        if has_middle:
            self.middle = build(
                inner, inner, kernel, stride=stride, depthwise=depthwise, activation=activation
            )
        self.last = build(inner, outputs, outer, activation=None)
        self.parts = ("first", "middle", "last") if has_middle else ("first", "last")
        self.shortcut = None
        if inputs != outputs or stride != 1:
            self.shortcut = build(inputs, outputs, 1, stride=stride, activation=None)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, *space) -> (batch, outputs, *space / stride)."""
        if self.first is None or self.last is None:
            return ACTIVATIONS[self.activation](x)
        y = self.first(x)
        if self.middle is not None:
            y = self.middle(y)
        y = self.last(y) + (x if self.shortcut is None else self.shortcut(x))
        return ACTIVATIONS[self.activation](y)

    @property
    def is_removed(self) -> bool:
        return self.first is None

    def axes(self) -> Iterator[Axis]:
        """The channels between its convolutions, and itself, where its shortcut is the identity.

        Those that it reads and adds to are a matter of its stage.
        """
        if self.shortcut is None:
            yield sublayer_axis(not self.is_removed, *self.parts)
        if self.first is None or self.last is None:
            return
        slots, size = self.first.output_slots("first"), self.first.weight.shape[0]
        if self.middle is not None and self.middle.depthwise:
            slots = self.first.output_slots("first", passed_on=True) + self.middle.output_slots("middle")
        elif self.middle is not None:
            yield Axis(":inner", "channel", size, (*slots, *self.middle.input_slots("middle")), "")
            slots, size = self.middle.output_slots("middle"), self.middle.weight.shape[0]
        yield Axis(":channels", "channel", size, (*slots, *self.last.input_slots("last")), "")

    def output_slots(self, name: str) -> tuple[Slot, ...]:
        """Where the channels that it adds lie, with it at ``name``; empty once it is removed."""
        slots = () if self.last is None else self.last.output_slots(f"{name}.last")
        return slots if self.shortcut is None else slots + self.shortcut.output_slots(f"{name}.shortcut")

    def input_slots(self, name: str) -> tuple[Slot, ...]:
        """Where the channels that it reads lie; without a shortcut these are the ones that it adds to as well."""
        slots = () if self.first is None else self.first.input_slots(f"{name}.first")
        return slots if self.shortcut is None else slots + self.shortcut.input_slots(f"{name}.shortcut")


class ResidualStage(nn.Module):
    """``depth`` residual blocks one after another, of which the first may change the shape: a stage of a ResNet.

    (batch, inputs, *space) -> (batch, outputs, *space / stride). Every block adds to the same channels, so a channel is
    silent where all of them, and a shortcut of the first, add nothing to it.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        depth: int,
        *,
        inner: int | None = None,
        kernel: int = 3,
        dims: Literal[1, 2] = 2,
        stride: int = 1,
        depthwise: bool = False,
        bottleneck: bool = False,
        norm: bool = True,
        activation: Activation = "relu",
    ) -> None:
        """``inner`` channels in each block, as many as ``outputs`` where none are given; at least one block."""
        super().__init__()
        if depth < 1:
            raise ValueError(f"a stage has at least one block, not {depth}")
        self.blocks = nn.ModuleList(
            ResidualBlock(
                outputs if i else inputs,
                outputs if inner is None else inner,
                outputs,
                kernel=kernel,
                dims=dims,
                stride=1 if i else stride,
                depthwise=depthwise,
                bottleneck=bottleneck,
                norm=norm,
                activation=activation,
            )
            for i in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, *space) -> (batch, outputs, *space / stride)."""
        for block in self.blocks:
            x = block(x)
        return x

    def axes(self) -> Iterator[Axis]:
        """The channels that all its blocks add to; none where all of them are removed.

        Whoever reads the stage ties an axis of the slots where it does so to this one; so does whoever makes its input,
        where the first block has no shortcut and adds to it (``input_slots`` is empty).
        """
        slots: tuple[Slot, ...] = ()
        for i, block in enumerate(self._blocks()):
            slots += block.output_slots(f"blocks.{i}")
            if block.shortcut is None:
                slots += block.input_slots(f"blocks.{i}")
        last = next((block.last for block in self._blocks() if block.last is not None), None)
        if last is not None:
            yield Axis(":channels", "channel", last.weight.shape[0], slots, "")

    def input_slots(self, name: str) -> tuple[Slot, ...]:
        """Where its input channels lie, with it at ``name``; empty where they are the ones of ``axes``."""
        first = self._blocks()[0]
        return () if first.shortcut is None else first.input_slots(f"{name}.blocks.0")

    def _blocks(self) -> list[ResidualBlock]:
        return [block for block in self.blocks if isinstance(block, ResidualBlock)]
