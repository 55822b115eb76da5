"""Models one time step at a time give what they give for whole sequences."""

import copy
from typing import Any

import pytest
import torch
from test_models_sequence import FEATURES, PER_STEP, TOKENS, build, sequences, tokens
from torch import Tensor

from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.models import SequenceModel

BUILT_IN = ["lru", "s4d", "s5", "mamba", "mamba2", "gla"]
LENGTHS = torch.tensor([1, 20, 3])
DATA = {"features": FEATURES, "tokens": TOKENS, "per_step": PER_STEP}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


def evaluated(data: str, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[SequenceModel, Tensor]:
    """A model in evaluation mode whose batch normalization has seen something, and inputs (3, 20, ...)."""
    inputs = sequences() if data == "features" else tokens()
    model = build(DATA[data], **options)
    model(inputs)
    return model.eval().to(dtype), inputs.to(dtype) if data == "features" else inputs


def expected(model: SequenceModel, inputs: Tensor) -> Tensor:
    """The scores after each step, (batch, length, classes)."""
    with torch.no_grad():
        if model.per_step:
            return model(inputs)
        return torch.stack([model(inputs[:, : t + 1]) for t in range(inputs.shape[1])], dim=1)


def close(found: Tensor, wanted: Tensor) -> None:
    bound = TOLERANCES[wanted.dtype]
    torch.testing.assert_close(found, wanted, rtol=bound, atol=bound * float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("kind", BUILT_IN)
def test_steps_and_steps_after_unequal_prompts(kind: str, data: str, dtype: torch.dtype) -> None:
    model, inputs = evaluated(data, dtype, kind=kind, norm="batch", dropout=0.1)
    wanted = expected(model, inputs)
    state = model.initial_state(3)
    for t in range(20):
        scores, state = model.step(inputs[:, t], state)
        close(scores, wanted[:, t])
    found, state = model.prefill(inputs, LENGTHS)
    close(found, wanted[torch.arange(3), LENGTHS - 1])
    # The next steps of the rows that have some.
    rows = torch.tensor([0, 2])
    state = state.rows(rows)
    for t in range(17):
        found, state = model.step(inputs[rows, LENGTHS[rows] + t], state)
        close(found, wanted[rows, LENGTHS[rows] + t])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("data", ["features", "tokens"])
@pytest.mark.parametrize("kind", BUILT_IN)
def test_a_model_all_in_half_precision(kind: str, data: str, dtype: torch.dtype) -> None:
    """Its recurrences are computed in float32: scores, gradients and steps are those of its weights, but rounded."""
    model, inputs = evaluated(data, dtype, kind=kind, norm="batch")
    exact = copy.deepcopy(model).float()
    given = inputs.float() if data == "features" else inputs
    scale = float(expected(exact, given).abs().max())

    def rounded(found: Tensor, wanted: Tensor) -> None:
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), wanted, rtol=0.03, atol=0.03 * scale)

    scores, wanted = model(inputs), exact(given)
    rounded(scores, wanted)
    (100 * scores.float().square().mean()).backward()  # in float16 small gradients are lost
    (100 * wanted.square().mean()).backward()
    for found, right in zip(model.parameters(), exact.parameters(), strict=True):
        assert found.grad is not None
        assert right.grad is not None
        error = (found.grad.float() - right.grad).norm() / right.grad.norm()
        assert float(error) < 0.15
    found, state = model.prefill(inputs[:, :9])
    right, exact_state = exact.prefill(given[:, :9])
    rounded(found, right)
    for t in range(9, 20):
        found, state = model.step(inputs[:, t], state)
        right, exact_state = exact.step(given[:, t], exact_state)
        rounded(found, right)


@pytest.mark.parametrize("data", DATA)
def test_a_removed_block_keeps_nothing_and_one_row_of_one_step_is_enough(data: str) -> None:
    model, inputs = evaluated(data, kind="mamba", depth=3)
    model.blocks[1].norm = model.blocks[1].layer = model.blocks[1].mix = None
    wanted = expected(model, inputs[:1])
    found, state = model.prefill(inputs[:1, :1])
    close(found, wanted[:, 0])
    for t in range(1, 5):
        found, state = model.step(inputs[:1, t], state)
        close(found, wanted[:, t])


