"""What a model's outputs are called: classes, numbers, or the tokens that it reads."""

from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import is_writable, shorten
from compressm_cli.data.encodings.standardization import Standardization
from compressm_cli.data.labels import class_numbers
from compressm_cli.data.rows import Rows


def _distinct(names: list[str]) -> list[str]:
    """Names that can be told apart, and written; ValueError for others."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{shorten(name)} is there twice")
        if not is_writable(name):
            raise ValueError(f"{shorten(name)} is no text that UTF-8 can write")
        seen.add(name)
    return names


Names = Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]


class Classes(Config):
    """One of some classes for each row."""

    kind: Literal["classes"] = "classes"
    names: Names
    """What the labels 0, 1, ... are called in the data."""

    def encode(self, rows: Rows) -> Tensor:
        """(rows,) int64; BadInputError for a label that is no class."""
        if rows.labels is None:
            raise BadInputError(
                f"{rows.source}: has no labels; name their column with data.label_column=NAME"
            )
        return class_numbers(rows.labels, self.names, rows.source, rows.names)


class Numbers(Config):
    """Some real numbers for each row, or for each of its steps."""

    kind: Literal["numbers"] = "numbers"
    names: Names
    """Those of the columns that they stand in."""
    standardization: Standardization | None = None
    """Of each; a model says them standardized, and they are told in their own unit."""
    per_step: bool = False
    """Whether they are said at each step, of the steps that follow, else of the whole row."""

    @model_validator(mode="after")
    def _one_scale_a_number(self) -> Self:
        scales = self.standardization
        if scales is not None and len(scales.mean) != len(self.names):
            raise ValueError(f"standardization of {len(scales.mean)} for {len(self.names)} numbers")
        return self

    def encode(self, rows: Rows) -> Tensor:
        """(rows, targets) float32, or (rows, steps, targets); BadInputError for targets of other names."""
        if rows.targets is None:
            raise BadInputError(f"{rows.source}: has no targets; name their columns with data.target_columns")
        targets = self._in_order(rows, rows.targets)
        exact = targets if self.standardization is None else self.standardization.apply(targets)
        return torch.from_numpy(np.ascontiguousarray(exact, dtype=np.float32))

    def _in_order(self, rows: Rows, targets: np.ndarray) -> np.ndarray:
        """Those of the same names, in the order of these; one alone may be called otherwise."""
        given = list(rows.target_names or self.names)
        if given == self.names or len(given) == len(self.names) == 1:
            return targets
        if sorted(given) != sorted(self.names):
            raise BadInputError(
                f"{rows.source}: its targets are {shorten(given)}, and the model says {shorten(self.names)}; name the "
                "same columns with data.target_columns"
            )
        return targets[..., [given.index(name) for name in self.names]]

    def decode(self, said: Tensor) -> np.ndarray:
        """(rows, targets) of a model, in their own unit, float64."""
        values = said.detach().cpu().double().numpy()
        return values if self.standardization is None else self.standardization.undo(values)


class Tokens(Config):
    """The token after each step, of those that the model reads; or that of the step itself, where it is hidden."""

    kind: Literal["tokens"] = "tokens"
    ahead: Literal[0, 1] = 1
    """How many steps after a step the token is that is said there."""


class Texts(Config):
    """A text for each row, in the tokens of its inputs."""

    kind: Literal["texts"] = "texts"
