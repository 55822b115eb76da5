"""Encoders: PyTorch's own layer on the same weights, padding, cuts, and what recipes may say."""

from typing import Any

import pytest
import torch
from cut_units import EXACT, assert_cut_is_silence, numbers, randomized, removals
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from compressm_cli.data.interface import DataSpec
from compressm_cli.models import build_model
from compressm_cli.models.encoder import Encoder, EncoderConfig
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.modules import Insert
from compressm_cli.structure.surgery import apply_edits

LENGTH, WIDTH = 9, 8
TOKENS = DataSpec(classes=4, length=LENGTH, vocabulary=13)
FEATURES = DataSpec(classes=4, length=LENGTH, features=2)
PAIRS = DataSpec(classes=4, length=LENGTH, vocabulary=13, separator=12)
LABELLED = DataSpec(classes=4, length=LENGTH, vocabulary=13, per_step=True)
LENGTHS = torch.tensor([LENGTH, 4, 1])
KINDS: dict[str, dict[str, Any]] = {
    "bert": {"feed_forward": "gelu", "norm": "layer", "positions": "learned", "bias": True, "heads": 2},
    "norms last": {
        "feed_forward": "gelu",
        "norm": "layer",
        "positions": "learned",
        "bias": True,
        "heads": 2,
        "norm_first": False,
    },
    "rotary": {"heads": 4, "kv_heads": 2},
    "without positions": {"heads": 2, "positions": "none", "feed_forward": "none"},
}


def build(kind: str, data: DataSpec = TOKENS, **changes: Any) -> Encoder:
    torch.manual_seed(0)
    config = EncoderConfig.model_validate({"model_dim": WIDTH, **KINDS[kind], **changes})
    model = build_model(config, data)
    assert isinstance(model, Encoder)
    return model


def tokens(rows: int = 3, length: int = LENGTH) -> Tensor:
    return torch.randint(1, 13, (rows, length), generator=torch.Generator().manual_seed(1))


def test_a_block_is_that_of_pytorch() -> None:
    model = randomized(build("bert", FEATURES, neurons=11, depth=1))
    block = model.blocks[0]
    theirs = nn.TransformerEncoderLayer(
        WIDTH, 2, 11, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    attention, feed_forward = block.mixer.inner, block.feed_forward.inner
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(
            torch.cat([m.weight for m in (attention.q, attention.k, attention.v)])
        )
        theirs.self_attn.in_proj_bias.copy_(
            torch.cat([m.bias for m in (attention.q, attention.k, attention.v)])
        )
        for ours, other in (
            (attention.o, theirs.self_attn.out_proj),
            (feed_forward.up, theirs.linear1),
            (feed_forward.down, theirs.linear2),
            (block.mixer.norm, theirs.norm1),
            (block.feed_forward.norm, theirs.norm2),
        ):
            other.load_state_dict(ours.state_dict())
    one, other = numbers(3, LENGTH, WIDTH), numbers(3, LENGTH, WIDTH)
    real = torch.arange(LENGTH) < LENGTHS[:, None]
    found, wanted = block(one, real)[real], theirs(other, src_key_padding_mask=~real)[real]
    torch.testing.assert_close(found, wanted, **EXACT)
    weights = numbers(*found.shape, seed=5).detach()
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, **EXACT)
    torch.testing.assert_close(feed_forward.up.weight.grad, theirs.linear1.weight.grad, **EXACT)
    torch.testing.assert_close(
        attention.v.weight.grad, theirs.self_attn.in_proj_weight.grad[-WIDTH:], **EXACT
    )


def pairs() -> tuple[Tensor, Tensor]:
    """Pairs of texts, and the lengths of the rows."""
    inputs = tokens() % 11 + 1
    inputs[:, 3], inputs[0, 3], inputs[0, 5], inputs[2, 0] = 12, 1, 12, 5
    return inputs, torch.tensor([LENGTH, 6, 4])


def bert(model: Encoder) -> nn.Module:
    """transformers' BERT with the weights of ours."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=13,
        hidden_size=WIDTH,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=2,
        intermediate_size=model.blocks[0].feed_forward.inner.up.out_features,
        hidden_act="gelu",
        max_position_embeddings=LENGTH,
        type_vocab_size=2,
        layer_norm_eps=1e-5,
        attn_implementation="sdpa",
    )
    theirs = BertModel(config, add_pooling_layer=False).to(torch.float64).eval()
    for ours, other in bert_pairs(model, theirs):
        other.load_state_dict(ours.state_dict())
    return theirs


def bert_pairs(model: Encoder, theirs: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Modules of ours and of theirs that have the same weights."""
    normalized, embeddings = model.encoder, theirs.embeddings
    segmented = normalized.inner
    found = [
        (segmented.inner.inner, embeddings.word_embeddings),
        (segmented.inner.positions, embeddings.position_embeddings),
        (segmented.segments, embeddings.token_type_embeddings),
        (normalized.norm, embeddings.LayerNorm),
    ]
    for block, layer in zip(model.blocks, theirs.encoder.layer, strict=True):
        attention, feed_forward = block.mixer.inner, block.feed_forward.inner
        found += [
            (attention.q, layer.attention.self.query),
            (attention.k, layer.attention.self.key),
            (attention.v, layer.attention.self.value),
            (attention.o, layer.attention.output.dense),
            (block.mixer.norm, layer.attention.output.LayerNorm),
            (feed_forward.up, layer.intermediate.dense),
            (feed_forward.down, layer.output.dense),
            (block.feed_forward.norm, layer.output.LayerNorm),
        ]
    return found