def test_a_state_is_used_once_and_its_copies_go_on_apart() -> None:
    model, inputs = evaluated("tokens", kind="mamba2")
    wanted = expected(model, inputs)
    _, state = model.prefill(inputs[:, :7])
    copy = state.clone()
    model.step(inputs[:, 3], state)
    close(model.step(inputs[:, 7], copy)[0], wanted[:, 7])
    with pytest.raises(ValueError, match=r"used up.*clone\(\) it before"):
        model.step(inputs[:, 7], state)
    with pytest.raises(ValueError, match="used up"):
        _ = state.nbytes


def test_states_of_other_models_and_batches_are_refused() -> None:
    model, inputs = evaluated("tokens", kind="mamba")
    other, _ = evaluated("tokens", kind="mamba", depth=3)
    with pytest.raises(ValueError, match=r"of another model: it holds .*'blocks\.2'"):
        model.step(inputs[:, 0], other.initial_state(3))
    with pytest.raises(ValueError, match=r"does not fit .*'h': \(2, 1, 5, 16\).*'h': \(3, 1, 5, 16\)"):
        model.step(inputs[:, 0], model.initial_state(2))


@pytest.mark.parametrize(
    ("norm", "dropout", "refused"), [("batch", 0.0, True), ("layer", 0.1, True), ("layer", 0.0, False)]
)
def test_training_mode_is_refused_where_it_gives_other_scores(
    norm: str, dropout: float, refused: bool
) -> None:
    model, inputs = evaluated("per_step", kind="lru", norm=norm, dropout=dropout)
    state = model.initial_state(3)
    model.train()
    if not refused:
        close(model.step(inputs[:, 0], state)[0], expected(model, inputs)[:, 0])
        return
    for call in (
        lambda: model.step(inputs[:, 0], state),
        lambda: model.prefill(inputs),
        lambda: model.initial_state(3),
    ):
        with pytest.raises(ValueError, match=r"training mode.*call eval\(\)"):
            call()


@pytest.mark.parametrize(
    ("inputs", "lengths", "message"),
    [
        (tokens()[:, :0], None, "a length of 0"),
        (tokens()[0], None, r"tokens \(batch, length\), not \(20,\)"),
        (tokens(), [0, 1, 1], "from 1 to 20, not 0 to 1"),
        (tokens(), [1, 21, 1], "from 1 to 20, not 1 to 21"),
        (tokens(), [1, 1], "3 whole numbers"),
        (tokens(), [1.0, 1.0, 1.0], "3 whole numbers"),
    ],
)
def test_what_cannot_be_a_prompt_is_refused(inputs: Tensor, lengths: Any, message: str) -> None:
    model, _ = evaluated("tokens", kind="lru")
    with pytest.raises(ValueError, match=message):
        model.prefill(inputs, None if lengths is None else torch.tensor(lengths))


def test_inputs_of_a_step_have_no_axis_of_time() -> None:
    model, inputs = evaluated("features", kind="lru")
    with pytest.raises(ValueError, match=r"a step takes inputs \(batch, 2\), not \(3, 20, 2\)"):
        model.step(inputs, model.initial_state(3))


@pytest.mark.parametrize("name", ["blocks.1", "blocks.0.layer"])
def test_what_hooks_would_change_is_refused(name: str) -> None:
    model, inputs = evaluated("features", kind="lru")
    handle = model.get_submodule(name).register_forward_hook(lambda _module, _inputs, y: 2 * y)
    with pytest.raises(ValueError, match=rf"{name} has forward hooks, which a step would pass by"):
        model.prefill(inputs)
    handle.remove()
    close(model.prefill(inputs)[0], expected(model, inputs)[:, -1])


def test_a_layer_that_cannot_be_stepped_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = evaluated("features", kind="lru")
    layer = type(model.blocks[0].layer)
    monkeypatch.setattr(layer, "step", StateSpaceLayer.step)
    for call in (lambda: model.initial_state(3), lambda: model.prefill(inputs)):
        with pytest.raises(ValueError, match=r"blocks\.0\.layer, of the kind LRU, has no step by step form"):
            call()
