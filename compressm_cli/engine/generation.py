"""Text that a language model writes on from prompts, a token at a time and in constant time and memory a token."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.core.text import shorten
from compressm_cli.data.encodings import Tokenizer, Tokens
from compressm_cli.data.encodings.interface import TextStream
from compressm_cli.data.rows import Rows
from compressm_cli.engine.batches import derived_generator
from compressm_cli.engine.precision import prepare, resolve_device
from compressm_cli.engine.prediction import encoding_of
from compressm_cli.engine.sampling import Sampling
from compressm_cli.layers.state import State
from compressm_cli.models.interface import Model


@dataclass(frozen=True)
class Piece:
    """Some more of the text that follows one of the prompts."""

    prompt: int
    """Its number, from 0."""
    text: str
    end: str | None = None
    """Why it is the last one: ``length`` or ``stop``; None where more may follow."""


class Writer:
    """A language model, ready for prompts: built once, in evaluation mode, in single precision."""

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        """Raises BadInputError for a model that says no tokens, or cannot go on step by step."""
        encoding = encoding_of(checkpoint)
        name = f"the model of {checkpoint.recipe.name}"
        if checkpoint.data.source is not None:
            raise BadInputError(f"{name} translates texts, and writes on none; use: compressm predict")
        if not isinstance(encoding.outputs, Tokens):
            raise BadInputError(f"{name} says classes or numbers, no text; use: compressm predict")
        self._inputs, self._device = encoding.inputs, resolve_device(device)
        prepare(self._device, "fp32")
        model = checkpoint.build_model().to(self._device).eval()
        if not isinstance(model, Model) or model.step_obstacle is not None:
            why = model.step_obstacle if isinstance(model, Model) else "it has no step by step form"
            raise BadInputError(f"{name} cannot write on: {why}")
        self._model = model
        self.written = 0
        """Tokens, of all texts."""
        self.remarks: list[str] = []
        """What a user should know of the prompts that were asked for last."""

    def __call__(
        self,
        prompts: Sequence[str],
        most: int,
        sampling: Sampling | None = None,
        seed: int = 0,
        stops: Sequence[str] = (),
    ) -> Iterator[Piece]:
        """What follows each of the prompts, as it is written, at most ``most`` tokens of it.

        A text ends before the first of ``stops`` in it. The same seed gives the same texts, each the one that its
        prompt has alone (but for rounding); of a prompt that is given again the draws are others. Raises BadInputError
        for a prompt that has no token, and RunFailedError where the model says no numbers.
        """
        # Whatever is wrong with a prompt is told before the first piece is asked for.
        tokens, lengths = self._encoded(prompts)
        self._require_room(tokens.shape[1], most)
        logits, state = self._model.prefill(tokens, lengths)
        ends = [tokens.shape[1]] * len(prompts) if lengths is None else lengths.tolist()
        before = [row[:end].tolist() for row, end in zip(tokens, ends, strict=True)]
        texts = [WrittenText(self._inputs.stream(given), stops) for given in before]
        return self._written(logits, state, texts, most, sampling or Sampling(), _generators(before, seed))

    @property
    def _of_numbers(self) -> bool:
        """Whether texts are numbers of tokens, with blanks between them."""
        return self._inputs.takes == "tokens"

    def _written(
        self,
        logits: Tensor,
        state: State,
        texts: "Sequence[WrittenText]",
        most: int,
        how: Sampling,
        generators: Sequence[torch.Generator],
    ) -> Iterator[Piece]:
        for count in range(1, most + 1):
            drawn = how.draw(self._sayable(logits), generators)
            for place, (text, token) in enumerate(zip(texts, drawn.tolist(), strict=True)):
                if not text.is_over:
                    self.written += 1
                    said = text.add(token, count == most)
                    end = None if not text.is_over else "stop" if text.is_stopped else "length"
                    if said or end:
                        yield Piece(place, said, end)
            if all(text.is_over for text in texts):
                return
            logits, state = self._model.step(drawn, state)

    def _encoded(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        self.remarks = [told for prompt in prompts if (told := self._unknown(prompt))]
        if not all(prompts):
            raise BadInputError("a prompt is empty; give one character at least, from which the text goes on")
        if self._of_numbers:
            rows = Rows("prompt", "tokens", list(map(_numbers, prompts)))
        else:
            rows = Rows("prompt", "texts", [text.encode("utf-8", "surrogateescape") for text in prompts])
        tokens, lengths = self._inputs.encode(rows)
        return tokens.to(self._device, torch.int64), None if lengths is None else lengths.to(self._device)

    def _require_room(self, prompt: int, most: int) -> None:
        """BadInputError where a text would be longer than the model takes."""
        longest = self._model.longest
        if longest is not None and prompt + most > longest:
            advice = f"give --tokens {longest - prompt} at most" if prompt < longest else "shorten it"
            raise BadInputError(
                f"a prompt has {prompt:,} tokens and {most:,} are to follow, and the model takes {longest:,} together; "
                f"{advice}"
            )

    def _unknown(self, prompt: str) -> str | None:
        """That a part of a prompt is none to the model; None where it reads all."""
        pieces = self._inputs.unread(prompt) if isinstance(self._inputs, Tokenizer) else []
        if not pieces:
            return None
        told = f"the tokenizer does not know {shorten(pieces)}, so that the model does not see it"
        return f"prompt {shorten(prompt)}: {told}"

    def _sayable(self, logits: Tensor) -> Tensor:
        """Without the tokens that stand for no text; RunFailedError where they are no numbers."""
        logits = logits.float()
        if not bool(logits.isfinite().all()):
            raise RunFailedError("the model says numbers that are not finite; its weights are of no use")
        logits[:, list(self._inputs.silent)] = -torch.inf
        return logits


def _generators(prompts: Sequence[Sequence[int]], seed: int) -> list[torch.Generator]:
    """Of each prompt the one that it has alone, whatever stands beside it; another one where it stands there again."""
    found, times = [], Counter[tuple[int, ...]]()
    for tokens in map(tuple, prompts):
        again = times[tokens]
        alone = torch.Generator().manual_seed(seed)
        found.append(derived_generator(seed, "prompt", again) if again else alone)
        times[tokens] += 1
    return found


def _numbers(prompt: str) -> np.ndarray:
    """(tokens,) of whole numbers with blanks between them."""
    try:
        if "_" in prompt:  # which Python takes within a number
            raise ValueError
        return np.array([int(word) for word in prompt.split()], dtype=np.int64)
    except (ValueError, OverflowError):
        raise BadInputError(
            f"prompt {shorten(prompt)}: the model was trained on numbers of tokens, without a tokenizer; write numbers "
            "with blanks between them"
        ) from None


class WrittenText:
    """One text that is being written: what may be shown of it, and whether it is over."""

    def __init__(self, stream: TextStream, stops: Sequence[str]) -> None:
        self._stream, self._stops = stream, [stop for stop in stops if stop]
        self._held = ""
        """What a stop could begin with: not shown before it is known."""
        self.is_over = self.is_stopped = False

    def add(self, token: int, is_last: bool) -> str:
        """What can be shown now, with one more token."""
        self._held += self._stream.add(token)
        if is_last:
            self._held += self._stream.end()
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.is_over = self.is_stopped = True
            return self._held[: min(places)]
        self.is_over = is_last
        kept = 0 if is_last else max(map(self._beginning, self._stops), default=0)
        shown, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        return shown

    def _beginning(self, stop: str) -> int:
        """How many characters at the end could be the beginning of a stop."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
