"""The residual block of a state space layer."""

from collections.abc import Iterator

from torch import Tensor, nn

from compressm_cli.core.axes import Axis
from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.layers.residual import sublayer_axis
from compressm_cli.layers.state import State
from compressm_cli.models.norms import normalized
from compressm_cli.ops.gated import gated_residual


class Block(nn.Module):
    """x + dropout(GLU(dropout(GELU(layer(norm(x)))))), as in Orvieto et al. 2023, figure 1.

    Of a layer that is gated itself, as Mamba is, it is x + dropout(layer(norm(x))). A removed block is x: it stays
    where it is, without its modules, so that the others keep their names.
    """

    norm: nn.Module | None
    layer: StateSpaceLayer | None

    def __init__(self, layer: StateSpaceLayer, norm: nn.Module, model_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = norm
        self.layer = layer
        self.mix = None if layer.gated else nn.Linear(model_dim, 2 * model_dim)
        self.dropout = dropout

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x (batch, length, H); real (batch, length), where rows are padded, the steps that are not padding."""
        if self.layer is None or self.norm is None:
            return x
        return self._added(x, self.layer(normalized(self.norm, x, real)))

    def initial_state(self, batch: int) -> State:
        """Its layer's, before the first time step; that of a removed block is empty."""
        return State({}) if self.layer is None else self.layer.initial_state(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (batch, H) at one time step, and the state of the step before, which is used up."""
        if self.layer is None or self.norm is None:
            state.take()
            return x, State({})
        y, after = self.layer.step(normalized(self.norm, x[:, None], None)[:, 0], state)
        return self._added(x, y), after

    def prefill(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, State]:
        """``forward`` of x (batch, length, H), and the state after the last real step of each row."""
        if self.layer is None or self.norm is None:
            return x, State({})
        y, after = self.layer.prefill(normalized(self.norm, x, None), lengths)
        return self._added(x, y), after

    def _added(self, x: Tensor, y: Tensor) -> Tensor:
        """The residual stream (..., H) with what the layer's output y makes of it."""
        if self.mix is None:
            return x + nn.functional.dropout(y, self.dropout, self.training)
        return gated_residual(x, y, self.mix.weight, self.mix.bias, self.dropout, self.training)

    def axes(self) -> Iterator[Axis]:
        """Itself: one unit, which leaves with its modules; its size is 0 then."""
        yield sublayer_axis(self.layer is not None, "norm", "layer", "mix")

    @property
    def silent(self) -> tuple[str, ...]:
        """The tensors by which it adds to the residual stream: with zeros there it adds nothing."""
        if self.layer is None:
            return ()
        return (
            ("mix.weight", "mix.bias") if self.mix is not None else (f"layer.{self.layer.output_parameter}",)
        )
