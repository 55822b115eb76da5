"""What a state space layer promises to the models and to the compression methods."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressm_cli.config import Config
from compressm_cli.lti import Realization
from compressm_cli.ops.forms import FORMS, Form, Problem

StateDim = Annotated[int, Field(ge=1, le=65536)]


class LayerConfig(Config):
    """The part of a recipe that all layers share."""

    kind: str
    state_dim: StateDim | Annotated[list[StateDim], Field(min_length=1)] = 64
    """Number of states N of each block; a list gives one number a block."""


@dataclass(frozen=True)
class StateProjection:
    """How the states of one system are replaced by fewer ones, as four complex matrices.

    New states are a widely linear function of the old ones, and the old states are approximated
    by a widely linear function of the new ones (h has n entries, g has r <= n):

        g  =  restrict h + restrict_conj conj(h)          (r, n)
        h ~=  lift g     + lift_conj conj(g)              (n, r)

    The conjugate parts are zero where a complex system is truncated as such; they are needed to
    truncate the real system that a real output makes of it. With ``poles`` (r,), the diagonal of
    the new state matrix, this determines the new layer.
    """

    poles: Tensor
    restrict: Tensor
    restrict_conj: Tensor
    lift: Tensor
    lift_conj: Tensor

    @property
    def order(self) -> int:
        """Number of new states r."""
        return self.poles.shape[0]

    def reduce_input(self, B: Tensor) -> Tensor:
        """B (n, p) complex -> the input matrix (r, p) of the new states."""
        return self.restrict @ B + self.restrict_conj @ B.conj()

    def reduce_output(self, C: Tensor) -> Tensor:
        """C (q, n) complex -> C' (q, r) with Re(C h) ~= Re(C' g)."""
        return C @ self.lift + (C @ self.lift_conj).conj()

    def scaled(self, new: Tensor, old: Tensor | None = None) -> "StateProjection":
        """The same with new states ``new`` (r,) times, old ones ``old`` (n,) times as large; no zeros."""
        old = torch.ones_like(self.restrict[0]) if old is None else old
        row, column = new[:, None], old[:, None]
        return StateProjection(
            self.poles,
            row * self.restrict / old,
            row * self.restrict_conj / old.conj(),
            column * self.lift / new,
            column * self.lift_conj / new.conj(),
        )

    def pull_back_input(self, re: Tensor, im: Tensor, squared: bool = False) -> tuple[Tensor, Tensor]:
        """Gradient with respect to B (n, p), as two real tensors, -> with respect to the new one (r, p).

        The old input matrix is B ~= lift B' + lift_conj conj(B'); this is the adjoint of that map. With
        ``squared``, mean squares of independent gradients are carried over instead.
        """
        return _adjoint(self.lift, self.lift_conj, re, im, squared)

    def pull_back_output(self, re: Tensor, im: Tensor, squared: bool = False) -> tuple[Tensor, Tensor]:
        """Gradient with respect to C (q, n) -> with respect to the new C (q, r); ``squared`` as above.

        The old output matrix is C ~= C' restrict + conj(C') conj(restrict_conj); this is its adjoint.
        """
        new_re, new_im = _adjoint(self.restrict.mT, self.restrict_conj.mH, re.mT, im.mT, squared)
        return new_re.mT, new_im.mT


def _adjoint(direct: Tensor, conj: Tensor, re: Tensor, im: Tensor, squared: bool) -> tuple[Tensor, Tensor]:
    """Adjoint of z -> direct z + conj conj(z), (n, r), applied to re + i im (n, ...), in real arithmetic."""
    plus, minus = direct + conj, direct - conj
    maps = (plus.real, plus.imag, -minus.imag, minus.real)
    re_re, im_re, re_im, im_im = (m.mT**2 if squared else m.mT for m in maps)
    re, im = re.double(), im.double()
    return re_re @ re + im_re @ im, re_im @ re + im_im @ im


class StateSpaceLayer(nn.Module, ABC):
    """A linear time-invariant state space layer: ``(batch, length, H) -> (batch, length, H)``.

    It consists of one or several independent diagonal systems (an LRU or S5 layer is one
    multi-input multi-output system, an S4D layer one single-input single-output system a channel),
    each with ``y = Re(C h)``; a feedthrough ``D`` and whatever is not recurrent is left to the layer.

    To add one: subclass this, declare ``Config``, and name the class in ``layers.LAYERS``.
    """

    Config: ClassVar[type[LayerConfig]]

    recurrent_parameters: ClassVar[frozenset[str]]
    """Names of the parameters with the recurrent learning rate, no weight decay, and fp32 always."""

    state_parameters: ClassVar[dict[str, int]]
    """Names of the parameters whose shape depends on ``state_dim``, and the axis on which the states lie."""

    forms: ClassVar[tuple[Form, ...]] = FORMS
    """The forms in which its recurrence can be computed."""

    form: Form | None = None
    """The form to use; None stands for the cheaper one by built-in costs. Set by the trainer, not saved."""

    def __init__(self, config: Any, model_dim: int, state_dim: int) -> None:
        """A fresh layer of width ``model_dim`` (H) and order ``state_dim`` (N), from torch's random state.

        ``state_dim`` goes before the recipe's: it is that of one block, perhaps after a cut.
        """
        super().__init__()
        self.model_dim = model_dim

    @property
    @abstractmethod
    def state_dim(self) -> int:
        """The order N now: complex states a system."""

    @abstractmethod
    def forward(self, u: Tensor) -> Tensor:
        """(batch, length, H) -> (batch, length, H)."""

    @abstractmethod
    def systems(self) -> list[Realization]:
        """The diagonal systems in float64, detached; the layer's output is the real part of theirs."""

    @abstractmethod
    def system_inputs(self, u: Tensor) -> list[Tensor]:
        """The input (batch, length, p) that each system sees when the layer sees ``u``."""

    @abstractmethod
    def reduced_parameters(self, projections: list[StateProjection]) -> dict[str, Tensor]:
        """New values of all ``state_parameters`` for the given new states; reads the layer only.

        All projections have the same order. The free scaling of each state is chosen here.
        """

    @abstractmethod
    def transported_moments(
        self,
        projections: list[StateProjection],
        first: dict[str, Tensor],
        second: dict[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Adam's moments, by parameter name, for the parameters that ``reduced_parameters`` gives.

        The first moment is a mean of gradients, so it is pulled back by the adjoint of the map from new
        to old parameters; the second only approximately, as if gradients were independent. Poles have no
        such linear map: their moments start from zero.
        """

    def recurrence(self, batch: int, length: int) -> Problem:
        """The sizes of the recurrence, by which the cheaper form is chosen."""
        return Problem(batch, length, self.state_dim, self.model_dim, self.model_dim)

    def set_state_parameters(self, values: dict[str, Tensor]) -> None:
        """Replace the state parameters by new ones, of another shape perhaps (used by surgery alone)."""
        if set(values) != set(self.state_parameters):
            raise ValueError(f"expected {sorted(self.state_parameters)}, got {sorted(values)}")
        for name, value in values.items():
            old = getattr(self, name)
            copy = value.detach().to(old.device, old.dtype).clone()
            setattr(self, name, nn.Parameter(copy, requires_grad=old.requires_grad))


def state_space_layers(model: nn.Module) -> dict[str, StateSpaceLayer]:
    """The compressible layers of a model, by module name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, StateSpaceLayer)}


