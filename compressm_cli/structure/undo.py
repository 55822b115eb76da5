"""A model and an optimizer as they were, where something fails while they are changed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer


@contextmanager
def whole_or_not(model: nn.Module, optimizer: Optimizer | None) -> Iterator[None]:
    """Put modules, tensors and the optimizer's groups and state back where what is done within raises anything.

    Which tensors there are is put back, and whether they are trained; not values that were written in place.
    """
    parts = [(part, {k: _copied(v) for k, v in vars(part).items()}) for part in model.modules()]
    trained = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    groups = (
        [] if optimizer is None else [(g, g["params"], list(g["params"])) for g in optimizer.param_groups]
    )
    state: dict[Any, Any] = {} if optimizer is None else dict(optimizer.state)
    try:
        yield
    except BaseException:
        for part, held in parts:
            _put_back(part, held)
        for parameter, is_trained, grad in trained:
            parameter.requires_grad_(is_trained)
            parameter.grad = grad
        for group, place, parameters in groups:
            place[:] = parameters
            group["params"] = place
        if optimizer is not None:
            optimizer.state.clear()
            optimizer.state.update(state)
        raise


def _copied(value: Any) -> tuple[Any, Any]:
    """An attribute of a module, and what is in it where it is one of the tables of what the module has."""
    return value, value.copy() if type(value) in (dict, set) else None


def _put_back(part: nn.Module, held: dict[str, tuple[Any, Any]]) -> None:
    own = vars(part)
    own.clear()
    for name, (value, content) in held.items():
        own[name] = value
        if content is not None:
            value.clear()
            value.update(content)
