"""Feed-forward layers: two linear maps with a nonlinearity between, or three with a gate."""

from collections.abc import Iterator
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.core.axes import Axis
from compressm_cli.layers.plain import is_plain
from compressm_cli.layers.slots import columns, rows
from compressm_cli.layers.state import Stateless
from compressm_cli.ops.swiglu import swiglu


class FeedForward(Stateless, nn.Module):
    """``down(GELU(up(x)))`` (Vaswani et al. 2017, with the GELU of Hendrycks and Gimpel 2016), step by step.

    (batch, length, H) -> (batch, length, H), with ``up.weight`` (neurons, H) and ``down.weight`` (H, neurons). GELU is
    exact, or its approximation by tanh, as in GPT-2.
    """

    def __init__(
        self,
        model_dim: int,
        neurons: int,
        *,
        bias: bool = True,
        approximate: Literal["none", "tanh"] = "none",
    ) -> None:
        super().__init__()
        self.approximate: Literal["none", "tanh"] = approximate
        self.up = nn.Linear(model_dim, neurons, bias=bias)
        self.down = nn.Linear(neurons, model_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, H) -> (batch, length, H)."""
        y: Tensor = self.down(functional.gelu(self.up(x), approximate=self.approximate))
        return y

    def axes(self) -> Iterator[Axis]:
        """Its neurons: a row of ``up`` each, and a column of ``down``."""
        yield _neurons(up=self.up)


class SwiGLU(Stateless, nn.Module):
    """``down(silu(gate(x)) * up(x))`` (Shazeer 2020, "GLU variants improve Transformer"), step by step.

    (batch, length, H) -> (batch, length, H), with ``gate.weight`` and ``up.weight`` (neurons, H) and ``down.weight``
    (H, neurons).
    """

    def __init__(self, model_dim: int, neurons: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(model_dim, neurons, bias=bias)
        self.up = nn.Linear(model_dim, neurons, bias=bias)
        self.down = nn.Linear(neurons, model_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, H) -> (batch, length, H)."""
        if not all(map(is_plain, (self.gate, self.up, self.down))):
            y: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
            return y
        weights = (self.gate.weight, self.up.weight, self.down.weight)
        return swiglu(x, *weights, self.gate.bias, self.up.bias, self.down.bias)

    def axes(self) -> Iterator[Axis]:
        """Its neurons: a row of ``gate`` and of ``up`` each, and a column of ``down``."""
        yield _neurons(gate=self.gate, up=self.up)


def _neurons(**inwards: nn.Linear) -> Axis:
    slots = [slot for name, linear in inwards.items() for slot in rows(name, linear)]
    size = inwards["up"].weight.shape[0]
    return Axis(":neurons", "neuron", size, (*slots, *columns("down")), "")
