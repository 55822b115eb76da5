"""What is given to the functions of this package: TypeError, in one line, for what is of no use to them."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX
from torch.optim import Optimizer

from compressm_cli.core.axes import whole_number
from compressm_cli.core.validation import described


def require_module(place: str, model: object) -> None:
    """TypeError unless it is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{place}: the model is a torch.nn.Module, not {_told(model)}")


def require_optimizer(place: str, optimizer: object) -> None:
    """TypeError unless it is an optimizer, or None."""
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"{place}: the optimizer is a torch.optim.Optimizer or None, not {_told(optimizer)}")


def listed_copies(place: str, copies: Any) -> list[nn.Module]:
    """Copies of a model, as a list; TypeError unless they are modules."""
    if isinstance(copies, nn.Module) or not isinstance(copies, Iterable):
        raise TypeError(
            f"{place}: copies are a list of modules, such as [average.module], not {_told(copies)}"
        )
    found = list(copies)
    for i, twin in enumerate(found):
        require_module(f"{place}: copies[{i}]", twin)
    return found


def require_weights(place: str, weights: object) -> None:
    """TypeError unless they are something by name."""
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise TypeError(f"{place}: weights are what state_dict() of the model gave, not {_told(weights)}")


def tensors_by_name(place: str, weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state of a model; TypeError where something else has the name of one."""
    # What modules keep beside their tensors is of any kind, and has no shape.
    found = {name: value for name, value in weights.items() if not name.endswith(_EXTRA_STATE_KEY_SUFFIX)}
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{place}: weights[{name!r}] is a tensor, not {_told(value)}")
    return found


def require_sizes(place: str, sizes: object) -> None:
    """TypeError unless they are None, or numbers of units by the name of their axis."""
    if sizes is None:
        return
    if not isinstance(sizes, Mapping) or not all(isinstance(name, str) for name in sizes):
        raise TypeError(
            f"{place}: sizes are what StructureMap.of(model).sizes() gave, or None, not {_told(sizes)}"
        )
    for name, size in sizes.items():
        if whole_number(size) is None:
            raise TypeError(f"{place}: sizes[{name!r}] is a whole number, not {_told(size)}")


def _told(value: object) -> str:
    return f"the class {value.__name__}; make one of it" if isinstance(value, type) else described(value)
