"""Dimensions of tensors as products and sums of factors, and which of those are one and the same.

A dimension of 96 that is viewed as 4 heads of 24 *is* the product of two factors; one that is made of three parts side
by side, as by ``cat`` or before ``chunk``, is their sum. An operator says which dimensions are the same (``unify``);
where they are made of different factors, they are split until they agree, and where that is not possible, they are
pinned: nothing may be cut of them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod


@dataclass(eq=False)
class Factor:
    """A number of entries that several dimensions have in common; it may turn out to be made of others."""

    size: int
    pinned: str | None = None
    """Why none of its entries may leave."""
    product: "tuple[Factor, ...]" = ()
    """What it is the product of, the slowest first."""
    parts: "tuple[Factor, ...]" = ()
    """What lies in it side by side."""
    same: "Factor | None" = None
    """The one that it was found to be."""
    tags: set[str] = field(default_factory=set)
    """What operators say of it: how its units are called."""

    def found(self) -> "Factor":
        """The factor that stands for all that are the same."""
        one = self
        while one.same is not None:
            one = one.same
        return one

    @property
    def is_atom(self) -> bool:
        return not self.product and not self.parts


def fresh(size: int, pinned: str | None = None) -> Factor:
    return Factor(size, pinned)


def pin(factor: Factor, why: str) -> None:
    """Let nothing of a factor be cut; the first reason stays."""
    factor = factor.found()
    if factor.is_atom:
        factor.pinned = factor.pinned or why
    for inner in (*factor.product, *factor.parts):
        pin(inner, why)


def atoms(factor: Factor) -> Iterator[Factor]:
    """What a factor is made of in the end, from the slowest on."""
    factor = factor.found()
    if factor.is_atom:
        yield factor
    for inner in (*factor.product, *factor.parts):
        yield from atoms(inner)


def tag(factor: Factor, name: str) -> None:
    """Say how the units of a factor, and of all that it is made of, are called."""
    for inner in atoms(factor):
        inner.tags.add(name)


def multiplied(factors: Iterable[Factor]) -> Factor:
    """The product of factors, the slowest first; ones are left out."""
    flat: list[Factor] = []
    for factor in factors:
        flat += factors_of(factor)
    if len(flat) == 1:
        return flat[0]
    return Factor(prod(f.size for f in flat), product=tuple(flat)) if flat else Factor(1)


def factors_of(factor: Factor) -> list[Factor]:
    """A factor as a product, of one where it is none; empty where it is 1."""
    factor = factor.found()
    if factor.product:
        return [inner for one in factor.product for inner in factors_of(one)]
    return [] if factor.size == 1 else [factor]


def parts_of(factor: Factor) -> list[Factor]:
    """A factor as a sum, of one where it is none."""
    factor = factor.found()
    if factor.parts:
        return [inner for one in factor.parts for inner in parts_of(one)]
    return [factor]


def added(factors: Iterable[Factor]) -> Factor:
    """The factors side by side."""
    flat = [inner for factor in factors for inner in parts_of(factor)]
    return flat[0] if len(flat) == 1 else Factor(sum(f.size for f in flat), parts=tuple(flat))


def split_product(factor: Factor, sizes: Sequence[int]) -> list[Factor] | None:
    """A factor as the product of factors of these sizes, or None where it is not made so."""
    wanted, left = [fresh(size) for size in sizes], factor
    return wanted if _align(factors_of(left), [f for f in wanted if f.size > 1]) else None


def split_sum(factor: Factor, sizes: Sequence[int]) -> list[Factor] | None:
    """A factor as the sum of factors of these sizes, or None where it is not made so."""
    factor, sizes = factor.found(), [size for size in sizes if size]
    if len(sizes) == 1:
        return [factor]
    if factor.product and len(set(sizes)) == 1:
        # Equal parts of a product: its first factor numbers them, and must stay.
        divided = split_product(factor, [len(sizes), sizes[0]])
        if divided is None:
            return None
        pin(divided[0], "parts of a dimension are taken by their number")
        return [divided[1]] * len(sizes)
    wanted = [fresh(size) for size in sizes]
    return wanted if _align_parts(parts_of(factor), wanted) else None


def unify(one: Factor, other: Factor) -> None:
    """Two factors are the same entries; both are pinned where they are made of what cannot be."""
    one, other = one.found(), other.found()
    if one is other:
        return
    if one.size != other.size:
        raise ValueError(f"dimensions of {one.size} and of {other.size} cannot be the same")
    if not one.is_atom and other.is_atom:
        one, other = other, one
    if one.is_atom:
        if any(inner is one for inner in atoms(other)):  # it would be a part of itself
            pin(other, "a dimension is combined with a part of itself")
            return
        why, one.same = one.pinned, other
        for name in one.tags:
            tag(other, name)
        if why is not None:
            pin(other, why)
        return
    if not _combine(one, other):
        for factor in (one, other):
            pin(factor, "dimensions that are made of different factors are combined")


def _combine(one: Factor, other: Factor) -> bool:
    if one.parts and other.parts:
        return _align_parts(parts_of(one), parts_of(other))
    if one.product and other.product:
        return _align(factors_of(one), factors_of(other))
    if one.product:
        one, other = other, one
    # Equal parts side by side are a product whose first factor numbers them.
    pieces = parts_of(one)
    if len({piece.size for piece in pieces}) > 1:
        return False
    divided = split_product(other, [len(pieces), pieces[0].size])
    if divided is None:
        return False
    pin(divided[0], "parts of a dimension are taken by their number")
    for piece in pieces:
        unify(piece, divided[1])
    return True


def _align(left: list[Factor], right: list[Factor]) -> bool:
    """Make two products the same, factor by factor from the slowest; False where their sizes do not divide."""
    left, right = list(left), list(right)
    while left and right:
        one, other = left[0].found(), right[0].found()
        if one.product:
            left[:1] = factors_of(one)
        elif other.product:
            right[:1] = factors_of(other)
        elif one.size == other.size:
            unify(one, other)
            del left[0], right[0]
        else:
            small, large, rest = (one, other, right) if one.size < other.size else (other, one, left)
            if large.size % small.size or not _divide(large, small.size):
                return False
            rest[:1] = factors_of(large)
    return not left and not right


def _divide(factor: Factor, size: int) -> bool:
    """Make a factor the product of one of this size and the rest, if it is nothing yet, or equal parts."""
    rest = factor.size // size
    if factor.is_atom:
        factor.product = (Factor(size, factor.pinned), Factor(rest, factor.pinned))
        for inner in factor.product:
            inner.tags |= factor.tags
        return True
    pieces = parts_of(factor)
    if len(pieces) != size or any(piece.size != rest for piece in pieces):
        return False
    for piece in pieces[1:]:
        unify(pieces[0], piece)
    factor.parts, factor.product = (
        (),
        (Factor(size, "parts of a dimension are taken by their number"), pieces[0]),
    )
    return True


def _align_parts(left: list[Factor], right: list[Factor]) -> bool:
    """Make two sums the same, part by part; False where a part is cut through that is made of others."""
    left, right = list(left), list(right)
    while left and right:
        one, other = left[0].found(), right[0].found()
        if one.parts:
            left[:1] = parts_of(one)
        elif other.parts:
            right[:1] = parts_of(other)
        elif one.size == other.size:
            unify(one, other)
            del left[0], right[0]
        else:
            small, large, rest = (one, other, right) if one.size < other.size else (other, one, left)
            if not large.is_atom:
                return False
            pieces = (Factor(small.size, large.pinned), Factor(large.size - small.size, large.pinned))
            for piece in pieces:
                piece.tags |= large.tags
            large.parts = pieces
            rest[:1] = list(pieces)
    return not left and not right
