"""Vision Transformers: that of transformers on the same weights, pooling, cuts, and what recipes may say."""

from typing import Any

import pytest
import torch
from cut_units import EXACT, assert_cut_is_silence, numbers, randomized, removals
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec
from compressm_cli.models import VisionTransformer, build_model
from compressm_cli.models.vit import VisionConfig
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.modules import Insert
from compressm_cli.structure.surgery import apply_edits

IMAGES = DataSpec(classes=5, length=48, features=3, image=(3, 8, 6))
KINDS: dict[str, dict[str, Any]] = {
    "class": {"neurons": 11, "depth": 2},
    "mean": {
        "pool": "mean",
        "kv_heads": 2,
        "heads": 4,
        "norm": "rms",
        "feed_forward": "swiglu",
        "bias": False,
    },
    "without positions": {"positions": "none", "pool": "mean", "feed_forward": "none", "depth": 1},
}


def build(kind: str, **changes: Any) -> VisionTransformer:
    torch.manual_seed(0)
    plain = {"model_dim": 8, "heads": 2, "patch": 2}
    model = build_model(VisionConfig.model_validate({**plain, **KINDS[kind], **changes}), IMAGES)
    assert isinstance(model, VisionTransformer)
    return model


def named_theirs(ours: VisionTransformer) -> dict[str, Tensor]:
    """Our tensors by the names of transformers."""
    encoder = ours.encoder
    patches = encoder.inner
    found = {
        "vit.embeddings.cls_token": patches.token[None, None],
        "vit.embeddings.position_embeddings": encoder.positions.weight[None],
        "vit.embeddings.patch_embeddings.projection.weight": patches.projection.weight.view(8, 3, 2, 2),
        "vit.embeddings.patch_embeddings.projection.bias": patches.projection.bias,
    }
    modules = {"vit.layernorm": ours.norm, "classifier": ours.head}
    for i, block in enumerate(ours.blocks):
        place = f"vit.layers.{i}"
        modules |= {f"{place}.attention.{n}_proj": getattr(block.mixer.inner, n) for n in "qkvo"}
        modules |= {f"{place}.layernorm_before": block.mixer.norm}
        modules |= {f"{place}.layernorm_after": block.feed_forward.norm}
        modules |= {f"{place}.mlp.fc1": block.feed_forward.inner.up}
        modules |= {f"{place}.mlp.fc2": block.feed_forward.inner.down}
    for name, module in modules.items():
        found |= {f"{name}.{leaf}": getattr(module, leaf) for leaf in ("weight", "bias")}
    return found


def test_it_is_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    model = randomized(build("class"))
    config = transformers.ViTConfig(
        image_size=(8, 6),
        patch_size=2,
        num_channels=3,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=11,
        layer_norm_eps=1e-5,
        num_labels=5,
        attn_implementation="sdpa",
    )
    theirs = transformers.ViTForImageClassification(config).double()
    named = named_theirs(model)
    assert set(named) == set(theirs.state_dict())
    theirs.load_state_dict({name: tensor.detach() for name, tensor in named.items()})
    one, other = numbers(3, 3, 8, 6), numbers(3, 3, 8, 6)
    found, wanted = model(one), theirs(other).logits
    torch.testing.assert_close(found, wanted, **EXACT)
    weights = numbers(*found.shape, seed=5).detach()
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(one.grad, other.grad, **EXACT)
    theirs_by_name = dict(theirs.named_parameters())
    for name, tensor in named.items():
        grad = theirs_by_name[name].grad
        if tensor.is_leaf:
            torch.testing.assert_close(tensor.grad, grad, **EXACT)
    patches = model.encoder.inner
    torch.testing.assert_close(
        patches.projection.weight.grad,
        theirs.vit.embeddings.patch_embeddings.projection.weight.grad.flatten(1),
        **EXACT,
    )
    torch.testing.assert_close(patches.token.grad, theirs.vit.embeddings.cls_token.grad[0, 0], **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_head_reads(kind: str) -> None:
    model, x = randomized(build(kind)).eval(), numbers(2, 3, 8, 6)
    steps = model.hidden(x, None, len(model.blocks))
    assert steps.shape == (2, 12 + (kind == "class"), 8)
    read = model.norm(steps)
    read = read[:, 0] if kind == "class" else read.mean(dim=1)
    torch.testing.assert_close(model(x), model.head(read), **EXACT)
    # Patches are row by row: the first two pixels of the first two rows make the first one.
    changed = x.detach().clone()
    changed[:, :, :2, :2] += 1.0
    differs = (model.encoder(changed) != model.encoder(x)).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == [int(kind == "class")]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_a_cut_is_the_same_as_silence(kind: str, data: Any) -> None:
    model = randomized(build(kind))
    assert_cut_is_silence(model, data.draw(removals(model)), numbers(2, 3, 8, 6))


def test_sublayers_leave_and_blocks_are_added() -> None:
    model, x = build("class").double().eval(), numbers(2, 3, 8, 6)
    before = model(x).detach()
    apply_edits(model, None, [Insert("blocks", 1)])
    torch.testing.assert_close(model(x).detach(), before, **EXACT)
    apply_edits(model, None, [Keep(f"blocks.1.{part}:sublayer", []) for part in ("mixer", "feed_forward")])
    torch.testing.assert_close(model(x).detach(), before, **EXACT)
    assert model.step_obstacle == "blocks.0, of the kind EncoderBlock, has no step by step form"


def test_what_does_not_fit_together() -> None:
    with pytest.raises(
        BadInputError, match=r"model.patch: 4 does not divide images of 8 x 6 .* one of 1, 2$"
    ):
        build("class", patch=4)
    with pytest.raises(ValidationError, match="as images have patches; leave out context"):
        VisionConfig.model_validate({"context": 17})
    with pytest.raises(ValidationError, match=r"heads \(3\) must divide model_dim \(64\)"):
        VisionConfig.model_validate({"heads": 3})


def test_the_least_number_of_parameters() -> None:
    for kind in KINDS:
        model = build(kind)
        config = model._config
        assert 0 < config.least_parameters(3 + 5) <= sum(p.numel() for p in model.parameters())
