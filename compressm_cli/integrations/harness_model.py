"""A language model as lm-evaluation-harness asks one. It takes seconds to import: only where it is asked."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from lm_eval.api.model import TemplateLM

from compressm_cli.core.errors import BadInputError
from compressm_cli.integrations.language_model import LanguageModel
from compressm_cli.integrations.likelihoods import Progress, log_likelihoods, rolling_windows

MOST_TOKENS = 256
"""That an answer has where a task says nothing, as in the harness."""


class HarnessModel(TemplateLM):
    """The harness's interface of a model; what is asked is answered in order, whatever is computed first."""

    def __init__(self, model: LanguageModel, batch_size: int, progress: Progress | None = None) -> None:
        super().__init__()
        self._model, self._batch_size, self._progress = model, batch_size, progress
        self.truncated: set[tuple[Any, ...]] = set()
        """The arguments of requests of which the model did not see the beginning."""
        self._encode = lru_cache(maxsize=4)(model.encode)

    @property
    def eot_token_id(self) -> int:
        if (prefix := self._model.prefix()) is None:
            raise BadInputError(
                f"{self._model.name}: a task asks for a text without a context, and it is not known which token begins "
                "texts of this model, which reads numbers"
            )
        return prefix

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Without special tokens. A context is asked for once for each answer, one after the other."""
        return self._encode(string)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return super().loglikelihood(list(requests), disable_tqdm=True)

    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        pairs = [(context or [self.eot_token_id], answer) for _, context, answer in requests]
        found = log_likelihoods(self._model, pairs, self._batch_size, self._progress)
        for (texts, _, _), one in zip(requests, found, strict=True):
            if one.is_truncated:
                self.truncated.add(tuple(texts))
        return [(one.value, one.is_greedy) for one in found]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        model = self._model
        texts = [
            list(rolling_windows(model.encode(request.args[0]), self.eot_token_id, model.context))
            for request in requests
        ]
        windows = [window for text in texts for window in text]
        found = iter(log_likelihoods(model, windows, self._batch_size, self._progress))
        return [sum(next(found).value for _ in text) for text in texts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """Greedily, longest contexts first; those that end alike, together."""
        asked = [self._written(*request.args[:2]) for request in requests]
        order = sorted(range(len(asked)), key=lambda n: (asked[n][1:], -len(asked[n][0])))
        said = [""] * len(asked)
        while order:
            _, most, stops = asked[order[0]]
            batch = [n for n in order[: self._batch_size] if asked[n][1:] == (most, stops)]
            order = order[len(batch) :]
            texts = self._model.write([asked[n][0] for n in batch], most, stops)
            for number, text in zip(batch, texts, strict=True):
                said[number] = text
            if self._progress is not None:
                self._progress(len(asked) - len(order), len(asked))
        return said

    def _written(self, context: str, settings: dict[str, Any]) -> tuple[list[int], int, tuple[str, ...]]:
        """Tokens of a context, as many as leave room for the answer, how many that may have, and what ends it."""
        if settings.get("do_sample") or settings.get("temperature"):
            raise BadInputError(
                "a task asks for answers that are drawn (do_sample, temperature); answers are the most probable ones "
                "here: set do_sample: false and temperature: 0 in its generation_kwargs"
            )
        stops = settings.get("until") or []
        most = next((settings[k] for k in ("max_gen_toks", "max_new_tokens") if k in settings), MOST_TOKENS)
        room = self._model.context - int(most)
        if room < 1:
            raise BadInputError(
                f"a task asks for up to {most} tokens, and {self._model.name} sees {self._model.context} at once; "
                "write a smaller max_gen_toks in its generation_kwargs, or give a larger --context"
            )
        tokens = self._model.encode(context) or [self.eot_token_id]
        if len(tokens) > room:
            self.truncated.add((context,))
        return tokens[-room:], int(most), tuple([stops] if isinstance(stops, str) else stops)
