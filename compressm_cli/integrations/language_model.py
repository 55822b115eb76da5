"""A language model as benchmarks ask it: what follows a text, and how probable that is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import shorten
from compressm_cli.data.encodings import Bytes, Tokenizer
from compressm_cli.data.encodings.interface import TokenInputs
from compressm_cli.data.reading import reading

Tokens = Sequence[int]
PREFIXES = ("<|endoftext|>", "<bos>", "<s>", "<|begin_of_text|>", "</s>", "<eos>")
"""What a tokenizer calls the token that stands between texts."""
ROUNDING = 1e-5
"""Of the largest logit: by how much those at a place may depend on what else is computed beside it."""


class LanguageModel(ABC):
    """A causal language model: built once, in evaluation mode, in single precision."""

    def __init__(
        self, name: str, chosen: str, inputs: TokenInputs, context: int, device: torch.device
    ) -> None:
        self.name, self.chosen = name, chosen
        self.inputs = inputs
        self.context = context
        """Tokens that it is shown at once, at most."""
        self.device = device

    @abstractmethod
    def logits(self, tokens: Tensor, lengths: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """(n, vocabulary) of what follows n places in rows of tokens (batch, length) that are padded at their end."""

    @abstractmethod
    def write(self, prompts: Sequence[Tokens], most: int, stops: Sequence[str]) -> list[str]:
        """The most probable text after each prompt, of at most so many tokens, ended before the first of ``stops``."""

    def prefix(self) -> int | None:
        """The token that stands before a text; None where no token is known to.

        Of bytes it is the end of a line, as between the files that a model of bytes is trained on.
        """
        if isinstance(self.inputs, Bytes):
            return ord("\n") + 1
        if isinstance(self.inputs, Tokenizer):
            known = self.inputs.ids("\n").tolist()
            named = (self.inputs.named(name) for name in PREFIXES)
            return next((token for token in named if token is not None), known[-1] if known else None)
        return None

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without special ones; BadInputError where it has none that the model reads."""
        if isinstance(self.inputs, Bytes):
            return [byte + 1 for byte in text.encode("utf-8", "surrogateescape")]
        if isinstance(self.inputs, Tokenizer):
            with reading(shorten(text), "the model's tokenizer cannot make tokens of it", "correct the task"):
                ids = self.inputs.ids(text)
        else:
            ids = _numbers(text)
        vocabulary = self.inputs.vocabulary or 0
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary:
            raise BadInputError(
                f"{self.name}: a text has the token {ids.max()}, and the model knows {vocabulary:,}; put the "
                "tokenizer.json beside it that it was trained with"
            )
        return [int(token) for token in ids]

    def padded(self, rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        """(batch, length) tokens with zeros after each row's end, and lengths (batch,), on the model's device."""
        longest = max(map(len, rows))
        tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        return tokens, torch.tensor([len(row) for row in rows], device=self.device)

    def require_causal(self) -> None:
        """BadInputError where what follows a token changes what is said after it, as of encoders."""
        last, length = (self.inputs.vocabulary or 2) - 1, min(4, self.context)
        tokens, lengths = self.padded([[0] * length, [*[0] * (length - 1), last]])
        before = torch.arange(length - 1, device=self.device)
        rows = torch.tensor([0, 1], device=self.device).repeat_interleave(length - 1)
        one, other = self.logits(tokens, lengths, rows, before.repeat(2)).double().chunk(2)
        if float((one - other).abs().max()) > ROUNDING * float(one.abs().max()):
            raise BadInputError(
                f"{self.name}: what it says after a token depends on later ones: it is no causal language model, and "
                "its likelihoods of texts would mean nothing"
            )


def picked(head: nn.Module | None, rows: Tensor, places: Tensor, call: Callable[[], Tensor]) -> Tensor:
    """What ``call``, which ends with ``head``, says at some places of some rows: (n, vocabulary).

    The head is asked for these alone: of a large vocabulary it is a good part of the work, and most of the memory.
    """
    if head is None:
        return call()[rows, places]
    handle = head.register_forward_pre_hook(lambda _, given: (given[0][rows, places], *given[1:]))
    try:
        found = call()
    finally:
        handle.remove()
    if found.shape[:-1] == rows.shape:
        return found
    return call()[rows, places]  # it does not call its head as a module


def _numbers(text: str) -> np.ndarray:
    """(tokens,) of whole numbers with blanks between them."""
    try:
        return np.array([int(word) for word in text.split()], dtype=np.int64)
    except (ValueError, OverflowError):
        raise BadInputError(
            f"{shorten(text)}: the model reads numbers of tokens, and has no tokenizer; put its tokenizer.json beside "
            "it, or ask it tasks whose texts are numbers"
        ) from None
