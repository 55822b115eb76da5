"""How rows of files become tensors and a model's outputs become names and numbers: fitted once, kept in checkpoints."""

from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from compressm_cli.core.config import Config
from compressm_cli.data.encodings.audio import Audio
from compressm_cli.data.encodings.images import Pixels
from compressm_cli.data.encodings.interface import Inputs, TextStream, TokenInputs
from compressm_cli.data.encodings.outputs import Classes, Numbers, Texts, Tokens
from compressm_cli.data.encodings.series import Series
from compressm_cli.data.encodings.source_target import SourceTarget
from compressm_cli.data.encodings.standardization import Standardization
from compressm_cli.data.encodings.texts import Bytes
from compressm_cli.data.encodings.tokens import Ids, Tokenizer
from compressm_cli.data.encodings.words import Words
from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.data.rows import Rows

AnyInputs = Annotated[
    Audio | Bytes | Ids | SourceTarget | Tokenizer | Pixels | Series, Field(discriminator="kind")
]
AnyOutputs = Annotated[Classes | Numbers | Texts | Tokens, Field(discriminator="kind")]


class Encoding(Config):
    """All that it takes to use a model on other files than those that it was trained on."""

    inputs: AnyInputs
    outputs: AnyOutputs

    @model_validator(mode="after")
    def _pairs_have_texts(self) -> Self:
        if isinstance(self.inputs, SourceTarget) != isinstance(self.outputs, Texts):
            raise ValueError(f"inputs are {self.inputs.kind}, and outputs {self.outputs.kind}")
        return self

    @property
    def class_names(self) -> list[str] | None:
        """What the labels 0, 1, ... are called; None where they are no classes with names."""
        return self.outputs.names if isinstance(self.outputs, Classes) else None

    def split(self, rows: Rows) -> Split:
        """Rows with their labels or targets as tensors; BadInputError for one that cannot be encoded."""
        if isinstance(self.inputs, SourceTarget):
            return self.inputs.split(rows)
        pieces = self.inputs.pieces(rows)
        inputs, lengths = self.inputs.encode(pieces)
        return Split(inputs, self.labels(pieces), lengths)

    def labels(self, pieces: Rows) -> Tensor:
        """Those of a split; of rows whose own tokens are said zeros, until all rows have one length."""
        if isinstance(self.outputs, Texts):
            raise ValueError("texts are labels of steps, not of rows")
        if isinstance(self.outputs, Tokens):
            if self.outputs.ahead:
                raise ValueError("tokens that follow are labels of windows, not of rows")
            return torch.zeros(len(pieces), dtype=torch.int64)
        return self.outputs.encode(pieces)

    def spec(self, length: int, rows: tuple[int, int, int]) -> DataSpec:
        """The description of a data set that is encoded so."""
        outputs, vocabulary = self.outputs, self.inputs.vocabulary
        said = vocabulary or 0 if isinstance(outputs, Tokens | Texts) else len(outputs.names)
        return DataSpec(
            classes=0 if isinstance(outputs, Numbers) else said,
            length=length,
            features=self.inputs.features,
            vocabulary=vocabulary,
            rows=rows,
            per_step=isinstance(outputs, Tokens | Texts)
            or (isinstance(outputs, Numbers) and outputs.per_step),
            targets=said if isinstance(outputs, Numbers) else None,
            separator=self.inputs.separator,
            mask=self.inputs.mask,
            image=self.inputs.image,
            source=self.inputs.source if isinstance(self.inputs, SourceTarget) else None,
        )

    def suits(self, other: "Encoding") -> bool:
        """Whether data encoded in the other way mean the same to a model.

        Numbers of tokens are those of any tokenizer with so many; two tokenizers are not the same.
        """
        pair = (self.inputs, other.inputs)
        if all(isinstance(one, Ids | Tokenizer) for one in pair) and any(
            isinstance(one, Ids) for one in pair
        ):
            return self.inputs.vocabulary == other.inputs.vocabulary and self.outputs == other.outputs
        return self == other

    def misfit(self, spec: DataSpec) -> str | None:
        """What of a description is not this encoding's; None where it fits."""
        now = self.spec(spec.length, spec.rows)
        names = ("features", "vocabulary", "separator", "classes", "targets", "per_step", "image", "source")
        for name in names:
            if getattr(now, name) != getattr(spec, name):
                return f"{name} {getattr(now, name)}, and the data have {getattr(spec, name)}"
        if isinstance(self.inputs, Pixels) and self.inputs.height * self.inputs.width != spec.length:
            return f"{self.inputs.height} x {self.inputs.width} pixels, and the data have {spec.length:,}"
        if isinstance(self.inputs, SourceTarget) and self.inputs.source + self.inputs.target != spec.length:
            return f"{self.inputs.source} + {self.inputs.target} steps, and the data have {spec.length:,}"
        return None


__all__ = [
    "AnyInputs",
    "AnyOutputs",
    "Audio",
    "Bytes",
    "Classes",
    "Encoding",
    "Ids",
    "Inputs",
    "Numbers",
    "Pixels",
    "Series",
    "SourceTarget",
    "Standardization",
    "TextStream",
    "Texts",
    "TokenInputs",
    "Tokenizer",
    "Tokens",
    "Words",
]
