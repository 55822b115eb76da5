"""Tokens that are hidden from the model, told by those around them: cross-entropy, accuracy, perplexity, bits."""

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from compressm_cli.core.splitmix import GAMMA, mixed, shifted
from compressm_cli.data.interface import IGNORE, DataSpec, Split, TaskConfig
from compressm_cli.objectives.classification import ACCURACY, Classification, ClassScores
from compressm_cli.objectives.language import PERPLEXITY, perplexity
from compressm_cli.objectives.objective import Draw, Metric
from compressm_cli.objectives.teacher import TaughtConfig

BITS_PER_TOKEN = Metric("bits_per_token", "bits a token", least=0.0)
PERCENT = 15
"""Of the tokens of a row, rounded, that are to be told; one at least (Devlin et al. 2019, BERT)."""
MASKED, REPLACED = 8, 1
"""Of ten of them: the mask stands in the place of so many, another token of so many; the others stay as they are."""


class MaskedLanguageConfig(TaughtConfig):
    """``objective: {kind: masked_language}``: tokens that are hidden are told by those before and after them.

    Of each row 15 % of the tokens are to be told, one at least; 80 % of them are replaced by the mask, 10 % by another
    token, and 10 % stay. In training they are other ones at each step, in evaluation always the same.
    """

    kind: Literal["masked_language"] = "masked_language"
    primary: Literal["accuracy", "perplexity", "bits_per_token"] = "accuracy"
    """The metric that decides which model is the best, and whether a cut is kept; all are of the hidden tokens."""
    mask_token: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    """The token that hides another one; null is ``[MASK]`` or ``<mask>`` of a tokenizer, a number that it does not
    use, or of bytes the padding."""


class MaskedLanguage(Classification):
    """Cross-entropy of the hidden tokens; labels are made of the inputs."""

    Config = MaskedLanguageConfig
    METRICS = (ACCURACY, PERPLEXITY, BITS_PER_TOKEN)
    hides_tokens: ClassVar[bool] = True

    @classmethod
    def problem(cls, config: Any, spec: DataSpec, task: TaskConfig | None) -> str | None:
        if spec.targets is not None or not spec.per_step or spec.vocabulary != spec.classes:
            return (
                "masked_language takes rows of tokens alone, and these have labels; leave out data.label_column of a "
                "table of texts, or write kind: classification"
            )
        mask = _mask(config, spec)
        if mask is None:
            return (
                "masked_language needs a token to hide others with, and the data name none; write mask_token, a number "
                f"from 0 to {spec.classes - 1} that stands for nothing in them"
            )
        if mask >= spec.classes:
            return f"mask_token is {mask}, and tokens are from 0 to {spec.classes - 1}; write one of them"
        if spec.classes - len(_apart(mask, spec)) < 1:
            return "masked_language needs another token than the mask"
        return None

    def learned(self, batch: Split, rows: Tensor, draw: Draw | None) -> Split:
        spec, inputs = self.spec, batch.inputs
        assert spec is not None, "which tokens there are is known from the data"
        mask = _mask(self.config, spec)
        assert mask is not None, "refused otherwise"
        apart = _apart(mask, spec)
        noise = _noise(rows.to(inputs.device), inputs.shape[1], draw)
        chosen = _chosen(mixed(noise), _candidates(batch, apart))
        how = _positive(mixed(noise ^ 1)) % 10
        other = _positive(mixed(noise ^ 2)) % (spec.classes - len(apart))
        for token in apart:  # in ascending order
            other += other >= token
        seen = inputs.masked_fill(chosen & (how < MASKED), mask)
        seen = torch.where(chosen & (how >= MASKED) & (how < MASKED + REPLACED), other, seen)
        return Split(seen, inputs.masked_fill(~chosen, IGNORE), batch.lengths)

    def scores(self, split: Split) -> "MaskedScores":
        return MaskedScores(self, split.device)


class MaskedScores(ClassScores):
    """Loss, accuracy and what follows from the loss, of hidden tokens."""

    def metrics(self) -> dict[str, float | None]:
        loss = self.mean_loss()
        told = {PERPLEXITY.name: perplexity(loss), BITS_PER_TOKEN.name: loss / math.log(2)}
        return {**super().metrics(), **told}


def _mask(config: Any, spec: DataSpec) -> int | None:
    mask: int | None = spec.mask if config.mask_token is None else config.mask_token
    return mask


def _apart(mask: int, spec: DataSpec) -> list[int]:
    """The tokens that neither are to be told nor stand for another one, in ascending order."""
    return sorted({mask, *([] if spec.separator is None else [spec.separator])})


def _candidates(batch: Split, apart: Sequence[int]) -> Tensor:
    """(rows, steps), the tokens that may be hidden: none of the padding."""
    inputs = batch.inputs
    found = torch.ones_like(inputs, dtype=torch.bool)
    if batch.lengths is not None:
        found = torch.arange(inputs.shape[1], device=inputs.device) < batch.lengths[:, None]
    for token in apart:
        found = found & (inputs != token)
    return found


def _chosen(order: Tensor, candidates: Tensor) -> Tensor:
    """(rows, steps), the share of the candidates of each row that come first in an order; one at least."""
    count = candidates.sum(dim=1, keepdim=True)
    wanted = ((count * PERCENT + 50) // 100).clamp(min=1)
    place = order.masked_fill(~candidates, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
    return (place.argsort(dim=1) < wanted) & candidates


def _noise(rows: Tensor, steps: int, draw: Draw | None) -> Tensor:
    """(rows, steps) int64, a function of the draw, of each row's number and of the step alone, on every device."""
    digest = blake2b(repr(("masked_language", draw)).encode(), digest_size=8).digest()
    keys = mixed(rows * GAMMA + int.from_bytes(digest, "little", signed=True))
    return mixed(keys[:, None] + torch.arange(1, steps + 1, device=rows.device) * GAMMA)


def _positive(x: Tensor) -> Tensor:
    return shifted(x, 1)
