"""What texts have in common at their beginning is computed once, and what is said of them is the same."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from asked_models import save_llama

from compressm_cli.integrations import shared_prefix
from compressm_cli.integrations.likelihoods import Likelihood, log_likelihoods
from compressm_cli.integrations.opening import open_language_model
from compressm_cli.integrations.shared_prefix import groups

Pairs = list[tuple[list[int], list[int]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny Llama in double precision."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    save_llama(folder)
    found: Any = open_language_model(folder, device="cpu")
    found._model.double()
    return found


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_prefix, "LEAST", 4)


def questions() -> Pairs:
    """Of four answers each, of other lengths, some of which begin alike; and texts that nothing is shared of."""
    draw, pairs = random.Random(1), Pairs()
    for length in (6, 9, 12):
        context = [draw.randrange(1, 257) for _ in range(length)]
        pairs += [(context, [draw.randrange(1, 257) for _ in range(n)]) for n in (2, 4, 4, 5)]
        pairs += [(context, [7, 8, n]) for n in (1, 2)]
    pairs += [([5], [6, 7]), ([draw.randrange(1, 257) for _ in range(20)], [1, 2])]
    draw.shuffle(pairs)
    return pairs


def asked(model: Any, batch_size: int, shares: bool) -> tuple[list[Likelihood], int]:
    """What the model says, and how many tokens it went through."""
    seen: list[int] = []

    def count(_: Any, given: Any, named: Any) -> None:
        seen.append((named["input_ids"] if "input_ids" in named else given[0]).numel())

    model._shares, model._is_confirmed = shares, False
    handle = model._model.base_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        return log_likelihoods(model, questions(), batch_size), sum(seen)
    finally:
        handle.remove()


@pytest.mark.parametrize("batch_size", [1, 3, 4, 100])
def test_likelihoods_are_the_same(model: Any, batch_size: int) -> None:
    wanted, whole = asked(model, batch_size, shares=False)
    found, fewer = asked(model, batch_size, shares=True)
    assert [one.value for one in found] == pytest.approx([one.value for one in wanted], rel=1e-9)
    assert [one.is_greedy for one in found] == [one.is_greedy for one in wanted]
    assert model._is_confirmed == (batch_size > 1)
    # The first questions are gone through in both ways.
    assert fewer < whole or batch_size < 4


def test_a_network_that_remembers_wrongly_is_asked_without(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, _ = asked(model, 4, shares=False)
    plain = model._after
    monkeypatch.setattr(model, "_after", lambda *asked: plain(*asked) + 1.0)
    found, _ = asked(model, 4, shares=True)
    assert found == wanted
    assert not model._shares

    def fails(*_: Any) -> torch.Tensor:
        raise NotImplementedError("no beginning is remembered")

    monkeypatch.setattr(model, "_after", fails)
    assert asked(model, 4, shares=True)[0] == wanted
    assert not model._shares


def grouped(rows: list[list[int]], places: list[tuple[int, int]]) -> list[tuple[range, int]]:
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    of, at = (torch.tensor([pair[i] for pair in places]) for i in (0, 1))
    return list(groups(tokens, torch.tensor([len(row) for row in rows]), at, of))


def test_rows_that_begin_alike_are_one_group() -> None:
    one, other = [1, 2, 3, 4, 5], [9, 8, 7, 6, 5]
    rows = [[*one, 6], [*one, 7, 8], [*other, 1], [*other, 2], other[:3]]
    ends = [(row, len(rows[row]) - 1) for row in range(5)]
    assert grouped(rows, ends) == [(range(2), 5), (range(2, 4), 5), (range(4, 5), 0)]
    # No more is shared than lies before what is asked, and a token is left of each row.
    assert grouped(rows, [*ends, (1, 4)]) == [(range(2), 4), (range(2, 4), 5), (range(4, 5), 0)]
    assert grouped([one, one], [(0, 4), (1, 4)]) == [(range(2), 4)]
    assert grouped([one, one], [(0, 2), (1, 4)]) == [(range(1), 0), (range(1, 2), 0)]
    # What is common is short for the row.
    assert grouped([[*one, *range(20, 40)], [*one, 3]], [(0, 24), (1, 5)]) == [
        (range(1), 0),
        (range(1, 2), 0),
    ]


def test_rows_of_a_folder_stay_as_they_were(tmp_path: Path) -> None:
    """In single precision, as it is asked."""
    save_llama(tmp_path / "llama")
    one: Any = open_language_model(tmp_path / "llama", device="cpu")
    wanted, found = (asked(one, 8, shares)[0] for shares in (False, True))
    assert [a.value for a in found] == pytest.approx([a.value for a in wanted], rel=1e-5)
