"""Which rows make the batch of a step: a function of (seed, step) alone, so that a resumed run sees the same."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressm_cli.data.augmentation import Augmentation
from compressm_cli.data.interface import Split
from compressm_cli.objectives.objective import Objective


def derived_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator for one purpose of one run, independent of all others."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


@dataclass(frozen=True)
class Share:
    """What one process does of a batch."""

    parts: list[Split]
    """Its rows, in parts that are passed through the model one after the other."""
    labels: Tensor | None
    """How many labels the whole batch has, of all processes; None where this one part is all of it."""
    processes: int = 1


def share_of(batch: Split, rank: int, processes: int, parts: int, in_step: bool = False) -> Share:
    """What process ``rank`` does of a batch, in so many parts; no row is done twice, and none is left out.

    Its rows are consecutive ones; or, ``in_step``, all processes pass rows of the first part of the batch at once, then
    of the second, as one process would.
    """
    if processes == parts == 1:
        return Share([batch], None)
    rows = torch.arange(len(batch), device=batch.labels.device)
    if in_step:
        own = [part.tensor_split(processes)[rank] for part in rows.tensor_split(parts)]
    else:
        own = list(rows.tensor_split(processes * parts)[rank * parts : (rank + 1) * parts])
    return Share([batch.rows(r) for r in own], batch.scored.sum(), processes)


class Batches:
    """Seeded permutations of a split, one an epoch, cut into batches; rows left over at the end are skipped."""

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        objective: Objective | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        """``objective`` says what is shown of them; without one it is all.

        ``augment`` changes the batches of steps, and not those that a method measures on.
        """
        self._split, self._objective = split, objective
        self._seed = seed
        self._augment = augment
        self.batch_size = min(batch_size, len(split))
        self.per_epoch = len(split) // self.batch_size
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.long)

    def __call__(self, step: int) -> Split:
        """The batch of a step, counted from 1."""
        numbers = self.numbers(step)
        batch = self._of(numbers, step)
        if self._augment is None:
            return batch
        return replace(batch, inputs=self._augment(batch.inputs, numbers, self._seed, step))

    def numbers(self, step: int) -> Tensor:
        """The numbers in the split of the rows of a step's batch."""
        epoch, place = divmod(step - 1, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = self._permutation("order", epoch)
        return self._order[place * self.batch_size : (place + 1) * self.batch_size]

    def share(self, step: int, rank: int, processes: int, parts: int, in_step: bool = False) -> Share:
        """What process ``rank`` does of the batch of a step, as ``share_of`` says."""
        return share_of(self(step), rank, processes, parts, in_step)

    def calibration(self, step: int, count: int) -> Iterator[Split]:
        """Some batches for a method's measurements at a step; the order of training is not touched."""
        order = self._permutation("calibration", step)[: count * self.batch_size]
        return (self._of(part, step) for part in order.split(self.batch_size))

    def _of(self, rows: Tensor, step: int) -> Split:
        batch = self._split.rows(rows)
        return batch if self._objective is None else self._objective.learned(batch, rows, (self._seed, step))

    def _permutation(self, purpose: str, number: int) -> Tensor:
        generator = derived_generator(self._seed, purpose, number)
        return torch.randperm(len(self._split), generator=generator).to(self._split.inputs.device)
