"""Where the rows of a data set are while a model is trained, or evaluated, on a device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from compressm_cli.core.quantities import quantity
from compressm_cli.data.interface import Split
from compressm_cli.measure.memory import free_bytes

SHARE = 0.5
"""Of what is free on a device, what data may take of it: the rest is for the model and what steps need."""


@dataclass(frozen=True)
class Placed:
    """Splits as they are used on a device."""

    splits: list[Split]
    why_host: str | None
    """Why their inputs stay in the host's memory, of which each batch is moved; None where they are on the device."""


def placed(splits: Sequence[Split], device: torch.device) -> Placed:
    """The same rows for a device: there, where they take no more than half of what is free on it."""
    free, needed = free_bytes(device), sum(split.bytes_on(device) for split in splits)
    if free is None or needed <= SHARE * free:
        return Placed([split.to(device) for split in splits], None)
    why = f"they take {quantity(needed, 'bytes')}, and {quantity(free, 'bytes')} are free on {device}"
    return Placed([split.kept_for(device) for split in splits], why)
