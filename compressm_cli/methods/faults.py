"""What a method does wrong in one of its hooks, told as that: its name, the hook, the error and its place."""

import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from compressm_cli.core.errors import CompressmError, RunFailedError
from compressm_cli.core.text import error_line
from compressm_cli.methods.method import Method
from compressm_cli.structure.plan import Plan

P = ParamSpec("P")
T = TypeVar("T")


class MethodFaultError(RunFailedError, ValueError):
    """A method raised an error in a hook, or gave back what the hook may not; a ValueError in a loop of one's own."""


def ask(method: Method, hook: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a hook of a method, as ``ask(method, Method.plan, model, context)``; MethodFaultError where it is at fault.

    Errors of ours, and those of memory, are passed on.
    """
    name = hook.__name__
    try:
        found: T = getattr(method, name)(*args, **kwargs)
    except (CompressmError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "memory" in str(error):  # which a run tells in its own words
            raise
        own = str(inspect.getsourcefile(type(method)))
        raise MethodFaultError(f"{_where(method, name)}: {error_line(error, own.__eq__)}") from error
    is_right, wanted = RETURNED.get(name, (lambda _: True, ""))
    if not is_right(found):
        raise MethodFaultError(f"{_where(method, name)}: returned {_described(found)}; it must be {wanted}")
    return found


RETURNED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "plan": (lambda v: isinstance(v, Plan), "a Plan; an empty one changes nothing"),
    "after_step": (lambda v: v is None or isinstance(v, Plan), "a Plan or None"),
    "penalty": (
        lambda v: v is None or (isinstance(v, Tensor) and v.is_floating_point() and v.numel() == 1),
        "a tensor of one floating-point number, or None",
    ),
    "state_dict": (lambda v: isinstance(v, dict), "a mapping"),
}
"""Of hooks: whether what they gave back is right, and what it must be."""


def _where(method: Method, hook: str) -> str:
    return f"compression.method: {getattr(method.config, 'method', type(method).__name__)}: {hook}"


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {str(value.dtype).removeprefix('torch.')} of the shape {tuple(value.shape)}"
    return "None" if value is None else f"a value of the type {type(value).__name__}"
