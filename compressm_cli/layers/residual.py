"""Residual sub-layers, which may leave a network."""

from collections.abc import Iterator

from torch import Tensor, nn

from compressm_cli.core.axes import Axis


def sublayer_axis(is_there: bool, *modules: str) -> Axis:
    """The axis of a module that is one unit with all that it does, and the identity once its modules are gone."""
    return Axis(":sublayer", "sublayer", int(is_there), (), "", minimum=0, modules=modules)


class Residual(nn.Module):
    """``x + inner(norm(x))`` (He et al. 2016; the norm first, as in Xiong et al. 2020), and ``x`` once it is removed.

    One that a plan has removed stays where it is in its network, without ``norm`` and ``inner``, so that the parameters
    of the others keep their names.
    """

    norm: nn.Module | None
    inner: nn.Module | None

    def __init__(self, norm: nn.Module, inner: nn.Module) -> None:
        """``norm`` and ``inner`` map (batch, length, H) to the same shape."""
        super().__init__()
        self.norm = norm
        self.inner = inner

    @property
    def is_removed(self) -> bool:
        return self.inner is None

    def forward(self, x: Tensor, *arguments: Tensor | None) -> Tensor:
        """(batch, length, H) -> (batch, length, H); ``arguments`` are what the inner module takes besides."""
        if self.norm is None or self.inner is None:
            return x
        y: Tensor = self.inner(self.norm(x), *arguments)
        return x + y

    def axes(self) -> Iterator[Axis]:
        """Itself: one unit, which leaves with its modules; its size is 0 then."""
        yield sublayer_axis(not self.is_removed, "norm", "inner")
