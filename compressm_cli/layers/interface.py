"""What a state space layer promises to the models, to the trainer and to surgery."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Axis, Slot
from compressm_cli.core.outlines import outline_of
from compressm_cli.layers.remembered import Remembered
from compressm_cli.layers.state import State

if TYPE_CHECKING:  # surgery on any network needs neither recipes nor kernels
    from compressm_cli.layers.config import LayerConfig
    from compressm_cli.ops.forms import Form, Problem

Role = Literal["recurrent", "matrix", "other"]
"""What a parameter is to the optimizer. Weight decay falls on matrices alone: weights of linear maps and of
convolutions and matrices that a layer reads its states out with. Others are gains of norms, biases, feedthroughs and
embeddings, also one that is the head's weight at the same time."""
ROLES: tuple[Role, ...] = ("recurrent", "matrix", "other")
NO_MATRICES = (nn.Embedding, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
"""Modules whose parameters are none, whatever their shape."""


STATES = ":states"
"""What every layer calls the axis of its states."""


def state_axis(layer: str) -> str:
    """The name of the axis of a layer's states, in the model that the layer is in."""
    return f"{layer}{STATES}"


class StateSpaceLayer(nn.Module, ABC):
    """A layer with a linear recurrence over time, causal: ``(batch, length, H) -> (batch, length, H)``.

    Subclasses are ``TimeInvariantLayer`` and ``SelectiveLayer``; what a compression method reads of a layer
    is told there. To add a layer: subclass one of them, declare ``Config``, and name it in ``layers.LAYERS``.
    """

    Config: ClassVar[type["LayerConfig"]]

    recurrent_parameters: ClassVar[frozenset[str]]
    """Names of the parameters with the recurrent learning rate, no weight decay, and fp32 always: theirs is the
    role ``recurrent``."""

    state_parameters: ClassVar[frozenset[str]]
    """Names of the parameters whose shape depends on ``state_dim``; some may be None, or absent, for now."""

    state_buffers: ClassVar[frozenset[str]] = frozenset()
    """Names of the buffers that a cut may set or change; None as long as it has not."""

    gated: ClassVar[bool] = False
    """Whether it brings its own gate and output projection, so that no GELU and GLU follow it in a block."""

    output_parameter: ClassVar[str] = "out_proj.weight"
    """Of a gated layer, the matrix of its output: with zeros there a block of it adds nothing."""

    forms: ClassVar[tuple["Form", ...]] = ()
    """The forms in which a time-invariant recurrence can be computed; empty where there is no such choice."""

    form: Any = None
    """How the recurrence is computed; None leaves it to the layer. Set by the trainer, not saved."""

    def __init__(self, config: Any, model_dim: int, state_dim: int) -> None:
        """A fresh layer of width ``model_dim`` (H) and order ``state_dim`` (N), from torch's random state.

        ``state_dim`` goes before the recipe's: it is that of one block.
        """
        super().__init__()
        self.model_dim = model_dim
        self.remembered = Remembered()
        """What steps make of the parameters; forgotten where a new sequence begins."""

    @classmethod
    def of_order(cls, config: Any, model_dim: int, start: int, order: int) -> "StateSpaceLayer":
        """A fresh layer of the shapes that one of order ``start`` has after a cut to ``order``."""
        return cls(config, model_dim, order)

    @property
    @abstractmethod
    def state_dim(self) -> int:
        """The order N now."""

    def axes(self) -> list[Axis]:
        """What can be cut of the layer: its states, and whatever else its kind has."""
        return [Axis(STATES, "state", self.state_dim, self.state_slots(), "")]

    def state_slots(self) -> tuple[Slot, ...]:
        """Where single states lie in the parameters; none where states can only be cut by a projection."""
        return ()

    @abstractmethod
    def forward(self, u: Tensor) -> Tensor:
        """(batch, length, H) -> (batch, length, H)."""

    def initial_state(self, batch: int) -> State:
        """What it keeps between two time steps, before the first one, for so many rows: as its parameters in device and
        type.

        A layer can be stepped where it gives this and ``step``; NotImplementedError where it cannot.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step by step form")

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What ``forward`` gives at one time step: x (batch, H) -> (batch, H), and the state after it.

        ``state``, that of the step before, is used up. Without gradients. Raises ValueError where it does not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} has no step by step form")

    @torch.no_grad()
    def prefill(self, u: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """``forward``, and the state after the last real step of each row.

        u (batch, length, H); lengths (batch,), at least 1, where the ends of rows are padding, at whose steps the
        output means nothing. Step by step unless the layer has a better way.
        """
        state, outputs = self.initial_state(len(u)), []
        for t, x in enumerate(u.unbind(1)):
            before = state
            y, state = self.step(x, state if lengths is None else state.clone())
            if lengths is not None:
                state = state.where(t < lengths, before)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    @property
    def is_steppable(self) -> bool:
        """Whether it has ``initial_state`` and ``step``."""
        base = StateSpaceLayer
        return type(self).step is not base.step and type(self).initial_state is not base.initial_state

    def check_step(self, x: Tensor) -> None:
        """ValueError for the input of a step that is not (batch, H)."""
        if x.ndim != 2 or x.shape[1] != self.model_dim:
            raise ValueError(f"a step takes x (batch, {self.model_dim}), not {tuple(x.shape)}")

    @abstractmethod
    def reduced_parameters(self, projections: Any) -> dict[str, Tensor]:
        """New values of the ``state_parameters`` that change for the given new states; reads the layer only."""

    @abstractmethod
    def transported_moments(
        self, projections: Any, first: dict[str, Tensor], second: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Adam's moments, by parameter name, for the parameters that ``reduced_parameters`` gives.

        The first moment is a mean of gradients, so it is pulled back by the adjoint of the map from new
        to old parameters; the second only approximately, as if gradients were independent. Where there is
        no such linear map, as for poles, moments start from zero.
        """

    @abstractmethod
    def sliced_moments(self, order: int, moments: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adam's moments of the first ``order`` states, by index, whatever the new states are."""

    def recurrence(self, batch: int, length: int) -> "Problem":
        """The sizes of the recurrence, by which the cheaper of several ``forms`` is chosen."""
        from compressm_cli.ops.forms import Problem

        return Problem(batch, length, self.state_dim, self.model_dim, self.model_dim)

    def backend(self, device: torch.device) -> str:
        """What computes the recurrence on a device, where there is no choice between forms."""
        raise NotImplementedError

    def set_state_parameters(self, values: dict[str, Tensor | None]) -> None:
        """Replace some of the state parameters and buffers, by ones of another shape perhaps (for surgery alone).

        None takes one away. Raises ValueError for a name that is neither.
        """
        known = self.state_parameters | self.state_buffers
        if not set(values) <= known:
            raise ValueError(f"expected some of {sorted(known)}, got {sorted(values)}")
        for name, value in values.items():
            place, _, leaf = name.rpartition(".")
            module = self.get_submodule(place)
            if name in self.state_buffers:
                device = next(self.parameters()).device
                setattr(module, leaf, None if value is None else value.detach().to(device).clone())
                continue
            old = getattr(module, leaf)
            like = next(self.parameters()) if old is None else old
            parameter = None
            if value is not None:
                parameter = nn.Parameter(
                    laid_out(value, like), requires_grad=old is None or old.requires_grad
                )
            module.register_parameter(leaf, parameter)


def role_of(module: nn.Module, ndim: int, recurrent: bool) -> Role:
    """The role of a parameter of ``ndim`` dimensions that ``module`` holds itself."""
    if recurrent:
        return "recurrent"
    return "matrix" if ndim >= 2 and not isinstance(module, NO_MATRICES) else "other"


def parameter_roles(model: nn.Module) -> dict[str, Role]:
    """The role of each parameter of a model or a layer, by the names of ``named_parameters`` and in their order."""
    model = outline_of(model)
    recurrent = {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, layer in state_space_layers(model).items()
        for name in layer.recurrent_parameters
    }
    roles: dict[int, Role] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        module = model.get_submodule(name.rpartition(".")[0])
        role = role_of(module, parameter.ndim, name in recurrent)
        # Of a tensor that several modules share, the most careful one counts: a tied head's weight is an embedding.
        roles[id(parameter)] = max(
            role, roles.get(id(parameter), role), key=("matrix", "other", "recurrent").index
        )
    return {name: roles[id(parameter)] for name, parameter in model.named_parameters()}


def parameter_groups(model: nn.Module, count: int) -> list[list[str]]:
    """The names of the parameters in each group of an optimizer with ``count`` groups, in the model's order.

    Three by role, in the order of ``ROLES``; two, as in states of training of earlier versions, with all that are not
    recurrent together. Raises ValueError for another number.
    """
    roles = parameter_roles(model)
    if count == len(ROLES):
        return [[name for name, role in roles.items() if role == wanted] for wanted in ROLES]
    if count == 2:
        return [
            [n for n, role in roles.items() if (role == "recurrent") == wanted] for wanted in (True, False)
        ]
    raise ValueError(f"an optimizer has {len(ROLES)} groups, or 2 if it is an earlier version's, not {count}")


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A copy of the device and type of ``like``, its entries in order, as those of a loaded model are.

    Products of tensors that lie otherwise in memory may be rounded otherwise, and a resumed run would differ.
    """
    return value.detach().to(like.device, like.dtype).clone(memory_format=torch.contiguous_format)


def state_space_layers(model: nn.Module) -> dict[str, StateSpaceLayer]:
    """The compressible layers of a model, by module name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, StateSpaceLayer)}
