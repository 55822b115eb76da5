"""What layers and models keep from one time step to the next."""

from collections.abc import Mapping
from typing import Union

import torch
from torch import Tensor

Value = Union[Tensor, "State"]


class State:
    """Tensors by name, each with the rows of a batch first, and the states of parts.

    A step works in the memory of the state that it is given, which is used up then: going on from it once more raises
    ValueError. ``clone`` it before, to go on in two ways.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values: dict[str, Value] | None = dict(values)

    @property
    def values(self) -> dict[str, Value]:
        """What it holds; ValueError where it is used up."""
        if self._values is None:
            raise ValueError(
                "this state is used up, for a step went on from it; use the one that the step returned, "
                "or clone() it before the step"
            )
        return self._values

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        return sum(value.nbytes for value in self.values.values())

    def take(self, **sizes: tuple[int | None, ...]) -> list[Tensor]:
        """Its tensors in the order of ``sizes``, once: the state is used up.

        Raises ValueError, and leaves it as it is, where it has not exactly these, of these sizes; None is any.
        """
        values = self.values
        found = {n: tuple(v.shape) for n, v in values.items() if isinstance(v, Tensor)}
        fits = found.keys() == values.keys() == sizes.keys() and all(
            len(found[name]) == len(size)
            and all(b is None or a == b for a, b in zip(found[name], size, strict=True))
            for name, size in sizes.items()
        )
        if not fits:
            wanted = {name: tuple("any" if n is None else n for n in size) for name, size in sizes.items()}
            raise ValueError(
                f"the state does not fit the layer and the inputs: it holds {found or 'none of it'}, "
                f"and {wanted or 'nothing'} is needed"
            )
        self._values = None
        return [value for name in sizes if isinstance(value := values[name], Tensor)]

    def take_parts(self, names: list[str]) -> list["State"]:
        """The states of the parts with these names, once; ValueError where it has not exactly these."""
        values = self.values
        parts = {name: value for name, value in values.items() if isinstance(value, State)}
        if list(parts) != list(values) or parts.keys() != set(names):
            raise ValueError(f"the state is of another model: it holds {sorted(values)}, not {sorted(names)}")
        self._values = None
        return [parts[name] for name in names]

    def clone(self) -> "State":
        """A copy in memory of its own."""
        return State({name: value.clone() for name, value in self.values.items()})

    def rows(self, index: Tensor) -> "State":
        """Copies of some rows of the batch, in the order of ``index`` (k,) int64; each may be named several times."""
        return State(
            {
                name: value.rows(index) if isinstance(value, State) else value[index]
                for name, value in self.values.items()
            }
        )

    def where(self, rows: Tensor, other: "State") -> "State":
        """A new state: of itself where ``rows`` (batch,) bool is true, else of another one of the same sizes."""
        mixed: dict[str, Value] = {}
        for (name, mine), theirs in zip(self.values.items(), other.values.values(), strict=True):
            if isinstance(mine, State):
                assert isinstance(theirs, State)
                mixed[name] = mine.where(rows, theirs)
            else:
                assert isinstance(theirs, Tensor)
                mixed[name] = torch.where(rows.reshape(-1, *(1,) * (mine.ndim - 1)), mine, theirs)
        return State(mixed)


def check_lengths(inputs: Tensor, lengths: Tensor | None) -> None:
    """ValueError for lengths of rows that ``inputs`` (batch, length, ...) has not, or where one has no step."""
    batch, length = inputs.shape[:2]
    if length == 0:
        raise ValueError("there is no step: the inputs have a length of 0")
    if lengths is None:
        return
    if lengths.shape != (batch,) or lengths.is_floating_point():
        raise ValueError(
            f"lengths are {batch} whole numbers, one a row, not {lengths.dtype} {tuple(lengths.shape)}"
        )
    if batch and not (int(lengths.min()) >= 1 and int(lengths.max()) <= length):
        raise ValueError(f"lengths are from 1 to {length}, not {int(lengths.min())} to {int(lengths.max())}")


class Stateless:
    """What a module that treats each time step by itself is one step at a time: the same, and nothing is kept."""

    def initial_state(self, batch: int) -> State:
        """Empty."""
        return State({})

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (batch, H) -> (batch, H); ``state`` is used up."""
        state.take()
        y: Tensor = self(x)  # type: ignore[operator]
        return y, State({})

    @torch.no_grad()
    def prefill(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """(batch, length, H) -> (batch, length, H)."""
        y: Tensor = self(x)  # type: ignore[operator]
        return y, State({})
