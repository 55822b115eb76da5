"""Induction heads: what followed this token last time? (Gu and Dao, 2023, appendix E.1; Olsson et al., 2022)."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from compressm_cli.data.generated import GeneratedTask
from compressm_cli.data.interface import IGNORE


class InductionHeads(GeneratedTask):
    """``data: {task: induction_heads}``: a special token comes twice; say what followed it the first time.

    Random tokens, with the special one at a random place and at the end, where the only scored step is.
    Tokens: padding 0, ordinary 1 to ``tokens``, special. The paper trains at length 256 and tests up to
    2^20: give another ``length`` for that.
    """

    task: Literal["induction_heads"] = "induction_heads"
    length: Annotated[int, Field(ge=3, le=2**20)] = 256
    """Steps of a sequence."""
    tokens: Annotated[int, Field(ge=2, le=65_536)] = 15
    """Different ordinary tokens; with the special one the 16 of the paper."""

    def _shape(self) -> tuple[int, int]:
        return self.length, self.tokens + 2

    def _draw(self, random: np.random.RandomState, rows: int) -> tuple[np.ndarray, np.ndarray]:
        special, row = self.tokens + 1, np.arange(rows)
        inputs = random.randint(1, self.tokens + 1, size=(rows, self.length))
        # The token to remember comes before the last step.
        first = random.randint(0, self.length - 2, size=rows)
        inputs[row, first] = special
        inputs[:, -1] = special
        labels = np.full_like(inputs, IGNORE)
        labels[:, -1] = inputs[row, first + 1]
        return inputs, labels
