"""What a ``Compressor`` is given: whether it can be used, and what to write where not."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from compressm_cli.core.axes import whole_number
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.memory import is_out_of_memory
from compressm_cli.core.text import error_line, shorten
from compressm_cli.core.validation import described
from compressm_cli.methods.method import Method
from compressm_cli.structure.map import StructureMap

Batches = Callable[[], Iterable[Any]] | Iterable[Any]
"""Batches of what the model is called with, a tensor or a tuple of arguments; or what gives them at a check."""


def require_number(name: str, value: object, least: int, meaning: str) -> None:
    """ValueError unless it is a whole number of at least ``least``."""
    number = whole_number(value)
    if number is None or number < least:
        raise ValueError(f"{name}: {shorten(value)} is not {meaning}; write at least {least}")


def require_optimizer(optimizer: object, model: nn.Module) -> None:
    """ValueError unless it is None, or an optimizer of the model."""
    if optimizer is None:
        return
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"optimizer: {type(optimizer).__name__} is no torch.optim.Optimizer, and not None")
    known = {id(p) for p in model.parameters()}
    if not any(id(p) in known for group in optimizer.param_groups for p in group["params"]):
        raise ValueError(
            "optimizer: it has none of the model's parameters; make it of model.parameters(), of the model as it is now"
        )


def copies_of(copies: Any, model: nn.Module) -> list[nn.Module]:
    """Copies of the model, as a list; ValueError for what is none, or is there twice."""
    if isinstance(copies, nn.Module) or not isinstance(copies, Iterable):
        raise ValueError(
            f"copies: {type(copies).__name__} is no list of modules; write copies=[average.module]"
        )
    found = list(copies)
    axes = set(StructureMap.of(model))
    for i, twin in enumerate(found):
        if not isinstance(twin, nn.Module):
            raise ValueError(f"copies[{i}]: {shorten(twin)} is no module")
        if any(twin is other for other in (model, *found[:i])):
            raise ValueError(f"copies[{i}]: it is the model itself, or there twice; leave it out")
        if axes and axes.isdisjoint(own := StructureMap.of(twin)):
            has = next(iter(own), "none")
            raise ValueError(
                f"copies[{i}]: {type(twin).__name__} has none of the model's axes; it has {has}; give what is within "
                "a wrapper, such as average.module"
            )
    return found


class CalibrationError(BadInputError, ValueError):
    """A model cannot be called with the batches that it was given for calibration."""


def called_with(model: nn.Module, batch: Any) -> None:
    """Pass a calibration batch through a model; CalibrationError where it cannot be called with it."""
    try:
        model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        what = f"the {len(batch)} arguments" if isinstance(batch, (tuple, list)) else described(batch)
        raise CalibrationError(
            f"calibration: the model cannot be called with {what} of a batch: {error_line(error, lambda _: False)}; "
            "give batches of what the model is called with, without labels"
        ) from error


def batches_of(calibration: Batches | None) -> Callable[[], Iterable[Any]] | None:
    """What gives batches at each check; ValueError for what gives them once, or none."""
    if calibration is None or callable(calibration):
        return calibration
    if isinstance(calibration, Iterator):
        raise ValueError(
            "calibration: each check asks for batches, and this can be gone through once; give a list of them, a "
            "loader, or a function that returns them"
        )
    given = iterable_of(calibration)
    return lambda: given


def iterable_of(batches: Any) -> Iterable[Any]:
    if isinstance(batches, (Tensor, str, Mapping)) or not isinstance(batches, Iterable):
        raise ValueError(
            f"calibration: {type(batches).__name__} is no iterable of batches; write [batch], a loader, or a function "
            f"that returns one"
        )
    return batches


def method_of_settings(settings: Any) -> Method:
    """The method that a recipe's ``compression:`` tells; ValueError, in one clause, for what is none."""
    if not isinstance(settings, Mapping):
        raise ValueError(
            f"method: {shorten(settings)} is no method and no mapping of settings; write such as "
            '{"method": "hankel", "energy_threshold": 0.99}'
        )
    # Whoever imports the interface, or brings a method, waits for none of these.
    from pydantic import ValidationError

    from compressm_cli.methods.registry import METHODS, method_of

    name = settings.get("method")
    if name is None:
        raise ValueError(f"method: is missing; write one of {', '.join(METHODS)}")
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method: {_instead(name, 'method', METHODS)}")
    try:
        config = METHODS[name].Config.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"] if str(p).isalnum() or str(p).isidentifier()) or name
        raise ValueError(f"{place}: {_said(first, METHODS[name].Config.model_fields)}") from None
    if config.safety is not None:
        raise ValueError(
            "safety: a loop of one's own has no way back; leave it out, and keep checkpoints of yours"
        )
    return method_of(config)


def _said(error: Mapping[str, Any], settings: Iterable[str]) -> str:
    """What is wrong with a setting, in the words of this package."""
    kind, message, place = error["type"], error["msg"], error["loc"]
    if kind == "extra_forbidden":
        return _instead(place[-1], "setting", settings if len(place) == 1 else ())
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind.startswith("union_tag"):
        tag, allowed = (
            error["ctx"].get(key, "").replace("'", "") for key in ("discriminator", "expected_tags")
        )
        return f"{shorten(error['input'])} has no {tag} that there is" + (
            f"; write {allowed}" if allowed else ""
        )
    return f"{shorten(error['input'])} {message.removeprefix('Input ')}"


def _instead(name: object, subject: str, names: Iterable[str]) -> str:
    """That there is no such name, and which is meant, or which there are."""
    known = list(names)
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    there = f"; there are {', '.join(known)}" if known else ""
    return f"{shorten(name)} is no {subject}" + (f"; did you mean {near[0]!r}?" if near else there)