def check_orders(projections: list[StateProjection], systems: int) -> int:
    """The common order of the projections; ValueError where there is none."""
    orders = {p.order for p in projections}
    if len(projections) != systems or len(orders) != 1:
        got = f"{len(projections)} of orders {sorted(orders)}"
        raise ValueError(f"need {systems} projections of one order, got {got}")
    return orders.pop()


def ratio(target: Tensor, size: Tensor) -> Tensor:
    """target / size as a scale of states; 1 where the size is zero, as of a state that nothing reaches."""
    return torch.where(size == 0, torch.ones_like(size), target / size)


def balancing_scale(B: Tensor, C: Tensor) -> Tensor:
    """The scale (r,) of states that makes each row of B (r, p) and column of C (q, r) equal in norm.

    Adam moves every entry by about the learning rate, so unequal norms would let one of the two matrices
    learn, relative to its size, many times faster than the other. 1 for a state that is not reached or read.
    """
    rows, columns = B.norm(dim=1), C.norm(dim=0)
    idle = (rows == 0) | (columns == 0)
    return torch.where(idle, torch.ones_like(rows), torch.sqrt(columns / rows))


def as_complex(re: Tensor, im: Tensor) -> Tensor:
    """Two real tensors as one complex128 tensor, detached."""
    return torch.complex(re.detach().double(), im.detach().double())
