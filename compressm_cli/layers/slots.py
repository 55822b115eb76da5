"""Where the units of an axis lie in a linear map."""

from torch import nn

from compressm_cli.core.axes import Role, Slot


def rows(name: str, linear: nn.Linear, role: Role = "in", **place: int) -> tuple[Slot, ...]:
    """The outputs of a linear map: rows of its weight, and the entries of its bias if it has one.

    ``place`` is the ``block``, ``stride``, ``repeat`` and ``span`` of the units among them.
    """
    weight = Slot(f"{name}.weight", 0, role=role, **place)
    if linear.bias is None:
        return (weight,)
    return weight, Slot(f"{name}.bias", 0, role="out" if role == "out" else "own", **place)


def columns(name: str, role: Role = "out", **place: int) -> tuple[Slot, ...]:
    """The inputs of a linear map: columns of its weight."""
    return (Slot(f"{name}.weight", 1, role=role, **place),)
