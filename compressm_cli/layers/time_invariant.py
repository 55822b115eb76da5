"""Linear time-invariant layers: what they promise to the compression methods."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from compressm_cli.core.axes import Slot
from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.layers.precision import narrow_as, wide_beside
from compressm_cli.layers.state import State
from compressm_cli.lti import Realization
from compressm_cli.ops.decoding import diagonal_states, diagonal_step, ends_of
from compressm_cli.ops.forms import FORMS, Form
from compressm_cli.ops.ssm import DiagonalSystem, diagonal_ssm


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


class TimeInvariantLayer(StateSpaceLayer):
    """A linear time-invariant state space layer.

    It consists of one or several independent diagonal systems (an LRU or S5 layer is one
    multi-input multi-output system, an S4D layer one single-input single-output system a channel),
    each with ``y = Re(C h)``; a feedthrough ``D`` and whatever is not recurrent is left to the layer.
    """

    state_axes: ClassVar[dict[str, int]]
    """The state parameters, and the axis on which their states lie."""

    forms: ClassVar[tuple[Form, ...]] = FORMS

    form: Form | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.state_parameters = frozenset(getattr(cls, "state_axes", ()))

    def state_slots(self) -> tuple[Slot, ...]:
        outputs = ("C_re", "C_im")
        return tuple(
            Slot(name, dim, role="out" if name in outputs else "own") for name, dim in self.state_axes.items()
        )

    @abstractmethod
    def systems(self) -> list[Realization]:
        """The diagonal systems in float64, detached; the real part of their outputs, and ``D u``, are the layer's."""

    @abstractmethod
    def system_inputs(self, u: Tensor) -> list[Tensor]:
        """The input (batch, length, p) that each system sees when the layer sees ``u``."""

    @abstractmethod
    def reduced_parameters(self, projections: list[StateProjection]) -> dict[str, Tensor]:
        """New values of all ``state_parameters`` for the given new states; reads the layer only.

        All projections have the same order. The free scaling of each state is chosen here.
        """

    def set_state_parameters(self, values: dict[str, Any]) -> None:
        """As of any layer; but all are replaced together, for they have one order."""
        if values and set(values) != self.state_parameters:
            raise ValueError(f"expected {sorted(self.state_parameters)}, got {sorted(values)}")
        super().set_state_parameters(values)

    def sliced_moments(self, order: int, moments: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: moment.narrow(self.state_axes[name], 0, order) for name, moment in moments.items()}


class DiagonalLayer(TimeInvariantLayer):
    """A layer that is one diagonal system of H inputs and outputs, which every step of time has in common."""

    @abstractmethod
    def discrete_system(self) -> DiagonalSystem:
        """What it computes, differentiable; in float32 at least, also where the parameters are narrower."""

    def forward(self, u: Tensor) -> Tensor:
        like = self._like
        return narrow_as(like, diagonal_ssm(wide_beside(like, u), *self.discrete_system(), self.form))

    @property
    def _like(self) -> Tensor:
        """A parameter of the type that the layer is in."""
        return next(p for p in self._parameters.values() if p is not None)

    @torch.no_grad()
    def initial_state(self, batch: int) -> State:
        self.remembered.forget()
        like = self.discrete_system().log_abs
        return State({"h": like.new_zeros(batch, 2 * self.state_dim)})

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        self.check_step(x)
        (h,) = state.take(h=(len(x), 2 * self.state_dim))
        weights = self.remembered.of(self.parameters(), lambda: self.discrete_system().stacked())
        return narrow_as(self._like, diagonal_step(x, h, weights)), State({"h": h})

    @torch.no_grad()
    def prefill(self, u: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        self.remembered.forget()
        y, h = diagonal_states(u, ends_of(u, lengths), self.discrete_system().stacked())
        return narrow_as(self._like, y), State({"h": h})


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
