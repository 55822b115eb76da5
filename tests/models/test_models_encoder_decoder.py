"""Translation: PyTorch's own Transformer on the same weights, padding on both sides, cuts, steps, what recipes say."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from cut_units import EXACT, assert_cut_is_silence, numbers, randomized, removals
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec
from compressm_cli.layers import CrossAttention
from compressm_cli.models import EncoderDecoder, build_model
from compressm_cli.models.encoder_decoder import EncoderDecoderConfig
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.modules import Insert
from compressm_cli.structure.surgery import apply_edits

SOURCE, TARGET, WIDTH, VOCABULARY = 7, 5, 8, 13
PAIRS = DataSpec(
    classes=VOCABULARY, length=SOURCE + TARGET, vocabulary=VOCABULARY, per_step=True, source=SOURCE
)
KINDS: dict[str, dict[str, Any]] = {
    "vaswani": {"feed_forward": "gelu", "norm": "layer", "positions": "learned", "bias": True, "heads": 2},
    "rotary": {"heads": 4, "kv_heads": 2, "tie_embeddings": True, "encoder_depth": 1},
    "without positions": {"heads": 2, "positions": "none", "feed_forward": "none"},
}
SOURCES, TARGETS = torch.tensor([SOURCE, 3, 1]), torch.tensor([2, TARGET, 4])
LENGTHS = SOURCE + TARGETS


def build(kind: str, data: DataSpec = PAIRS, **changes: Any) -> EncoderDecoder:
    torch.manual_seed(0)
    config = EncoderDecoderConfig.model_validate({"model_dim": WIDTH, **KINDS[kind], **changes})
    model = build_model(config, data)
    assert isinstance(model, EncoderDecoder)
    return model


def pairs() -> Tensor:
    """Three of them, padded on both sides."""
    drawn = torch.randint(1, VOCABULARY, (3, SOURCE + TARGET), generator=torch.Generator().manual_seed(1))
    places = torch.arange(SOURCE + TARGET)
    real = torch.where(places < SOURCE, places < SOURCES[:, None], places < LENGTHS[:, None])
    return drawn * real


def copied(ours: Any, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(torch.cat([m.weight for m in (ours.q, ours.k, ours.v)]))
    theirs.in_proj_bias.copy_(torch.cat([m.bias for m in (ours.q, ours.k, ours.v)]))
    theirs.out_proj.load_state_dict(ours.o.state_dict())


def pytorchs(model: EncoderDecoder) -> nn.Transformer:
    """PyTorch's Transformer with the weights of the model."""
    depths = len(model.source.blocks), len(model.blocks)
    how = {"activation": "gelu", "batch_first": True, "norm_first": True, "dtype": torch.float64}
    theirs = nn.Transformer(WIDTH, 2, *depths, dim_feedforward=11, dropout=0.0, **how)
    with torch.no_grad():
        for ours, other in zip(model.source.blocks, theirs.encoder.layers, strict=True):
            copied(ours.mixer.inner, other.self_attn)
            parts = [(ours.mixer, other.norm1), (ours.feed_forward, other.norm2)]
            for part, norm in parts:
                norm.load_state_dict(part.norm.state_dict())
            other.linear1.load_state_dict(ours.feed_forward.inner.up.state_dict())
            other.linear2.load_state_dict(ours.feed_forward.inner.down.state_dict())
        for ours, other in zip(model.blocks, theirs.decoder.layers, strict=True):
            copied(ours.mixer.inner, other.self_attn)
            copied(ours.cross.inner, other.multihead_attn)
            parts = [(ours.mixer, other.norm1), (ours.cross, other.norm2), (ours.feed_forward, other.norm3)]
            for part, norm in parts:
                norm.load_state_dict(part.norm.state_dict())
            other.linear1.load_state_dict(ours.feed_forward.inner.up.state_dict())
            other.linear2.load_state_dict(ours.feed_forward.inner.down.state_dict())
        theirs.encoder.norm.load_state_dict(model.source.norm.state_dict())
        theirs.decoder.norm.load_state_dict(model.norm.state_dict())
    return theirs


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_it_is_that_of_pytorch_with_padding_on_both_sides() -> None:
    model = randomized(build("vaswani", neurons=11, encoder_depth=1))
    theirs, inputs = pytorchs(model), pairs()
    real = torch.arange(TARGET) < TARGETS[:, None]
    padding = inputs[:, :SOURCE] == 0
    said = theirs(
        model.source.embedding(inputs[:, :SOURCE]),
        model.target(inputs[:, SOURCE:]),
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(TARGET, dtype=torch.float64),
        src_key_padding_mask=padding,
        tgt_key_padding_mask=torch.zeros(3, TARGET, dtype=torch.float64).masked_fill(~real, -torch.inf),
        memory_key_padding_mask=padding,
    )
    found, wanted = model(inputs, LENGTHS)[:, SOURCE:][real], model.head(said)[real]
    torch.testing.assert_close(found, wanted, **EXACT)
    weights = numbers(*found.shape, seed=5).detach()
    embeddings = [model.source.embedding.inner.weight, model.target.inner.weight]
    block, other = model.blocks[0], theirs.decoder.layers[0]
    first, its = model.source.blocks[0], theirs.encoder.layers[0]
    ours = [block.cross.inner.v.weight, block.mixer.inner.o.weight, first.feed_forward.inner.up.weight]
    ours = torch.autograd.grad((found * weights).sum(), [*embeddings, *ours, first.mixer.norm.weight])
    others = [other.multihead_attn.in_proj_weight, other.self_attn.out_proj.weight, its.linear1.weight]
    others = list(torch.autograd.grad((wanted * weights).sum(), [*embeddings, *others, its.norm1.weight]))
    others[2] = others[2][-WIDTH:]
    for one, two in zip(ours, others, strict=True):
        torch.testing.assert_close(one, two, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_the_source_is_read_and_later_targets_are_not(kind: str) -> None:
    model, inputs = randomized(build(kind)).eval(), pairs()
    found = model(inputs, LENGTHS)
    assert not bool(found[:, :SOURCE].any())
    for row, (source, target) in enumerate(zip(SOURCES.tolist(), TARGETS.tolist(), strict=True)):
        short = deepcopy(model)
        short.steps = source
        alone = torch.cat([inputs[row, :source], inputs[row, SOURCE : SOURCE + target]])[None]
        said = short(alone)[0, source:]
        torch.testing.assert_close(found[row, SOURCE : SOURCE + target], said, **EXACT)
    read, later = inputs.clone(), inputs.clone()
    read[0, SOURCE - 1] = inputs[0, SOURCE - 1] % 12 + 1
    later[:, -1] = inputs[:, -1] % 12 + 1
    assert not torch.allclose(model(read)[0, SOURCE], found[0, SOURCE])
    torch.testing.assert_close(model(later)[:, :-1], model(inputs)[:, :-1], **EXACT)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_a_cut_is_the_same_as_silence(kind: str, data: Any) -> None:
    model, inputs = randomized(build(kind, depth=1)), pairs()
    removed = data.draw(removals(model))
    assert any(name.startswith("blocks.0.cross.inner:") for name in removed)
    assert_cut_is_silence(model, removed, numbers(1), lambda m: m(inputs, LENGTHS))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_whole(kind: str) -> None:
    model, inputs = randomized(build(kind)).eval(), pairs()
    found = model(inputs)
    scores, state = model.prefill(inputs[:, : SOURCE + 1])
    torch.testing.assert_close(scores, found[:, SOURCE], **EXACT)
    for t in range(SOURCE + 1, SOURCE + TARGET):
        scores, state = model.step(inputs[:, t], state)
        torch.testing.assert_close(scores, found[:, t], **EXACT)
    # From beginnings of several lengths on, rows go on at steps of their own.
    scores, state = model.prefill(inputs[:2], LENGTHS[:2] - 1)
    torch.testing.assert_close(scores, found[torch.arange(2), LENGTHS[:2] - 2], **EXACT)
    ends = LENGTHS[:2] - 1
    scores, _ = model.step(inputs[torch.arange(2), ends], state)
    torch.testing.assert_close(scores, found[torch.arange(2), ends], **EXACT)


def test_what_cannot_be_stepped() -> None:
    model, inputs = build("rotary"), pairs()
    assert model.step_obstacle is None
    with pytest.raises(ValueError, match="begin with prefill"):
        model.initial_state(3)
    with pytest.raises(ValueError, match=r"one step of the target must follow"):
        model.prefill(inputs[:, :SOURCE])
    with pytest.raises(ValueError, match=r"one step of the target must follow"):
        model.prefill(inputs, LENGTHS - 2)
    with pytest.raises(ValueError, match="begins with prefill"):
        CrossAttention(WIDTH, 2).initial_state(3)


@pytest.mark.parametrize("kind", KINDS)
def test_sublayers_leave_and_blocks_are_added(kind: str) -> None:
    model, inputs = randomized(build(kind)).eval(), pairs()
    before = model(inputs).detach()
    apply_edits(model, None, [Insert("blocks", 1)])
    torch.testing.assert_close(model(inputs).detach(), before, **EXACT)
    apply_edits(model, None, [Keep("blocks.1.cross:sublayer", [])])
    torch.testing.assert_close(model(inputs).detach(), before, **EXACT)
    assert not any(name.startswith("cross") for name in model.blocks[1].silent)
    scores, state = model.prefill(inputs[:, : SOURCE + 1])
    torch.testing.assert_close(scores, before[:, SOURCE], **EXACT)
    torch.testing.assert_close(model.step(inputs[:, SOURCE + 1], state)[0], before[:, SOURCE + 1], **EXACT)


def test_one_matrix_is_both_embeddings_and_the_head() -> None:
    for kind in ("vaswani", "rotary"):
        model = build(kind, tie_embeddings=True)
        tied = EncoderDecoderConfig.model_validate({**KINDS[kind], "tie_embeddings": True}).tied_weights()
        assert len(tied) == 2
        for name, one in tied.items():
            assert model.get_parameter(name) is model.get_parameter(one)
    assert build("vaswani").head.weight is not build("vaswani").target.inner.weight


def test_a_source_of_padding_alone_has_finite_scores() -> None:
    inputs = pairs()
    inputs[0, :SOURCE] = 0
    assert bool(build("rotary")(inputs).isfinite().all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, r"heads \(3\) must divide model_dim \(8\)"),
        ({"heads": 8}, "write an even head_dim"),
        ({"context": 5}, "write positions: learned"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EncoderDecoderConfig.model_validate({"model_dim": WIDTH, **changes})


def test_what_does_not_fit_the_data() -> None:
    with pytest.raises(BadInputError, match=r"rows of this task are no pairs .*; write kind: decoder"):
        build("rotary", replace(PAIRS, source=None))
    with pytest.raises(BadInputError, match=r"model.context is 6, and sequences have up to 7 steps"):
        build("vaswani", context=6)


def test_the_least_number_of_parameters() -> None:
    for kind, of_kind in KINDS.items():
        config = EncoderDecoderConfig.model_validate({"model_dim": WIDTH, **of_kind})
        count = sum(p.numel() for p in build(kind).parameters())
        assert 0 < config.least_parameters(2 * VOCABULARY) <= count
        assert config.with_blocks(5).encoder_blocks == config.encoder_blocks
