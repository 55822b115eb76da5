"""A task: ``data: {task: tones, length: 32}``."""

from typing import Annotated, Literal

import torch
from pydantic import Field

from compressm_cli.data import Dataset, DataSpec, Split, TaskConfig


class Tones(TaskConfig):
    """``data: {task: tones}``: which of three frequencies a noisy wave has."""

    task: Literal["tones"] = "tones"
    length: Annotated[int, Field(ge=8, le=4096)] = 32
    """Steps of a sequence."""
    rows: Annotated[int, Field(ge=1, le=1_000_000)] = 96
    """Rows of the training split; the others have a third as many."""

    def spec(self) -> DataSpec:
        third = -(-self.rows // 3)
        return DataSpec(classes=3, length=self.length, features=2, rows=(self.rows, third, third))

    def load(self) -> Dataset:
        spec = self.spec()
        return Dataset(spec, *(self._split(seed, rows) for seed, rows in enumerate(spec.rows)))

    def _split(self, seed: int, rows: int) -> Split:
        random = torch.Generator().manual_seed(seed)
        labels = torch.randint(3, (rows,), generator=random)
        angle = torch.arange(self.length) * (labels[:, None] + 1) * 0.4 + 6.28 * torch.rand(
            rows, 1, generator=random
        )
        waves = torch.stack([angle.sin(), angle.cos() * (labels[:, None] + 1) / 2], dim=-1)
        return Split(waves + 0.1 * torch.randn(waves.shape, generator=random), labels)
