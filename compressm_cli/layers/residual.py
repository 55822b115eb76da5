"""Residual sub-layers, which may leave a network."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.core.axes import Axis
from compressm_cli.layers.state import State


def sublayer_axis(is_there: bool, *modules: str) -> Axis:
    """The axis of a module that is one unit with all that it does, and the identity once its modules are gone."""
    return Axis(":sublayer", "sublayer", int(is_there), (), "", minimum=0, modules=modules)


class Residual(nn.Module):
    """``x + dropout(inner(norm(x)))`` (He et al. 2016; the norm first, as in Xiong et al. 2020), ``x`` once removed.

    Without ``norm_first`` it is ``norm(x + dropout(inner(x)))`` (Vaswani et al. 2017), and ``norm(x)`` once removed.

    One that a plan has removed stays where it is in its network, without ``inner`` and a ``norm`` before that, so that
    the parameters of the others keep their names.
    """

    norm: nn.Module | None
    inner: nn.Module | None

    def __init__(
        self, norm: nn.Module, inner: nn.Module, dropout: float = 0.0, norm_first: bool = True
    ) -> None:
        """``norm`` and ``inner`` map (batch, length, H) to the same shape; ``dropout`` is a probability."""
        super().__init__()
        self.norm = norm
        self.inner = inner
        self.dropout = dropout
        self.norm_first = norm_first

    @property
    def is_removed(self) -> bool:
        return self.inner is None

    def forward(self, x: Tensor, *arguments: Tensor | None) -> Tensor:
        """(batch, length, H) -> (batch, length, H); ``arguments`` are what the inner module takes besides."""
        if self.inner is None:
            return self._after(x)
        y: Tensor = self.inner(self._before(x), *arguments)
        return self._after(x + functional.dropout(y, self.dropout, self.training))

    def _before(self, x: Tensor) -> Tensor:
        """What the inner module takes."""
        return x if self.norm is None or not self.norm_first else self.norm(x)

    def _after(self, x: Tensor) -> Tensor:
        """What becomes of the sum."""
        return x if self.norm is None or self.norm_first else self.norm(x)

    def silent_in(self, place: str, linear: str) -> tuple[str, ...]:
        """The names, in a module that has it at ``place``, of the weight and bias of the inner module's last map.

        With zeros there it adds nothing; empty once it is removed.
        """
        if self.inner is None:
            return ()
        last = self.inner.get_submodule(linear)
        leaves = (leaf for leaf in ("weight", "bias") if getattr(last, leaf) is not None)
        return tuple(f"{place}.inner.{linear}.{leaf}" for leaf in leaves)

    def initial_state(self, batch: int) -> State:
        """That of ``inner``; empty once it is removed. ValueError where ``inner`` has no step by step form."""
        return State({}) if self.inner is None else _steps_of(self.inner).initial_state(batch)

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (batch, H) at one time step; ``state`` is used up."""
        if self.inner is None:
            state.take()
            return self._after(x), State({})
        y, after = _steps_of(self.inner).step(self._before(x), state)
        return self._after(x + y), after

    @torch.no_grad()
    def prefill(self, x: Tensor, *arguments: Tensor | None) -> tuple[Tensor, State]:
        """``forward``, and the state after the last real step of each row; ``arguments`` are what the prefill of the
        inner module takes besides: the lengths of rows, where they are padded.
        """
        if self.inner is None:
            return self._after(x), State({})
        y, after = _steps_of(self.inner).prefill(self._before(x), *arguments)
        return self._after(x + y), after

    def axes(self) -> Iterator[Axis]:
        """Itself: one unit, which leaves with its modules; its size is 0 then."""
        gone = ("norm", "inner") if self.norm_first else ("inner",)
        yield sublayer_axis(not self.is_removed, *gone)


def _steps_of(module: nn.Module) -> Any:
    """The module, which has ``initial_state``, ``step`` and ``prefill``; ValueError where it has not."""
    if not all(callable(getattr(module, name, None)) for name in ("initial_state", "step", "prefill")):
        raise ValueError(f"{type(module).__name__} has no step by step form")
    return module
