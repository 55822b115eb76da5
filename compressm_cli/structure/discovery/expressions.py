"""Sizes of dimensions as expressions in the sizes of axes, which stay true when units leave."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from compressm_cli.core.axes import Role, Slot
from compressm_cli.structure.discovery.dimensions import Factor


class Expression:
    """The size of a dimension."""


@dataclass(frozen=True)
class Units(Expression):
    """The units of an axis."""

    axis: str


@dataclass(frozen=True)
class Constant(Expression):
    """What no cut changes."""

    size: int


@dataclass(frozen=True)
class Product(Expression):
    """The slowest first."""

    inner: tuple[Expression, ...]


@dataclass(frozen=True)
class Sum(Expression):
    """Side by side."""

    inner: tuple[Expression, ...]


Sizes = Mapping[str, int]


def size_of(expression: Expression, sizes: Sizes) -> int:
    """How large it is where axes have these sizes."""
    if isinstance(expression, Units):
        return sizes[expression.axis]
    if isinstance(expression, Product):
        return prod(size_of(inner, sizes) for inner in expression.inner)
    if isinstance(expression, Sum):
        return sum(size_of(inner, sizes) for inner in expression.inner)
    assert isinstance(expression, Constant)
    return expression.size


def expression_of(factor: Factor, names: Mapping[Factor, str]) -> Expression:
    """A factor in terms of axes, by the name of each atom that is one; all else is constant."""
    factor = factor.found()
    if factor.product:
        return Product(tuple(expression_of(inner, names) for inner in factor.product))
    if factor.parts:
        return Sum(tuple(expression_of(inner, names) for inner in factor.parts))
    return Units(names[factor]) if factor in names else Constant(factor.size)


def axes_in(expression: Expression) -> set[str]:
    """The axes whose sizes it depends on."""
    if isinstance(expression, Units):
        return {expression.axis}
    if isinstance(expression, Product | Sum):
        return {axis for inner in expression.inner for axis in axes_in(inner)}
    return set()


@dataclass(frozen=True)
class _Place:
    """Where a factor lies: ``block`` entries for each of its own, from ``offset`` on, in copies ``span`` apart."""

    block: int = 1
    offset: int = 0
    copies: tuple[tuple[int, int], ...] = ()
    """(how many, how far apart), the outermost first."""


def slots_of(
    tensor: str, dim: int, role: Role, expression: Expression, axis: str, sizes: Sizes
) -> list[Slot]:
    """Where the units of an axis lie in a dimension of a tensor."""
    found = []
    for place in _places(expression, axis, sizes, _Place()):
        copies, starts = _joined(place.copies) or [(1, 0)], [place.offset]
        for count, apart in copies[:-1]:
            starts = [start + i * apart for start in starts for i in range(count)]
        repeat, span = copies[-1]
        found += [
            Slot(tensor, dim, block=place.block, offset=start, role=role, repeat=repeat, span=span)
            for start in starts
        ]
    return found


def _places(expression: Expression, axis: str, sizes: Sizes, at: _Place) -> Iterator[_Place]:
    if isinstance(expression, Units) and expression.axis == axis:
        yield at
    elif isinstance(expression, Sum):
        offset = at.offset
        for part in expression.inner:
            yield from _places(part, axis, sizes, _Place(at.block, offset, at.copies))
            offset += size_of(part, sizes) * at.block
    elif isinstance(expression, Product):
        all_sizes = [size_of(factor, sizes) for factor in expression.inner]
        for number, factor in enumerate(expression.inner):
            before, block = prod(all_sizes[:number]), at.block * prod(all_sizes[number + 1 :])
            copies = (*at.copies, (before, block * all_sizes[number])) if before > 1 else at.copies
            yield from _places(factor, axis, sizes, _Place(block, at.offset, copies))


def _joined(copies: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Copies of copies that follow each other without a gap are copies."""
    found: list[tuple[int, int]] = []
    for count, span in copies:
        if found and found[-1][1] == count * span:
            found[-1] = (found[-1][0] * count, span)
        else:
            found.append((count, span))
    return found
