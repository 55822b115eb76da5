"""Selective copying: remember the tokens that matter, forget the noise (Gu and Dao, 2023, appendix E.1)."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from compressm_cli.data.generated import GeneratedTask, distinct
from compressm_cli.data.interface import IGNORE


class SelectiveCopying(GeneratedTask):
    """``data: {task: selective_copying}``: repeat the tokens that stand scattered among noise, in order.

    After ``length`` steps of noise, with the tokens at random places, follow ``memorize`` steps of a
    marker; only these are scored, the i-th for the i-th token. Tokens: padding 0, data 1 to ``tokens``,
    noise, marker. As in the paper but for the length, which is 4096 there.
    """

    task: Literal["selective_copying"] = "selective_copying"
    length: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Steps over which the tokens are scattered; a sequence has ``memorize`` more."""
    memorize: Annotated[int, Field(ge=1, le=100_000)] = 16
    """Tokens to remember in each sequence."""
    tokens: Annotated[int, Field(ge=2, le=65_536)] = 14
    """Different tokens that are drawn; with noise and marker the 16 of the paper."""

    @model_validator(mode="after")
    def _room_for_the_tokens(self) -> "SelectiveCopying":
        if self.memorize > self.length:
            raise ValueError(
                f"{self.memorize} tokens do not fit in {self.length} steps; "
                f"write a length of at least {self.memorize}, or a smaller memorize"
            )
        return self

    def _shape(self) -> tuple[int, int]:
        return self.length + self.memorize, self.tokens + 3

    def _draw(self, random: np.random.RandomState, rows: int) -> tuple[np.ndarray, np.ndarray]:
        noise, marker = self.tokens + 1, self.tokens + 2
        wanted = random.randint(1, self.tokens + 1, size=(rows, self.memorize))
        places = np.sort(distinct(random, rows, self.memorize, self.length), axis=1)
        inputs = np.full((rows, self.length + self.memorize), noise)
        np.put_along_axis(inputs, places, wanted, axis=1)
        inputs[:, self.length :] = marker
        labels = np.full_like(inputs, IGNORE)
        labels[:, self.length :] = wanted
        return inputs, labels
