"""What is drawn from: temperature, the k most probable tokens, the nucleus."""

import numpy as np
import pytest
import torch

from compressm_cli.engine.sampling import Sampling

LOGITS = torch.tensor([[2.0, 0.0, 1.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 5.0]])


def nucleus(logits: list[float], temperature: float, k: int | None, p: float | None) -> list[float]:
    """The same, token by token, in plain numbers."""
    weights = np.exp(np.array(logits) / temperature)
    order = sorted(range(len(weights)), key=lambda i: (-weights[i], i))[:k]
    shares = {i: weights[i] / sum(weights[j] for j in order) for i in order}
    kept, total = [], 0.0
    for i in order:
        if p is None or total < p:
            kept.append(i)
        total += shares[i]
    whole = sum(shares[i] for i in kept)
    return [shares[i] / whole if i in kept else 0.0 for i in range(len(logits))]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("k", [None, 1, 2, 9])
@pytest.mark.parametrize("p", [None, 0.3, 0.7, 1.0])
def test_what_is_drawn_from(temperature: float, k: int | None, p: float | None) -> None:
    found = Sampling(temperature, k, p).probabilities(LOGITS)
    wanted = [nucleus(row.tolist(), temperature, k, p) for row in LOGITS]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-15)


def test_no_temperature_takes_the_most_probable() -> None:
    assert Sampling(0.0).probabilities(LOGITS).argmax(-1).tolist() == [0, 4]
    draws = [Sampling(0.0).draw(LOGITS, [torch.Generator().manual_seed(i)] * 2).tolist() for i in range(20)]
    assert draws == [[0, 4]] * 20


@pytest.mark.parametrize("temperature", [5e-324, 1e-308, 1e-300])
def test_the_lowest_temperatures_take_the_most_probable(temperature: float) -> None:
    logits = torch.tensor([[-80.0, -30.0, -30.0, -torch.inf], [0.0, 7.0, 700.0, 1.0]])
    wanted = [[0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0]]
    assert Sampling(temperature).probabilities(logits).tolist() == wanted
    assert Sampling(temperature, top_k=1, top_p=0.5).probabilities(logits).argmax(-1).tolist() == [1, 2]


def test_draws_have_the_shares_that_they_are_drawn_from() -> None:
    sampling, rows = Sampling(1.5, top_k=4, top_p=0.9), 40_000
    shares = sampling.probabilities(LOGITS[:1])[0]
    draws, again = (
        sampling.draw(LOGITS[:1].expand(rows, -1), [torch.Generator().manual_seed(0)] * rows)
        for _ in range(2)
    )
    counts = torch.bincount(draws, minlength=5).double() / len(draws)
    assert bool((counts[shares == 0] == 0).all())
    np.testing.assert_allclose(counts.numpy(), shares.numpy(), atol=0.01)
    assert torch.equal(draws, again)


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_wrong_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
