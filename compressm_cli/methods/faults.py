"""What a method does wrong, told as that: its name, the hook, the error and its place."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from torch import Tensor
from torch.utils._pytree import tree_map_only

from compressm_cli.core.errors import CompressmError, RunFailedError
from compressm_cli.core.memory import is_out_of_memory
from compressm_cli.core.text import error_line
from compressm_cli.core.validation import described
from compressm_cli.methods.method import Method
from compressm_cli.structure.plan import Plan, UnitRecord

if TYPE_CHECKING:  # a loop of one's own needs no recipes
    from compressm_cli.methods.config import MethodConfig

P = ParamSpec("P")
T = TypeVar("T")


class MethodFaultError(RunFailedError, ValueError):
    """A method raised an error in a hook, or gave back what the hook may not; a ValueError in a loop of one's own."""


def ask(method: Method, hook: Callable[Concatenate[Any, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a hook of a method, as ``ask(method, Method.plan, model, context)``; MethodFaultError where it is at fault.

    Errors of ours, those of memory, and those that the hook may raise are passed on.
    """
    name = hook.__name__
    own = getattr(method, name)
    if getattr(own, "__func__", None) is hook:  # ours, which most methods leave as it is, asked in each step
        return hook(method, *args, **kwargs)
    with _blamed(where(method, name), type(method), ALLOWED.get(name, ())):
        answer: T = own(*args, **kwargs)
    is_right, right = RETURNED.get(name, (lambda _: True, ""))
    if not is_right(answer):
        raise MethodFaultError(f"{where(method, name)}: returned {described(answer)}; it must be {right}")
    return answer


def made(kind: type[Method], config: "MethodConfig") -> Method:
    """A method with its settings; MethodFaultError where its ``__init__`` is at fault."""
    place = f"compression.method: {config.method}: __init__"
    with _blamed(place, kind):
        method = kind(config)
    if not hasattr(method, "config"):
        raise MethodFaultError(f"{place}: left it without a config; call super().__init__(config)")
    return method


def memory_of(method: Method) -> dict[str, Any]:
    """A copy of what a method remembers now, which it cannot reach any more."""
    known = ask(method, Method.state_dict)
    with _blamed(where(method, "state_dict"), type(method)):
        return copy.deepcopy(tree_map_only(Tensor, Tensor.detach, known))


def where(method: Method, hook: str) -> str:
    """How a line about a hook begins."""
    name = getattr(getattr(method, "config", None), "method", type(method).__name__)
    return f"compression.method: {name}: {hook}"


ALLOWED: dict[str, tuple[type[Exception], ...]] = {"validate": (ValueError,)}
"""Of hooks: what they may raise."""
LISTS = "with a list of edits and a list of UnitRecord"
RETURNED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "attach": (
        lambda v: isinstance(v, list | tuple) and all(hasattr(handle, "remove") for handle in v),
        "a list of the handles of its hooks",
    ),
    "check_steps": (
        lambda v: isinstance(v, list | tuple) and all(type(step) is int and step >= 1 for step in v),
        "a list of whole numbers of at least 1",
    ),
    "plan": (lambda v: _is_plan(v), f"a Plan {LISTS}; an empty one changes nothing"),
    "after_step": (lambda v: v is None or _is_plan(v), f"a Plan or None, {LISTS}"),
    "penalty": (
        lambda v: v is None or (isinstance(v, Tensor) and v.is_floating_point() and v.numel() == 1),
        "a tensor of one floating-point number, or None",
    ),
    "calibration_bytes": (
        lambda v: isinstance(v, tuple) and len(v) == 2 and all(type(count) is int for count in v),
        "a tuple of two whole numbers",
    ),
    "no_details": (lambda v: isinstance(v, dict), "a mapping"),
    "state_dict": (lambda v: isinstance(v, dict), "a mapping"),
}
"""Of hooks: whether what they gave back is right, and what it must be."""


def _is_plan(value: object) -> bool:
    """Whether it is a plan, of lists; whether its edits can be made is seen when they are."""
    if not isinstance(value, Plan) or not isinstance(value.edits, list | tuple):
        return False
    records = value.records
    return isinstance(records, list | tuple) and all(isinstance(record, UnitRecord) for record in records)


@contextmanager
def _blamed(place: str, kind: type[Method], allowed: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Within, an error is one of a method of this kind."""
    try:
        yield
    except (Exception, SystemExit) as error:
        # Of memory a run tells in its own words.
        if isinstance(error, (CompressmError, *allowed)) or is_out_of_memory(error):
            raise
        raise MethodFaultError(f"{place}: {error_line(error, _file_of(kind).__eq__)}") from error


def _file_of(kind: type[Method]) -> str:
    """The source of a class; empty where it has none, as at a prompt."""
    try:
        return inspect.getsourcefile(kind) or ""
    except TypeError:
        return ""