def test_norms_last_and_pairs_are_those_of_bert() -> None:
    model = randomized(build("norms last", PAIRS)).eval()
    theirs, (inputs, lengths) = bert(model), pairs()
    real = torch.arange(LENGTH) < lengths[:, None]
    second = torch.tensor([[0] * 6 + [1] * 3, [0] * 4 + [1] * 5, [0] * 4 + [1] * 5])
    wanted = theirs(inputs, attention_mask=real.long(), token_type_ids=second).last_hidden_state[real]
    found = model.norm(model.hidden(inputs, lengths, len(model.blocks)))[real]
    torch.testing.assert_close(found, wanted, **EXACT)
    weights = numbers(*found.shape, seed=5).detach()
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    for ours, other in bert_pairs(model, theirs):
        for (name, one), two in zip(ours.named_parameters(), other.parameters(), strict=True):
            assert one.grad is not None, name
            torch.testing.assert_close(one.grad, two.grad, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_texts_of_a_pair_are_told_apart(kind: str) -> None:
    model, (inputs, lengths) = randomized(build(kind, PAIRS)).eval(), pairs()
    before = model(inputs, lengths).detach()
    segments = next(m for m in model.modules() if hasattr(m, "segments")).segments.weight
    with torch.no_grad():
        segments.copy_(segments.flip(0))
    assert not torch.allclose(model(inputs, lengths), before)


def test_norms_last_let_no_block_be_added() -> None:
    with pytest.raises(ValueError, match="cannot begin by changing nothing; write norm_first: true"):
        build("norms last").build_block()
    assert isinstance(build("norms last").norm, nn.Identity)


@pytest.mark.parametrize("data", [TOKENS, LABELLED], ids=["classes", "a label a step"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_and_later_steps_do(kind: str, data: DataSpec) -> None:
    model, inputs = randomized(build(kind, data)).eval(), tokens()
    found = model(inputs, LENGTHS)
    for row, n in enumerate(LENGTHS.tolist()):
        alone = model(inputs[[row], :n])[0]
        torch.testing.assert_close(found[row, :n] if data.per_step else found[row], alone, **EXACT)
    if data.per_step:
        other = inputs.clone()
        other[0, -1] = inputs[0, -1] % 12 + 1
        assert not torch.allclose(model(other)[0, 0], model(inputs)[0, 0])


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_a_cut_is_the_same_as_silence(kind: str, data: Any) -> None:
    model = randomized(build(kind, FEATURES))
    inputs = numbers(3, LENGTH, 2)
    assert_cut_is_silence(model, data.draw(removals(model)), inputs, lambda m: m(inputs, LENGTHS))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "norms last"])
def test_sublayers_leave_and_blocks_are_added(kind: str) -> None:
    model, inputs = build(kind).double().eval(), tokens()
    before = model(inputs).detach()
    apply_edits(model, None, [Insert("blocks", 1)])
    torch.testing.assert_close(model(inputs).detach(), before, **EXACT)
    apply_edits(model, None, [Keep("blocks.1.mixer:sublayer", [])])
    torch.testing.assert_close(model(inputs).detach(), before, **EXACT)
    assert model.blocks[1].silent == (
        () if KINDS[kind].get("feed_forward") == "none" else model.blocks[1].silent
    )


def test_it_has_no_steps() -> None:
    assert build("rotary").step_obstacle == "blocks.0, of the kind EncoderBlock, has no step by step form"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"heads \(3\) must divide model_dim \(8\)"),
        ({"heads": 4, "kv_heads": 3}, r"kv_heads \(3\) must divide heads \(4\)"),
        ({"heads": 8}, "write an even head_dim"),
        ({"context": 5}, "write positions: learned"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EncoderConfig.model_validate({"model_dim": WIDTH, **changes})


def test_the_least_number_of_parameters() -> None:
    for kind, settings_of in KINDS.items():
        config = EncoderConfig.model_validate({"model_dim": WIDTH, **settings_of})
        assert 0 < config.least_parameters(13 + 4) <= sum(p.numel() for p in build(kind).parameters())
