"""The classifier: inputs of both kinds, padding, normalization, orders, and seeds."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from layer_kinds import SMALL
from torch import Tensor

from compressm_cli.data.interface import DataSpec
from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.models import SequenceModel, build_model

CLASSES = 4
FEATURES = DataSpec(classes=CLASSES, length=20, features=2, vocabulary=None, per_step=False)
TOKENS = DataSpec(classes=CLASSES, length=20, features=None, vocabulary=11, per_step=False)
PER_STEP = DataSpec(classes=CLASSES, length=20, features=None, vocabulary=11, per_step=True)


def model_config(kind: str = "lru", norm: str = "layer", dropout: float = 0.0, depth: int = 2) -> Any:
    layer = LAYERS[kind].Config(kind=kind, state_dim=5, **SMALL.get(kind, {}))
    return SimpleNamespace(
        kind="sequence",
        reads="sequences",
        layer=layer,
        model_dim=6,
        depth=depth,
        dropout=dropout,
        norm=norm,
        norm_epsilon=1e-5,
        final_norm=False,
        tie_embeddings=False,
        state_dims=lambda: [5] * depth,
    )


def build(data: Any = FEATURES, seed: int = 0, **options: Any) -> SequenceModel:
    orders = options.pop("orders", None)
    torch.manual_seed(seed)
    return build_model(model_config(**options), data, orders)


def sequences(rows: int = 3, length: int = 20) -> Tensor:
    return torch.randn(rows, length, 2, generator=torch.Generator().manual_seed(1))


def tokens(rows: int = 3, length: int = 20) -> Tensor:
    return torch.randint(1, 11, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
def test_logits_of_features_and_gradients_of_all_parameters(kind: str, norm: str) -> None:
    model = build(kind=kind, norm=norm)
    logits = model(sequences())
    assert logits.shape == (3, CLASSES)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


def test_logits_of_tokens() -> None:
    assert build(TOKENS)(tokens()).shape == (3, CLASSES)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("norm", ["layer", "none"])
def test_padding_changes_nothing(kind: str, norm: str) -> None:
    model, lengths = build(kind=kind, norm=norm), torch.tensor([20, 7, 1])
    padded = sequences()
    for row, n in enumerate(lengths.tolist()):
        padded[row, n:] = 100.0 * (row + 1)
    expected = torch.cat([model(padded[[i], :n]) for i, n in enumerate(lengths.tolist())])
    torch.testing.assert_close(model(padded, lengths), expected, rtol=1e-4, atol=1e-5)


def test_padding_of_tokens_changes_nothing() -> None:
    model, lengths, padded = build(TOKENS), torch.tensor([20, 7, 1]), tokens()
    for row, n in enumerate(lengths.tolist()):
        padded[row, n:] = 0
    expected = torch.cat([model(padded[[i], :n]) for i, n in enumerate(lengths.tolist())])
    torch.testing.assert_close(model(padded, lengths), expected, rtol=1e-4, atol=1e-5)


def outcome(model: SequenceModel, padded: Tensor, lengths: Tensor) -> list[Tensor]:
    """Logits, of the real steps where each has some, gradients of all parameters, and buffers after the pass."""
    logits = model(padded, lengths)
    if model.per_step:
        logits = logits[torch.arange(padded.shape[1]) < lengths[:, None]]
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=logits.dtype)
    names = [name for name, _ in model.named_parameters()]
    gradients = torch.autograd.grad((logits * weights).sum(), [model.get_parameter(name) for name in names])
    return [logits.detach(), *gradients, *(b.double() for b in model.buffers())]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("data", [FEATURES, TOKENS, PER_STEP], ids=["features", "tokens", "per step"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("norm", ["layer", "rms", "batch", "none"])
def test_how_much_is_padded_changes_neither_outputs_nor_gradients(
    kind: str, norm: str, data: Any, training: bool
) -> None:
    lengths, found = torch.tensor([20, 7, 1]), []
    for more in (0, 1, 100):
        model = build(data, kind=kind, norm=norm).double().train(training)
        inputs = sequences().double() if data is FEATURES else tokens()
        padded = torch.zeros(3, 20 + more, *inputs.shape[2:], dtype=inputs.dtype)
        for row, n in enumerate(lengths.tolist()):
            padded[row, :n] = inputs[row, :n]
            if data is FEATURES:
                padded[row, n:] = 100.0 * (row + 1)
        found.append(outcome(model, padded, lengths))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_full_lengths_are_as_none(norm: str) -> None:
    model, x = build(norm=norm), sequences()
    torch.testing.assert_close(model(x, torch.full((3,), 20)), model(x))


def test_full_lengths_are_as_none_in_bfloat16() -> None:
    """A length of 1005 is none in bfloat16."""
    model, x = build(norm="none").eval(), sequences(length=1005)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(x, torch.full((3,), 1005)), model(x))


def test_batch_normalization_has_statistics_over_rows_and_steps_and_no_affine_parameters() -> None:
    model = build(norm="batch")
    assert not any("norm" in name for name, _ in model.named_parameters())
    x = torch.randn(5, 30, 6) * 3 + 2
    y = model.blocks[0].norm(x)
    torch.testing.assert_close(y.mean((0, 1)), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var((0, 1), unbiased=False), torch.ones(6), rtol=1e-3, atol=0)
    model.eval()
    first = model(sequences())
    torch.testing.assert_close(model(sequences()[:1]), first[:1], rtol=1e-5, atol=1e-6)


def test_orders_go_before_the_recipes_state_dimension() -> None:
    model = build(orders={"blocks.1.layer": 2})
    assert {name: layer.state_dim for name, layer in state_space_layers(model).items()} == {
        "blocks.0.layer": 5,
        "blocks.1.layer": 2,
    }


@pytest.mark.parametrize("kind", LAYERS)
def test_weights_are_determined_by_the_seed(kind: str) -> None:
    first, again, other = (build(kind=kind, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_dropout_is_off_in_evaluation() -> None:
    model, x = build(dropout=0.5), sequences()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
