"""Language models in folders of transformers, of the kinds that this package does not build itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Tokenizer
from compressm_cli.data.tokenizer import TOKENIZER, read_tokenizer
from compressm_cli.exchange.folders import open_folder
from compressm_cli.integrations.language_model import ROUNDING, LanguageModel, Tokens, picked
from compressm_cli.integrations.shared_prefix import groups
from compressm_cli.models.of_transformers import takes

LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")
"""Settings that tell how many tokens a model sees at once, as lm-evaluation-harness looks for them."""
UNKNOWN_LENGTH = 2048
"""Tokens where none of them is there; the same as in lm-evaluation-harness."""
STARTS = ("bos_token_id", "eos_token_id")


class TransformersModel(LanguageModel):
    """The network of a folder; nothing in the folder is executed."""

    def __init__(self, folder: Path, context: int | None, device: torch.device) -> None:
        """Raises BadInputError for what is no language model, or lacks weights or its tokenizer."""
        opened = open_folder(folder)
        settings = opened.config
        if opened.task != "language":
            raise BadInputError(
                f"{folder}: a {type(opened.model).__name__} says no tokens; give a language model, whose class ends in "
                "ForCausalLM"
            )
        network: Any = opened.model
        self._model, self._takes = network.to(device), takes(network)
        if not (folder / TOKENIZER).is_file():
            raise BadInputError(f"{folder}: no {TOKENIZER} in it; put that of the model there")
        size = self._model.get_input_embeddings().weight.shape[0]
        inputs = Tokenizer(size=size, json_text=read_tokenizer(folder / TOKENIZER))
        lengths = [settings[key] for key in LENGTHS if isinstance(settings.get(key), int)]
        longest = lengths[0] if lengths else UNKNOWN_LENGTH
        if context is not None and lengths and context > longest:
            raise BadInputError(f"--context {context}: {folder} sees {longest} tokens at once; give no more")
        super().__init__(str(folder), "a model of transformers", inputs, context or longest, device)
        ids = [i[0] if isinstance(i := settings.get(key), list) and i else i for key in STARTS]
        self._start = next((token for token in ids if isinstance(token, int)), None)
        self._ends = settings.get("eos_token_id")
        self._shares, self._is_confirmed = {"use_cache", "attention_mask"} <= self._takes, False
        """Whether it remembers the beginning of a row for several, and whether that was seen to be the same."""

    def prefix(self) -> int | None:
        """The token that begins texts, else the one that ends them, as config.json says."""
        return super().prefix() if self._start is None else self._start

    def logits(self, tokens: Tensor, lengths: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """What rows have in common at their beginning is computed once, where that gives the same."""
        if not self._shares:
            return self._whole(tokens, lengths, rows, places)
        found: Tensor | None = None
        apart = torch.ones_like(rows, dtype=torch.bool)
        for group, shared in groups(tokens, lengths, places, rows):
            if not shared:
                continue
            own = (rows >= group.start) & (rows < group.stop)
            part = slice(group.start, group.stop)
            longest = int(lengths[part].max())
            asked = (tokens[part, :longest], lengths[part], rows[own] - group.start, places[own])
            said = self._confirmed(*asked, shared)
            if said is None:
                return self._whole(tokens, lengths, rows, places)
            found = said.new_empty(len(rows), said.shape[1]) if found is None else found
            found[own] = said
            apart &= ~own
        if found is None:
            return self._whole(tokens, lengths, rows, places)
        if bool(apart.any()):
            left, index = rows[apart].unique(return_inverse=True)
            longest = int(lengths[left].max())
            found[apart] = self._whole(tokens[left, :longest], lengths[left], index, places[apart])
        return found

    def _confirmed(
        self, tokens: Tensor, lengths: Tensor, rows: Tensor, places: Tensor, shared: int
    ) -> Tensor | None:
        """``_after``; None where the network cannot, or said something else the first time."""
        if self._is_confirmed:
            return self._after(tokens, lengths, rows, places, shared)
        whole = self._whole(tokens, lengths, rows, places)
        try:
            said = self._after(tokens, lengths, rows, places, shared)
        except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError):
            self._shares = False
            return None
        self._is_confirmed = float((said - whole).abs().max()) <= ROUNDING * float(whole.abs().max())
        self._shares = self._is_confirmed
        return whole if self._is_confirmed else None

    def _whole(self, tokens: Tensor, lengths: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        # What some have no such argument for, they do not need: padding is at the end, and they are causal.
        settings = {"attention_mask": real.long(), "use_cache": False}
        settings = {name: value for name, value in settings.items() if name in self._takes}

        def call() -> Tensor:
            found: Tensor = self._model(input_ids=tokens, **settings).logits
            return found

        with torch.no_grad():
            return picked(self._model.get_output_embeddings(), rows, places, call)

    def _after(self, tokens: Tensor, lengths: Tensor, rows: Tensor, places: Tensor, shared: int) -> Tensor:
        """``logits`` of rows whose first ``shared`` tokens are the same, which are gone through once."""
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        with torch.no_grad():
            once = self._model.base_model(input_ids=tokens[:1, :shared], use_cache=True).past_key_values
            once.batch_repeat_interleave(len(tokens))

            def call() -> Tensor:
                rest = {"input_ids": tokens[:, shared:], "past_key_values": once, "use_cache": True}
                found: Tensor = self._model(**rest, attention_mask=real.long()).logits
                return found

            return picked(self._model.get_output_embeddings(), rows, places - shared, call)

    def write(self, prompts: Sequence[Tokens], most: int, stops: Sequence[str]) -> list[str]:
        """Prompts of equal length together, so that there is no padding."""
        said = [""] * len(prompts)
        for length in {len(prompt) for prompt in prompts}:
            places = [place for place, prompt in enumerate(prompts) if len(prompt) == length]
            for place, text in zip(
                places, self._write([prompts[p] for p in places], most, stops), strict=True
            ):
                said[place] = text
        return said

    @torch.no_grad()
    def _write(self, prompts: Sequence[Tokens], most: int, stops: Sequence[str]) -> list[str]:
        from transformers import GenerationConfig

        tokens, _ = self.padded(prompts)
        begun = tokens.shape[1]
        given = GenerationConfig(
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=self._ends,
            bos_token_id=self._start,
        )

        def is_over(ids: Tensor, *_: Any, **__: Any) -> Tensor:
            texts = [self._text(row, begun) for row in ids]
            return torch.tensor([any(stop in text for stop in stops) for text in texts], device=ids.device)

        self._model.generation_config = given
        found = self._model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            generation_config=given,
            stopping_criteria=[is_over] if stops else None,
        )
        return [_before(self._text(row, begun), stops) for row in found]

    def _text(self, row: Tensor, begun: int) -> str:
        """What was written after the first ``begun`` tokens, before a token that ends texts."""
        tokens = row[begun:].tolist()
        ends = self._ends if isinstance(self._ends, list) else [self._ends]
        end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        stream = self.inputs.stream(row[:begun].tolist())
        return "".join(map(stream.add, tokens[:end])) + stream.end()


def _before(text: str, stops: Sequence[str]) -> str:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
