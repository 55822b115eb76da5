"""Dimensions of tensors in terms of the axes that were found in them."""

from collections.abc import Mapping

from compressm_cli.core.expressions import Constant, Expression, Product, Sum, Units
from compressm_cli.structure.discovery.dimensions import Factor


def expression_of(factor: Factor, names: Mapping[Factor, str]) -> Expression:
    """A factor in terms of axes, by the name of each atom that is one; all else is constant."""
    factor = factor.found()
    if factor.product:
        return Product(tuple(expression_of(inner, names) for inner in factor.product))
    if factor.parts:
        return Sum(tuple(expression_of(inner, names) for inner in factor.parts))
    return Units(names[factor]) if factor in names else Constant(factor.size)
