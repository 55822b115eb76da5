"""Linear maps whose weights are all there is to them."""

from torch import nn


def is_plain(linear: nn.Module) -> bool:
    """Whether a function of its weights may stand for calling it: it is no other module, and has no hooks."""
    hooks = (
        linear._forward_hooks,
        linear._forward_pre_hooks,
        linear._backward_hooks,
        linear._backward_pre_hooks,
    )
    return type(linear) is nn.Linear and not any(hooks)
