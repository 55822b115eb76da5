"""Decoders: other libraries' networks on the same weights, step by step, hybrids, cuts, what recipes may say."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cut_units import EXACT, assert_cut_is_silence, numbers, randomized, removals
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_kinds import SMALL
from pydantic import ValidationError
from torch import Tensor, nn

from compressm_cli.checkpoint.skeleton import skeleton, start_sizes
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec
from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import parameter_roles
from compressm_cli.models import build_model
from compressm_cli.models.decoder import Decoder, DecoderConfig
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.modules import Insert
from compressm_cli.structure.surgery import apply_edits

VOCABULARY, LENGTH = 13, 12
LANGUAGE = DataSpec(classes=VOCABULARY, length=LENGTH, vocabulary=VOCABULARY, per_step=True)
FEATURES = DataSpec(classes=4, length=LENGTH, features=2)
CLASSES = DataSpec(classes=4, length=LENGTH, vocabulary=VOCABULARY)
DATA = {"language": LANGUAGE, "features": FEATURES, "classes": CLASSES}

KINDS: dict[str, dict[str, Any]] = {
    "llama": {
        "layers": [{"kind": "attention", "heads": 4, "kv_heads": 2}],
        "model_dim": 16,
        "tie_embeddings": True,
    },
    "gpt2": {
        "layers": [{"kind": "attention", "heads": 2}],
        "feed_forward": "gelu_tanh",
        "norm": "layer",
        "positions": "learned",
        "bias": True,
        "dropout": 0.1,
    },
    "attention alone": {"layers": [{"kind": "attention", "heads": 2, "head_dim": 6}], "feed_forward": "none"},
    "hybrid": {
        "layers": [
            {"kind": "mamba2", "state_dim": 6, **SMALL["mamba2"]},
            {"kind": "attention", "heads": 2},
            {"kind": "lru", "state_dim": 5},
        ],
        "feed_forward": "gelu",
        "depth": 4,
    },
}


def config_of(kind: str, **changes: Any) -> DecoderConfig:
    return DecoderConfig.model_validate({"model_dim": 8, "depth": 2, **KINDS[kind], **changes})


def build(kind: str, data: DataSpec = LANGUAGE, **changes: Any) -> Decoder:
    torch.manual_seed(0)
    if data is not LANGUAGE and KINDS[kind].get("tie_embeddings"):
        changes["tie_embeddings"] = False
    model = build_model(config_of(kind, **changes), data)
    assert isinstance(model, Decoder)
    return model


def inputs_of(data: DataSpec, rows: int = 3, length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if data.features is not None:
        return torch.randn(rows, length, data.features, generator=generator, dtype=torch.float64)
    return torch.randint(0, VOCABULARY, (rows, length), generator=generator)


class Rotary(nn.Module):
    """Llama's, which theirs computes in float32 whatever the model is in."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        head_dim = 4
        frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
        angles = (position_ids[..., None] * frequencies).repeat(1, 1, 2)
        return angles.cos(), angles.sin()


def llama(model: Decoder) -> nn.Module:
    """transformers' Llama with the weights of ours; in float64 also where theirs goes to float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    attention, gated = model.blocks[0].mixer.inner, model.blocks[0].feed_forward.inner
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=gated.up.out_features,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    assert attention.rope == (10000.0, 2)
    theirs = LlamaForCausalLM(config).to(torch.float64).eval()
    pairs = {
        "mixer.norm": "input_layernorm",
        "mixer.inner.": "self_attn.",
        "feed_forward.norm": "post_attention_layernorm",
        "feed_forward.inner.": "mlp.",
    }
    state = {"model.embed_tokens.weight": model.encoder.weight, "model.norm.weight": model.norm.weight}
    state["lm_head.weight"] = model.head.weight
    for i, block in enumerate(model.blocks):
        for name, value in block.state_dict().items():
            leaf = name.rpartition(".")[2]
            if leaf in ("groups", "pairs"):
                continue
            for ours, other in pairs.items():
                if name.startswith(ours):
                    short = name.removeprefix(ours)
                    short = short.replace(".weight", "_proj.weight") if ours.endswith(".") else short
                    state[f"model.layers.{i}.{other}{short}"] = value
    theirs.load_state_dict(state, strict=True)
    theirs.model.rotary_emb = Rotary()
    for name, module in list(theirs.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            norm = nn.RMSNorm(16, eps=1e-5, dtype=torch.float64)
            norm.load_state_dict(module.state_dict())
            place, _, leaf = name.rpartition(".")
            setattr(theirs.get_submodule(place), leaf, norm)
    return theirs


def gpt2(model: Decoder) -> nn.Module:
    """transformers' GPT-2 with the weights of ours; its maps are transposed, and q, k and v are one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=LENGTH,
        n_embd=8,
        n_layer=len(model.blocks),
        n_head=2,
        n_inner=32,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    theirs = GPT2LMHeadModel(config).to(torch.float64).eval()
    with torch.no_grad():
        theirs.transformer.wte.weight.copy_(model.encoder.inner.weight)
        theirs.transformer.wpe.weight.copy_(model.encoder.positions.weight)
        theirs.transformer.ln_f.load_state_dict(model.norm.state_dict())
        theirs.lm_head.weight.copy_(model.head.weight)
        for block, other in zip(model.blocks, theirs.transformer.h, strict=True):
            attention, feed_forward = block.mixer.inner, block.feed_forward.inner
            other.ln_1.load_state_dict(block.mixer.norm.state_dict())
            other.ln_2.load_state_dict(block.feed_forward.norm.state_dict())
            fused = (attention.q, attention.k, attention.v)
            other.attn.c_attn.weight.copy_(torch.cat([m.weight.T for m in fused], dim=1))
            other.attn.c_attn.bias.copy_(torch.cat([m.bias for m in fused]))
            for linear, conv in (
                (attention.o, other.attn.c_proj),
                (feed_forward.up, other.mlp.c_fc),
                (feed_forward.down, other.mlp.c_proj),
            ):
                conv.weight.copy_(linear.weight.T)
                conv.bias.copy_(linear.bias)
    return theirs


