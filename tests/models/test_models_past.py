"""Language models of transformers step by step: what their caches give is what the whole sequence gives."""

from typing import Any

import pytest
import torch
from strangers import STRANGERS, VOCABULARY

from compressm_cli.data.interface import DataSpec
from compressm_cli.models import External

pytest.importorskip("transformers")
SPEC = DataSpec(classes=VOCABULARY, length=12, vocabulary=VOCABULARY, per_step=True)
TOKENS = torch.randint(3, VOCABULARY, (3, 12), generator=torch.Generator().manual_seed(1))


def made(name: str) -> Any:
    return External.of(STRANGERS[name].build(), SPEC).eval()


@torch.no_grad()
def whole(model: Any, row: int, length: int) -> torch.Tensor:
    """Scores after so many tokens of one row alone."""
    found: torch.Tensor = model(TOKENS[row : row + 1, :length])[0, -1]
    return found


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "opt"])
def test_prompts_of_unequal_length_go_on_as_each_alone(name: str) -> None:
    model = made(name)
    assert model.step_obstacle is None
    lengths = torch.tensor([7, 2, 7])
    said, state = model.prefill(TOKENS[:, :7], lengths)
    for more in range(4):
        for row, length in enumerate(lengths.tolist()):
            torch.testing.assert_close(said[row], whole(model, row, length + more), atol=1e-5, rtol=1e-4)
        said, state = model.step(TOKENS[torch.arange(3), lengths + more], state)


def test_a_state_is_used_once_copied_picked_and_measured() -> None:
    model = made("llama")
    _, state = model.prefill(TOKENS[:, :5])
    # Keys and values of two groups of 8 dimensions, in two layers.
    assert state.nbytes == 3 * 5 * 2 * 2 * 16 * 4
    assert model.initial_state(3).nbytes == 0
    twin, picked = state.clone(), state.rows(torch.tensor([2, 0, 2]))
    said, _ = model.step(TOKENS[:, 5], state)
    assert torch.equal(model.step(TOKENS[:, 5], twin)[0], said)
    torch.testing.assert_close(model.step(TOKENS[[2, 0, 2], 5], picked)[0], said[[2, 0, 2]])
    with pytest.raises(ValueError, match="this state is used up"):
        model.step(TOKENS[:, 5], state)
    with pytest.raises(ValueError, match="is of 3 rows, not 2"):
        model.step(TOKENS[:2, 5], model.initial_state(3))
    with pytest.raises(ValueError, match="call eval"):
        model.train().prefill(TOKENS)


def test_a_cache_that_is_another_or_lies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "takes no past_key_values and use_cache" in str(made("mamba2").step_obstacle)
    model = made("llama")
    monkeypatch.setattr("transformers.DynamicCache.get_seq_length", lambda *_, **__: 0)
    assert "does not say step by step what it says of the whole sequence" in str(model.step_obstacle)
    with pytest.raises(ValueError, match="does not say step by step"):
        model.initial_state(1)
