"""Language models that this package builds: its checkpoints, and folders of Mamba and Mamba-2."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Tokens as TokenOutputs
from compressm_cli.data.encodings.interface import TokenInputs
from compressm_cli.engine.generation import WrittenText
from compressm_cli.engine.prediction import encoding_of
from compressm_cli.integrations.language_model import LanguageModel, Tokens, picked
from compressm_cli.models.interface import Model
from compressm_cli.models.stack import Stack


class OwnModel(LanguageModel):
    """The model of a checkpoint."""

    def __init__(
        self, name: str, chosen: str, checkpoint: Checkpoint, context: int | None, device: torch.device
    ) -> None:
        """``context`` is by default the longest sequence that it was trained on.

        Raises BadInputError for a model that says no tokens, and for more ``context`` than it has positions.
        """
        encoding = encoding_of(checkpoint)
        if not isinstance(encoding.outputs, TokenOutputs) or not isinstance(encoding.inputs, TokenInputs):
            raise BadInputError(
                f"{name}: says classes or numbers, no text; judge it on rows of its own with: compressm evaluate"
            )
        self._model = checkpoint.build_model().to(device).eval()
        positions = self._model.longest if isinstance(self._model, Stack) else None
        if context is not None and positions is not None and context > positions:
            raise BadInputError(
                f"--context {context}: {name} has learned {positions} positions; give no more"
            )
        super().__init__(
            name, chosen, encoding.inputs, context or positions or checkpoint.data.length, device
        )

    def logits(self, tokens: Tensor, lengths: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        head = self._model.head if isinstance(self._model, Stack) else None
        uneven = None if bool((lengths == tokens.shape[1]).all()) else lengths
        with torch.no_grad():
            return picked(head, rows, places, lambda: self._model(tokens, uneven))

    @torch.no_grad()
    def write(self, prompts: Sequence[Tokens], most: int, stops: Sequence[str]) -> list[str]:
        """By ``prefill`` and ``step`` where the model has them; else the whole text is gone through for each token."""
        texts = [WrittenText(self.inputs.stream(prompt), stops) for prompt in prompts]
        said, known = [""] * len(texts), [list(prompt) for prompt in prompts]
        steps = self._model if isinstance(self._model, Model) and self._model.step_obstacle is None else None
        logits, state = steps.prefill(*self.padded(known)) if steps else (self._after(known), None)
        for count in range(1, most + 1):
            logits[:, list(self.inputs.silent)] = -torch.inf
            tokens = logits.argmax(dim=-1)
            for place, token in enumerate(tokens.tolist()):
                known[place].append(token)
                if not texts[place].is_over:
                    said[place] += texts[place].add(token, count == most)
            if all(text.is_over for text in texts):
                break
            logits, state = steps.step(tokens, state) if steps and state else (self._after(known), None)
        return said

    def _after(self, known: Sequence[Tokens]) -> Tensor:
        """(batch, vocabulary) of the token after each row, from all of it."""
        tokens, lengths = self.padded(known)
        rows = torch.arange(len(known), device=self.device)
        return self.logits(tokens, lengths, rows, lengths - 1)
