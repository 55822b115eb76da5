"""A model whose values come when they are looked at has an outline, in which names and shapes are read without them."""

from typing import Any

from torch import nn

_OUTLINE = "_outline"


class _Attached:
    """Apart from the modules of the model; a copy of the model, which may be changed, has none."""

    def __init__(self, outline: nn.Module) -> None:
        self.outline = outline

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None


def attach_outline(model: nn.Module, outline: nn.Module) -> None:
    """Let ``outline``, the same model on the meta device, tell the names and shapes of a model that nobody changes."""
    model.__dict__[_OUTLINE] = _Attached(outline)


def outline_of(model: nn.Module) -> nn.Module:
    """A model with the same parameters, to read names and shapes of: the model itself, where its values are here."""
    attached = model.__dict__.get(_OUTLINE)
    return model if attached is None else attached.outline