@pytest.mark.parametrize(("kind", "theirs"), [("llama", llama), ("gpt2", gpt2)])
def test_outputs_and_gradients_are_those_of_transformers(kind: str, theirs: Any) -> None:
    model = randomized(build(kind)).eval()
    other, tokens = theirs(model), inputs_of(LANGUAGE)
    wanted = other(tokens).logits
    found = model(tokens)
    torch.testing.assert_close(found, wanted, **EXACT)
    weights = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(3))
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    block = model.blocks[1]
    if kind == "llama":
        layer = other.model.layers[1]
        pairs = [
            (model.encoder.weight, other.model.embed_tokens.weight.grad),
            (block.mixer.inner.q.weight, layer.self_attn.q_proj.weight.grad),
            (block.mixer.inner.k.weight, layer.self_attn.k_proj.weight.grad),
            (block.mixer.inner.o.weight, layer.self_attn.o_proj.weight.grad),
            (block.mixer.norm.weight, layer.input_layernorm.weight.grad),
            (block.feed_forward.inner.gate.weight, layer.mlp.gate_proj.weight.grad),
        ]
    else:
        layer = other.transformer.h[1]
        pairs = [
            (model.encoder.positions.weight, other.transformer.wpe.weight.grad),
            (block.mixer.inner.q.weight, layer.attn.c_attn.weight.grad[:, :8].T),
            (block.mixer.inner.v.bias, layer.attn.c_attn.bias.grad[16:]),
            (block.feed_forward.inner.up.weight, layer.mlp.c_fc.weight.grad.T),
            (block.feed_forward.norm.bias, layer.ln_2.bias.grad),
        ]
    for ours, gradient in pairs:
        torch.testing.assert_close(ours.grad, gradient, **EXACT)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_and_steps_after_unequal_prompts(kind: str, data: str) -> None:
    model, inputs = build(kind, DATA[data]).double().eval(), inputs_of(DATA[data])
    with torch.no_grad():
        if model.per_step:
            wanted = model(inputs)
        else:
            wanted = torch.stack([model(inputs[:, : t + 1]) for t in range(LENGTH)], dim=1)
    state = model.initial_state(3)
    for t in range(LENGTH):
        scores, state = model.step(inputs[:, t], state)
        torch.testing.assert_close(scores, wanted[:, t], **EXACT)
    lengths = torch.tensor([5, 1, 9])
    scores, state = model.prefill(inputs, lengths)
    torch.testing.assert_close(scores, wanted[torch.arange(3), lengths - 1], **EXACT)
    for t in range(3):
        at = lengths + t
        scores, state = model.step(inputs[torch.arange(3), at], state)
        torch.testing.assert_close(scores, wanted[torch.arange(3), at], **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_later_and_padding_change_nothing(kind: str) -> None:
    model, tokens = build(kind, CLASSES).double().eval(), inputs_of(CLASSES)
    lengths = torch.tensor([LENGTH, 5, 1])
    wanted = torch.cat([model(tokens[[i], :n]) for i, n in enumerate(lengths.tolist())])
    torch.testing.assert_close(model(tokens, lengths), wanted, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_a_cut_is_the_same_as_silence(kind: str, data: Any) -> None:
    model = randomized(build(kind, FEATURES, dropout=0.0))
    inputs = numbers(2, LENGTH, 2)
    removed = {n: units for n, units in data.draw(removals(model)).items() if not n.endswith(":states")}
    assert_cut_is_silence(model, removed, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoints_shapes_follow_from_the_sizes_after_cuts(kind: str) -> None:
    config, model = config_of(kind), build(kind)
    assert start_sizes(config, LANGUAGE) == StructureMap.of(model).sizes()
    cuts = {n: axis.size - axis.multiple_of for n, axis in StructureMap.of(model).items() if axis.slots}
    cuts = {n: size for n, size in cuts.items() if size >= 1 and not n.endswith(":states")}
    for name, size in cuts.items():
        apply_edits(model, None, [Keep(name, range(size))])
    apply_edits(model, None, [Keep("blocks.1.mixer:sublayer", [])])
    sizes = StructureMap.of(model).sizes()
    assert sizes["blocks.1.mixer:sublayer"] == 0
    assert any(sizes.get(name) == size for name, size in cuts.items())
    shapes = {name: t.shape for name, t in model.state_dict().items()}
    found = skeleton(SimpleNamespace(model=config), LANGUAGE, sizes, model.state_dict())  # type: ignore[arg-type]
    assert {n: t.shape for n, t in found.state_dict().items()} == shapes
    with torch.no_grad():
        assert model(inputs_of(LANGUAGE)).shape == (3, LENGTH, VOCABULARY)


def test_a_hybrid_has_its_layers_in_turn() -> None:
    model = build("hybrid")
    kinds = [type(getattr(b.mixer, "layer", None) or b.mixer.inner).__name__ for b in model.blocks]
    assert kinds == ["Mamba2", "Attention", "LRU", "Mamba2"]
    assert config_of("hybrid").state_dims() == [6, 5, 6]
    fewer = config_of("hybrid").with_state_dims([4, 3, 2])
    assert fewer.state_dims() == [4, 3, 2]
    assert len(fewer.blocks()) == 4
    with pytest.raises(ValueError, match="orders are given for 1 layers, and the recipe has 3"):
        config_of("hybrid").with_state_dims([4])


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_is_added_changes_nothing_at_first(kind: str) -> None:
    model = build(kind).double().eval()
    tokens = inputs_of(LANGUAGE)
    before = model(tokens).detach()
    apply_edits(model, None, [Insert("blocks", 1)])
    assert len(model.blocks) == len(config_of(kind).blocks()) + 1
    torch.testing.assert_close(model(tokens).detach(), before, **EXACT)


@pytest.mark.parametrize("layer", [*LAYERS, "attention"])
def test_every_layer_is_there_by_name(layer: str) -> None:
    config = DecoderConfig.model_validate({"layers": [layer], "model_dim": 64, "depth": 1})
    model = build_model(config, LANGUAGE)
    model(inputs_of(LANGUAGE)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    count = sum(p.numel() for p in model.parameters())
    assert 0 < config.least_parameters(2 * VOCABULARY) <= count


def test_embeddings_and_positions_do_not_decay() -> None:
    roles = parameter_roles(build("gpt2"))
    assert roles["encoder.inner.weight"] == roles["encoder.positions.weight"] == "other"
    assert roles["blocks.0.mixer.inner.q.weight"] == "matrix"


def test_longer_than_its_positions() -> None:
    with pytest.raises(
        BadInputError, match=r"model\.context is 5, and sequences have up to 12 steps; write 12 or more"
    ):
        build("gpt2", context=5)
    model = build("gpt2").eval()
    with pytest.raises(
        ValueError, match=r"has learned 12 positions \(model\.context\), and a sequence has 13 steps"
    ):
        model(inputs_of(LANGUAGE, length=13))
    _, state = model.prefill(inputs_of(LANGUAGE))
    with pytest.raises(ValueError, match="a sequence has 13 steps"):
        model.step(inputs_of(LANGUAGE)[:, 0], state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"layers": [{"kind": "attention", "heads": 3}]},
            r"layers\[0\]: heads \(3\) must divide model_dim \(8\)",
        ),
        (
            {"layers": [{"kind": "attention", "heads": 4, "kv_heads": 3}]},
            r"kv_heads \(3\) must divide heads \(4\)",
        ),
        ({"layers": [{"kind": "attention", "head_dim": 3}]}, "write an even head_dim"),
        ({"layers": [{"kind": "lru", "state_dim": [3, 4]}]}, "state_dim is one number here"),
        ({"context": 5}, "write positions: learned, or leave it out"),
        ({"feed_forward": "none", "neurons": 5}, "with feed_forward: none, leave them out"),
        ({"layers": []}, "at least 1 item"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DecoderConfig.model_validate({"model_dim": 8, **changes})
