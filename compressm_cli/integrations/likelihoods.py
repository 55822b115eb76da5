"""Log-likelihoods of texts after others, in batches; exact, however rows are batched and padded."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.integrations.language_model import LanguageModel, Tokens

Progress = Callable[[int, int], None]
"""Told how many of how many are done."""
PLACES_AT_ONCE = 256
"""Of which distributions over the vocabulary are held in float64."""


@dataclass(frozen=True)
class Likelihood:
    """How probable a continuation is after its context."""

    value: float
    """Logarithm of the probability, in nats."""
    is_greedy: bool
    """Whether each token is the most probable one."""
    is_truncated: bool
    """Whether the model did not see the beginning of the context."""


def log_likelihoods(
    model: LanguageModel,
    pairs: Sequence[tuple[Tokens, Tokens]],
    batch_size: int,
    progress: Progress | None = None,
) -> list[Likelihood]:
    """Of each pair of a context, of one token at least, and a continuation, in their order.

    What the model cannot see at once is cut from the left of the context. Pairs that differ in the last token alone
    are computed once; those with the same context stand together, the longest first. Raises BadInputError for a
    continuation that the model cannot see whole, and RunFailedError where it says no numbers.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for number, (context, continuation) in enumerate(pairs):
        rows.setdefault(_shown(model, context, continuation), []).append(number)
    contexts = {row: tuple(pairs[numbers[0]][0]) for row, numbers in rows.items()}
    longest: dict[tuple[int, ...], int] = {}
    for row, context in contexts.items():
        longest[context] = max(longest.get(context, 0), len(row))
    order = sorted(rows, key=lambda row: (-longest[contexts[row]], contexts[row], -len(row), row))
    found: dict[int, Likelihood] = {}
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        found |= _of_batch(model, batch, [rows[row] for row in batch], pairs)
        if progress is not None:
            progress(len(found), len(pairs))
    return [found[number] for number in range(len(pairs))]


def rolling_windows(tokens: Tokens, prefix: int, context: int) -> Iterator[tuple[Tokens, Tokens]]:
    """A long text as pairs of contexts and continuations, in which each token is a continuation once.

    Each window begins with the token before it, the first one with ``prefix``; the last one sees as much as the model
    can. These are the windows of lm-evaluation-harness.
    """
    for start in range(0, len(tokens), context):
        end = min(start + context, len(tokens))
        yield (tokens[max(end - context - 1, 0) : start] if start else [prefix]), tokens[start:end]


def _shown(model: LanguageModel, context: Tokens, continuation: Tokens) -> tuple[int, ...]:
    """What the model is shown: all but the last token, as much of the end as it sees at once."""
    if not continuation or not context:
        raise BadInputError(f"{model.name}: a text to be judged has no token; correct the task")
    if len(continuation) > model.context:
        raise BadInputError(
            f"{model.name}: an answer has {len(continuation)} tokens, and the model sees {model.context} at once; give "
            f"--context {len(continuation)} or more, if it can see so many"
        )
    return tuple([*context, *continuation][-model.context - 1 : -1])


def _of_batch(
    model: LanguageModel,
    batch: Sequence[tuple[int, ...]],
    members: Sequence[Sequence[int]],
    pairs: Sequence[tuple[Tokens, Tokens]],
) -> dict[int, Likelihood]:
    tokens, lengths = model.padded(batch)
    wanted = [max(len(pairs[number][1]) for number in numbers) for numbers in members]
    rows = [row for row, count in enumerate(wanted) for _ in range(count)]
    places = [len(batch[row]) - count + i for row, count in enumerate(wanted) for i in range(count)]
    logits = model.logits(
        tokens, lengths, torch.tensor(rows, device=model.device), torch.tensor(places, device=model.device)
    )
    # Of each scored place: row, place in what was picked, token, number of the pair.
    ends = [sum(wanted[: row + 1]) for row in range(len(batch))]
    scored = [
        (ends[row] - len(pairs[number][1]) + i, token, number)
        for row, numbers in enumerate(members)
        for number in numbers
        for i, token in enumerate(pairs[number][1])
    ]
    values, best = _of_places(logits, [place for place, _, _ in scored], [token for _, token, _ in scored])
    sums: dict[int, float] = {}
    greedy: dict[int, bool] = {}
    for (_, token, number), value, first in zip(scored, values, best, strict=True):
        sums[number] = sums.get(number, 0.0) + value
        greedy[number] = greedy.get(number, True) and token == first
    shown = {number: len(batch[row]) for row, numbers in enumerate(members) for number in numbers}
    return {
        number: Likelihood(sums[number], greedy[number], shown[number] < sum(map(len, pairs[number])) - 1)
        for number in sums
    }


def _of_places(logits: torch.Tensor, places: list[int], tokens: list[int]) -> tuple[list[float], list[int]]:
    """Logarithms of the probability of some tokens at some places, and the most probable token there."""
    values: list[float] = []
    best: list[int] = []
    for begin in range(0, len(places), PLACES_AT_ONCE):
        at = torch.tensor(places[begin : begin + PLACES_AT_ONCE], device=logits.device)
        token = torch.tensor(tokens[begin : begin + PLACES_AT_ONCE], device=logits.device)
        wide = logits[at].double().log_softmax(dim=-1)
        values += wide.gather(1, token[:, None])[:, 0].tolist()
        best += wide.argmax(dim=-1).tolist()
    if not all(map(math.isfinite, values)):
        raise RunFailedError("the model says numbers that are not finite; its weights are of no use")
    return values, best
