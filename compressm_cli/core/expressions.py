"""Sizes of dimensions as expressions in the sizes of axes, which stay true when units leave."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from compressm_cli.core.axes import Role, Slot

LONGEST = 1000
"""Characters of an expression as text."""


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


def text_of(expression: Expression, numbers: Mapping[str, int]) -> str:
    """An expression as text, such as ``a0*8 + 16``, with the number of each axis."""
    if isinstance(expression, Units):
        return f"a{numbers[expression.axis]}"
    if isinstance(expression, Product | Sum):
        parts = [text_of(inner, numbers) for inner in expression.inner]
        if isinstance(expression, Sum):
            return f"({' + '.join(parts)})"
        return "*".join(parts)
    assert isinstance(expression, Constant)
    return str(expression.size)


def expression_from(text: str, names: Sequence[str]) -> Expression:
    """What ``text_of`` gave, with the names of the axes by number. Raises ValueError for anything else."""
    if len(text) > LONGEST:
        raise ValueError(f"an expression of {len(text)} characters; at most {LONGEST}")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no expression") from error
    return _of_tree(tree, text, names)


def _of_tree(tree: ast.expr, text: str, names: Sequence[str]) -> Expression:
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.Add | ast.Mult):
        kind: type[Product | Sum] = Sum if isinstance(tree.op, ast.Add) else Product
        return kind((_of_tree(tree.left, text, names), _of_tree(tree.right, text, names)))
    if isinstance(tree, ast.Constant) and type(tree.value) is int and tree.value > 0:
        return Constant(tree.value)
    found = re.fullmatch(r"a(\d{1,6})", tree.id) if isinstance(tree, ast.Name) else None
    if found is not None and int(found[1]) < len(names):
        return Units(names[int(found[1])])
    raise ValueError(f"{text!r} is no expression of the axes a0 to a{len(names) - 1}")
