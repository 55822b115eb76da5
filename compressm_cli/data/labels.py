"""Class labels, as they stand in files, to class numbers."""

import re
from collections.abc import Sequence
from decimal import Decimal

import torch
from torch import Tensor

from compressm_cli.core.errors import BadInputError

SHOWN = 10
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
"""A name that is one; larger exponents are for nobody's classes."""


def class_names(labels: Sequence[str]) -> list[str]:
    """The different labels in order: by value where all are numbers, of equal ones as texts; else alphabetically."""
    names = set(labels)
    if all(NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (Decimal(name), name))
    return sorted(names)


def first_order(names: Sequence[str]) -> list[str]:
    """Class names as the first versions ordered them, by value only where all are whole numbers.

    Models of theirs keep this order, and which rows are held out is drawn in it.
    """
    return sorted(names, key=int) if all(map(_is_whole_number, names)) else sorted(names)


def class_numbers(
    labels: Sequence[str], names: list[str], source: str, rows: Sequence[str] | None = None
) -> Tensor:
    """(rows,) int64: the place of each label in ``names``.

    Raises BadInputError for a label that is not among them; ``source`` is the file it stands in, and ``rows`` is what
    its rows are called, None where they have their numbers alone.
    """
    places = {name: place for place, name in enumerate(names)}
    for row, label in enumerate(labels):
        if label not in places:
            called = row + 1 if rows is None else rows[row]
            shown = ", ".join(repr(n) for n in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
            raise BadInputError(
                f"{source}, row {called}: label {label!r} does not occur in the training data, which has {shown}"
                f"; {_advice(label, names)}"
            )
    return torch.tensor([places[label] for label in labels], dtype=torch.int64)


def _advice(label: str, names: list[str]) -> str:
    """What to write instead of a label that is no class."""
    alike = next((name for name in names if _plain(name) == _plain(label)), None)
    if alike is not None:
        return f"write {alike!r}, if it is this class"
    return "correct it, or add rows of this class to the training data"


def _plain(label: str) -> str | float:
    """A label without what writers of tables change: ``10.0`` is as ``10``, ``True`` as ``true``."""
    try:
        return float(label)
    except ValueError:
        return " ".join(label.split()).casefold()


def _is_whole_number(text: str) -> bool:
    try:
        return str(int(text)) == text
    except ValueError:
        return False
