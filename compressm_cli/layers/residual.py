"""Residual sub-layers, which may leave a network."""

from collections.abc import Iterator

from torch import Tensor, nn

from compressm_cli.core.axes import Axis


class Residual(nn.Module):
    """``x + inner(norm(x))`` (He et al. 2016; the norm first, as in Xiong et al. 2020), and ``x`` once it is removed.

    A removed one stays where it is in its network, without ``norm`` and ``inner``, so that the parameters of the others
    keep their names.
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

    def remove(self) -> tuple[nn.Module, nn.Module]:
        """Become the identity. Returns the norm and the inner module, which ``restore`` takes back.

        Raises ValueError where it is the identity already.
        """
        if self.norm is None or self.inner is None:
            raise ValueError("the sub-layer is removed already")
        parts = self.norm, self.inner
        self.norm = self.inner = None
        return parts

    def restore(self, norm: nn.Module, inner: nn.Module) -> None:
        """Undo ``remove``. Raises ValueError where nothing is removed."""
        if not self.is_removed:
            raise ValueError("the sub-layer is not removed")
        self.norm, self.inner = norm, inner

    def forward(self, x: Tensor, *arguments: Tensor | None) -> Tensor:
        """(batch, length, H) -> (batch, length, H); ``arguments`` are what the inner module takes besides."""
        if self.norm is None or self.inner is None:
            return x
        y: Tensor = self.inner(self.norm(x), *arguments)
        return x + y

    def axes(self) -> Iterator[Axis]:
        """Itself: one unit without slots, which leaves by ``remove``; its size is 0 then."""
        yield Axis(":sublayer", "sublayer", 0 if self.is_removed else 1, (), "", minimum=0)
