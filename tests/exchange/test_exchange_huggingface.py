"""Folders of transformers, both ways, against transformers' own models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exchange_models import (
    LAYERS,
    ORDER,
    VOCABULARY,
    assert_same,
    checkpoint,
    logits,
    randomized,
    reload_hf,
    tokens,
    unequal,
    with_maps,
    with_orders_by_channel,
)

from compressm_cli import exchange
from compressm_cli.core.errors import BadInputError

transformers = pytest.importorskip("transformers")
RELEASE = tuple(map(int, transformers.__version__.split(".")[:2]))

THEIRS: dict[str, dict[str, Any]] = {
    "mamba": {"model_type": "mamba"},
    "mamba-untied": {"model_type": "mamba", "tie_word_embeddings": False, "conv_kernel": 3, "expand": 3},
    "mamba-no-conv-bias": {"model_type": "mamba", "use_conv_bias": False, "time_step_rank": 5},
    "mamba2-1": {"model_type": "mamba2", "num_heads": 4, "head_dim": 8, "n_groups": 1},
    "mamba2-2": {"model_type": "mamba2", "num_heads": 4, "head_dim": 8, "n_groups": 2},
    "mamba2-tied": {
        "model_type": "mamba2",
        "num_heads": 2,
        "head_dim": 16,
        "n_groups": 1,
        "tie_word_embeddings": True,
    },
}
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "state_size": ORDER, "num_hidden_layers": 2}


UNUSABLE = {
    "mamba2-2": pytest.mark.skipif(RELEASE < (5, 23), reason="this transformers scales all groups together"),
    "mamba2-tied": pytest.mark.skipif(RELEASE < (5, 0), reason="this transformers cannot save it"),
}


def cases(names: Any) -> list[Any]:
    return [pytest.param(name, marks=UNUSABLE.get(name, ())) for name in names]


def theirs(name: str) -> Any:
    config = {**SIZES, **THEIRS[name]}
    kinds = {"mamba": ("MambaConfig", "MambaForCausalLM"), "mamba2": ("Mamba2Config", "Mamba2ForCausalLM")}
    config_class, model_class = (getattr(transformers, n) for n in kinds[config.pop("model_type")])
    torch.manual_seed(1)
    return randomized(model_class(config_class(**config)))


def run(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(inputs).logits


@pytest.mark.parametrize("name", cases(THEIRS))
def test_theirs_to_ours_and_back_says_the_same(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    expected = run(model, tokens())
    model.save_pretrained(tmp_path / "my model!")
    loaded = exchange.load(tmp_path / "my model!")
    assert loaded.recipe.name == "my-model-"
    assert set(loaded.orders.values()) == {ORDER}
    assert loaded.data.vocabulary == loaded.data.classes == VOCABULARY
    assert_same(logits(loaded, tokens()), expected)
    exchange.export(loaded, "hf", tmp_path / "back")
    assert_same(run(reload_hf(tmp_path / "back"), tokens()), expected)


@pytest.mark.parametrize("shards", [False, True])
def test_other_forms_of_the_weights(shards: bool, tmp_path: Path) -> None:
    model = theirs("mamba2-1")
    model.save_pretrained(tmp_path, max_shard_size="4KB" if shards else "1GB")
    assert (tmp_path / "model.safetensors.index.json").is_file() == shards
    if not shards:
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    loaded = exchange.load(tmp_path)
    assert_same(logits(loaded, tokens()), run(model, tokens()))


def test_half_precision_is_read_to_single(tmp_path: Path) -> None:
    model = theirs("mamba").bfloat16()
    model.save_pretrained(tmp_path)
    loaded = exchange.load(tmp_path)
    assert {t.dtype for t in loaded.weights.values()} == {torch.float32}
    expected = run(model.float(), tokens())
    assert_same(logits(loaded, tokens()), expected)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", cases(LAYERS))
def test_layers_of_different_order_are_padded_exactly(kind: str, tied: bool, tmp_path: Path) -> None:
    ours = checkpoint(LAYERS[kind], unequal, tied)
    assert list(ours.orders.values()) == [2, ORDER, 5]
    exchange.export(ours, "hf", tmp_path)
    model = reload_hf(tmp_path)
    assert model.config.state_size == ORDER
    assert_same(run(model, tokens()), logits(ours, tokens()))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("kind", "cut"),
    [(kind, cut) for kind in LAYERS for cut in (None, unequal, with_maps)]
    + [("mamba", with_orders_by_channel)],
)
def test_ragged_keeps_every_layer_as_it_is(kind: str, cut: Any, tied: bool, tmp_path: Path) -> None:
    ours = checkpoint(LAYERS[kind], cut, tied)
    exchange.export(ours, "hf-ragged", tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["state_sizes"] == list(ours.orders.values())
    model = reload_hf(tmp_path, trust_remote_code=True)
    assert_same(run(model, tokens()), logits(ours, tokens()))
    back = exchange.load(tmp_path)
    assert back.orders == ours.orders
    assert back.weights.keys() == ours.weights.keys()
    assert all(torch.equal(back.weights[name], value) for name, value in ours.weights.items())
    assert torch.equal(logits(back, tokens()), logits(ours, tokens()))


def test_ragged_holds_a_gated_norm_over_all_channels(tmp_path: Path) -> None:
    ours = checkpoint({**LAYERS["mamba2-2"], "norm_groups": 1}, unequal)
    with pytest.raises(BadInputError, match=r"norm_groups is 1.*2 groups.*hf-ragged"):
        exchange.export(ours, "hf", tmp_path)
    exchange.export(ours, "hf-ragged", tmp_path)
    model = reload_hf(tmp_path, trust_remote_code=True)
    assert_same(run(model, tokens()), logits(ours, tokens()))


def greedy(ours: Any, prompt: torch.Tensor, steps: int) -> torch.Tensor:
    """The most likely continuation by whole passes of our model."""
    for _ in range(steps):
        prompt = torch.cat([prompt, logits(ours, prompt)[:, -1:].argmax(-1)], dim=1)
    return prompt


@pytest.mark.parametrize("kind", cases(LAYERS))
@pytest.mark.parametrize(("target", "cut"), [("hf", unequal), ("hf-ragged", with_maps)])
def test_generation_is_the_argmax_of_whole_passes(kind: str, target: Any, cut: Any, tmp_path: Path) -> None:
    ours = checkpoint(LAYERS[kind], cut)
    exchange.export(ours, target, tmp_path)
    model = reload_hf(tmp_path, trust_remote_code=target == "hf-ragged")
    prompt = tokens(2, 5)
    expected = greedy(ours, prompt, 8)
    for use_cache in (True, False):
        said = model.generate(prompt, max_new_tokens=8, do_sample=False, use_cache=use_cache)
        assert torch.equal(said, expected)


@pytest.mark.parametrize("kind", LAYERS)
def test_ragged_generates_with_beams_masks_and_a_loss(kind: str, tmp_path: Path) -> None:
    ours = checkpoint(LAYERS[kind], with_maps)
    exchange.export(ours, "hf-ragged", tmp_path)
    model = reload_hf(tmp_path, trust_remote_code=True)
    prompt = tokens(2, 5)
    beams = [
        model.generate(prompt, max_new_tokens=6, num_beams=3, use_cache=cache) for cache in (True, False)
    ]
    assert torch.equal(*beams)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.int64), prompt], dim=1)
    mask = torch.cat([torch.zeros(2, 3, dtype=torch.int64), torch.ones_like(prompt)], dim=1)
    said = model.generate(padded, attention_mask=mask, max_new_tokens=6, do_sample=False)
    assert torch.equal(said[:, 3:], greedy(ours, prompt, 6))
    with torch.no_grad():
        loss = model(prompt, labels=prompt).loss
    expected = torch.nn.functional.cross_entropy(
        logits(ours, prompt)[:, :-1].flatten(0, 1), prompt[:, 1:].flatten()
    )
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("target", ["hf", "hf-ragged"])
def test_half_precision_is_written(target: Any, tmp_path: Path) -> None:
    ours = checkpoint(LAYERS["mamba"], unequal)
    exchange.export(ours, target, tmp_path, torch.bfloat16)
    model = reload_hf(tmp_path, trust_remote_code=target == "hf-ragged", dtype="auto")
    assert model.dtype == torch.bfloat16
    torch.testing.assert_close(run(model, tokens()).float(), logits(ours, tokens()), atol=0.2, rtol=0.2)


def test_ragged_saves_and_loads_again(tmp_path: Path) -> None:
    ours = checkpoint(LAYERS["mamba"], with_orders_by_channel)
    exchange.export(ours, "hf-ragged", tmp_path / "first")
    model = reload_hf(tmp_path / "first", trust_remote_code=True)
    model.save_pretrained(tmp_path / "second")
    again = reload_hf(tmp_path / "second", trust_remote_code=True)
    assert torch.equal(run(again, tokens()), run(model, tokens()))
    assert exchange.load(tmp_path / "second").orders == ours.orders
