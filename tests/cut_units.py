"""Units of axes removed from a model, and silenced in it, by nothing but what its slots say.

The two must be the same: outputs, gradients of what is kept, running statistics.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from compressm_cli.core.axes import Axis, declared
from compressm_cli.structure.edits import Keep, Park, Wake
from compressm_cli.structure.shapes import follow_shapes
from compressm_cli.structure.surgery import apply_edits

M = TypeVar("M", bound=nn.Module)
EXACT = {"rtol": 1e-12, "atol": 1e-12}

Removed = Mapping[str, Sequence[int]]
"""Units by the name of their axis, numbered as in the full model."""


@dataclass(frozen=True)
class Pick:
    """What is kept of a tensor along one dimension."""

    tensor: str
    dim: int
    entries: Tensor


def randomized(model: M, seed: int = 0) -> M:
    """In float64, with no parameter or statistic at a value that it starts from.

    Matrices and kernels are scaled by what they sum over, so that numbers stay near one through many layers and an
    absolute bound on errors is one relative to them.
    """
    generator = torch.Generator().manual_seed(seed)
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            terms = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.normal_(0, 0.7 if terms == 1 else (2 / terms) ** 0.5, generator=generator)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5, generator=generator)
    return model


def axes_of(model: nn.Module) -> dict[str, Axis]:
    return {axis.name: axis for axis in declared(model)}


def tied(axes: Mapping[str, Axis], name: str) -> list[Axis]:
    """The axis and those that keep the same units."""
    names = {name}
    while True:
        more = {a.name for a in axes.values() if names & set(a.tied_to)}
        more |= {other for n in names for other in axes[n].tied_to}
        if more <= names:
            return [axes[n] for n in sorted(names)]
        names |= more


def silenced(model: M, removed: Removed, everywhere: bool) -> M:
    """A copy with zeros in all slots of the units, or in those alone that say they silence them."""
    twin, axes = deepcopy(model), axes_of(model)
    with torch.no_grad():
        for name, units in removed.items():
            for axis in tied(axes, name):
                for slot in axis.slots:
                    if everywhere or slot.role == "out":
                        entries = slot.entries(torch.tensor(list(units), dtype=torch.int64))
                        _tensor(twin, slot.tensor).index_fill_(slot.dim, entries, 0)
    return twin


def cut(model: M, removed: Removed) -> tuple[M, list[Pick]]:
    """A copy without the units, one axis after another, and what was kept of each tensor in this order."""
    twin, picks = deepcopy(model), []
    for name, units in removed.items():
        axes = axes_of(twin)
        for axis in tied(axes, name):
            axis.kept([unit for unit in range(axis.size) if unit not in units])
            for name, value in axis.divisors:
                if _tensor(twin, name) is None and units:
                    place, _, leaf = name.rpartition(".")
                    setattr(twin.get_submodule(place), leaf, torch.tensor(value))
            places: dict[tuple[str, int], list[Tensor]] = {}
            for slot in axis.slots:
                gone = slot.entries(torch.tensor(list(units), dtype=torch.int64))
                places.setdefault((slot.tensor, slot.dim), []).append(gone)
            for (name, dim), removed_entries in places.items():
                whole = torch.arange(_tensor(twin, name).shape[dim])
                kept = whole[~torch.isin(whole, torch.cat(removed_entries))]
                picks.append(Pick(name, dim, kept))
                _select(twin, picks[-1])
            follow_shapes(twin)
    return twin, picks


def assert_cut_is_silence(
    model: nn.Module, removed: Removed, inputs: Tensor, run: Callable[[nn.Module], Tensor] | None = None
) -> None:
    """The cut model and the silenced one agree to 1e-12 in all that both have.

    ``run`` applies a model to ``inputs`` where it takes something else besides.
    """
    run = run or (lambda network: network(inputs))
    small, picks = cut(model, removed)
    got, got_gradients = _with_gradients(small, run, inputs)
    for everywhere in (True, False):
        full = silenced(model, removed, everywhere)
        expected, gradients = _with_gradients(full, run, inputs)
        torch.testing.assert_close(got, expected, **EXACT)
        for name, value in {**gradients, **dict(full.named_buffers())}.items():
            found = got_gradients[name] if name in got_gradients else small.get_buffer(name)
            kept = _kept(name, value, picks)
            torch.testing.assert_close(found, kept, **EXACT, msg=lambda text, name=name: f"{name}: {text}")


def is_heard(model: nn.Module, removed: Removed, inputs: Tensor) -> bool:
    """Whether the output depends on the units at all: those behind a ReLU may happen to be zero."""
    return not torch.allclose(silenced(model, removed, False)(inputs), deepcopy(model)(inputs), rtol=1e-6)


def removals(model: nn.Module) -> st.SearchStrategy[dict[str, list[int]]]:
    """Some units of each axis of a model, as many as may leave it; of axes that are tied, of one."""
    axes, drawn = axes_of(model), {}
    for axis in axes.values():
        if axis.slots and not {other.name for other in tied(axes, axis.name)} & set(drawn):
            units = st.lists(st.integers(0, axis.size - 1), unique=True, max_size=axis.size - axis.minimum)
            drawn[axis.name] = units
    return st.permutations(list(drawn)).flatmap(
        lambda names: st.fixed_dictionaries({n: drawn[n] for n in names})
    )


def _with_gradients(
    model: nn.Module, run: Callable[[nn.Module], Tensor], inputs: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and gradients of a random weighted sum of it."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    y = run(model)
    weights = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(9))
    found = torch.autograd.grad((y * weights).sum(), [inputs, *parameters], materialize_grads=True)
    return y.detach(), dict(zip(("inputs", *names), found, strict=True))


def _kept(name: str, value: Tensor, picks: list[Pick]) -> Tensor:
    for pick in picks:
        if pick.tensor == name:
            value = value.index_select(pick.dim, pick.entries)
    return value


def _tensor(model: nn.Module, name: str) -> Tensor:
    place, _, leaf = name.rpartition(".")
    value: Tensor = getattr(model.get_submodule(place), leaf)
    return value


def _select(model: nn.Module, pick: Pick) -> None:
    place, _, leaf = pick.tensor.rpartition(".")
    old = _tensor(model, pick.tensor)
    new = old.detach().index_select(pick.dim, pick.entries)
    setattr(model.get_submodule(place), leaf, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal float64 numbers that want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def assert_surgery_follows(model: nn.Module, removed: Removed, inputs: Tensor) -> None:
    """Plans cut to the tensors that ``cut`` leaves, moments alike; what is parked and woken comes back to the bit.

    Of axes that cross only one can have parked units.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(inputs).square().mean().backward()
    optimizer.step()
    small, picks = cut(model, removed)
    before, moments = _copied(model, optimizer)
    parked = []
    for name, units in removed.items():
        try:
            apply_edits(model, optimizer, [Park(name, list(units))])
            parked.append(name)
        except ValueError as error:
            if "lies across" not in str(error):
                raise
    assert parked
    for name in parked:
        apply_edits(model, optimizer, [Wake(name, list(removed[name]))])
    after, woken_moments = _copied(model, optimizer)
    assert _same(after, before)
    assert _same(woken_moments, moments)
    for name, units in removed.items():
        rest = [unit for unit in range(axes_of(model)[name].size) if unit not in units]
        apply_edits(model, optimizer, [Keep(name, rest)])
    now, kept_moments = _copied(model, optimizer)
    assert _same(now, small.state_dict())
    assert _same(kept_moments, {n: _kept(n.partition(" ")[0], m, picks) for n, m in moments.items()})


def _copied(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters and buffers, and the moments of each parameter."""
    moments = {
        f"{name} {key}": optimizer.state[p][key].clone()
        for name, p in model.named_parameters()
        for key in ("exp_avg", "exp_avg_sq")
    }
    return deepcopy(dict(model.state_dict())), moments


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
