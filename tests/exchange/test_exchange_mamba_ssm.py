"""Folders of mamba-ssm, both ways, against its equations in float64 on its own names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exchange_models import LAYERS, ORDER, VOCABULARY, assert_same, checkpoint, logits, tokens, unequal
from torch import Tensor
from torch.nn import functional

from compressm_cli import exchange
from compressm_cli.core.errors import BadInputError

WIDTH, DEPTH, EXPAND = 16, 2, 2
CHANNELS = EXPAND * WIDTH
MAMBA1 = {"d_state": ORDER, "d_conv": 4, "expand": EXPAND, "dt_rank": 3}
MAMBA2 = {"layer": "Mamba2", "d_state": ORDER, "expand": EXPAND, "headdim": 8, "ngroups": 2}
CONFIG = {
    "d_model": WIDTH,
    "d_intermediate": 0,
    "n_layer": DEPTH,
    "vocab_size": VOCABULARY,
    "ssm_cfg": {},
    "attn_layer_idx": [],
    "attn_cfg": {},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
    "tie_embeddings": True,
}


def layer_tensors(ssm: dict[str, Any], random: torch.Generator) -> dict[str, Tensor]:
    def drawn(*shape: int) -> Tensor:
        return 0.4 * torch.randn(*shape, generator=random)

    n, width = ssm["d_state"], ssm.get("d_conv", 4)
    if ssm.get("layer", "Mamba1") == "Mamba1":
        return {
            "in_proj.weight": drawn(2 * CHANNELS, WIDTH),
            "conv1d.weight": drawn(CHANNELS, 1, width),
            "conv1d.bias": drawn(CHANNELS),
            "x_proj.weight": drawn(ssm["dt_rank"] + 2 * n, CHANNELS),
            "dt_proj.weight": drawn(CHANNELS, ssm["dt_rank"]),
            "dt_proj.bias": drawn(CHANNELS) - 2,
            "A_log": drawn(CHANNELS, n),
            "D": drawn(CHANNELS),
            "out_proj.weight": drawn(WIDTH, CHANNELS),
        }
    heads, inner = CHANNELS // ssm["headdim"], CHANNELS + 2 * ssm["ngroups"] * n
    return {
        "in_proj.weight": drawn(CHANNELS + inner + heads, WIDTH),
        "conv1d.weight": drawn(inner, 1, width),
        "conv1d.bias": drawn(inner),
        "dt_bias": drawn(heads) - 2,
        "A_log": drawn(heads),
        "D": drawn(heads),
        "norm.weight": 1 + drawn(CHANNELS),
        "out_proj.weight": drawn(WIDTH, CHANNELS),
    }


def state_dict(ssm: dict[str, Any], rows: int, tied: bool) -> dict[str, Tensor]:
    """As ``MambaLMHeadModel`` names it."""
    random = torch.Generator().manual_seed(2)
    result = {"backbone.embedding.weight": torch.randn(rows, WIDTH, generator=random)}
    for i in range(DEPTH):
        for name, tensor in layer_tensors(ssm, random).items():
            result[f"backbone.layers.{i}.mixer.{name}"] = tensor
        result[f"backbone.layers.{i}.norm.weight"] = 1 + 0.2 * torch.randn(WIDTH, generator=random)
    result["backbone.norm_f.weight"] = 1 + 0.2 * torch.randn(WIDTH, generator=random)
    result["lm_head.weight"] = (
        result["backbone.embedding.weight"] if tied else torch.randn(rows, WIDTH, generator=random)
    )
    return result


def rms(x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    parts = x.unflatten(-1, (groups, -1))
    return (parts / (parts.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2) * weight


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (batch, length, channels)."""
    y = functional.conv1d(x.mT, weight, bias, padding=weight.shape[-1] - 1, groups=len(weight))
    return functional.silu(y[..., : x.shape[1]].mT)


def mamba1(u: Tensor, p: dict[str, Tensor], ssm: dict[str, Any]) -> Tensor:
    n = ssm["d_state"]
    x, z = (u @ p["in_proj.weight"].mT).chunk(2, dim=-1)
    x = convolved(x, p["conv1d.weight"], p["conv1d.bias"])
    low, B, C = (x @ p["x_proj.weight"].mT).split([p["dt_proj.weight"].shape[1], n, n], dim=-1)
    dt = functional.softplus(low @ p["dt_proj.weight"].mT + p["dt_proj.bias"])
    h, ys = x.new_zeros(len(x), CHANNELS, n), []
    for t in range(x.shape[1]):
        h = torch.exp(-dt[:, t, :, None] * p["A_log"].exp()) * h
        h = h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1) + p["D"] * x[:, t])
    return (torch.stack(ys, dim=1) * functional.silu(z)) @ p["out_proj.weight"].mT


def mamba2(u: Tensor, p: dict[str, Tensor], ssm: dict[str, Any]) -> Tensor:
    groups, n, heads = ssm["ngroups"], ssm["d_state"], len(p["D"])
    inner = CHANNELS + 2 * groups * n
    z, mixed, low = (u @ p["in_proj.weight"].mT).split([CHANNELS, inner, heads], dim=-1)
    mixed = convolved(mixed, p["conv1d.weight"], p["conv1d.bias"])
    x, B, C = mixed.split([CHANNELS, groups * n, groups * n], dim=-1)
    x = x.unflatten(-1, (heads, -1))
    B, C = (v.unflatten(-1, (groups, n)).repeat_interleave(heads // groups, dim=2) for v in (B, C))
    dt = functional.softplus(low + p["dt_bias"])
    h, ys = x.new_zeros(len(x), heads, x.shape[-1], n), []
    for t in range(x.shape[1]):
        h = torch.exp(-dt[:, t] * p["A_log"].exp())[..., None, None] * h
        h = h + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None]
        ys.append((h * C[:, t, :, None]).sum(-1) + p["D"][:, None] * x[:, t])
    y = torch.stack(ys, dim=1).flatten(-2) * functional.silu(z)
    return rms(y, p["norm.weight"], groups) @ p["out_proj.weight"].mT


def reference(weights: dict[str, Tensor], ssm: dict[str, Any], inputs: Tensor) -> Tensor:
    """The logits by mamba-ssm's equations, in float64, a step at a time."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    x = w["backbone.embedding.weight"][inputs]
    mixer = mamba1 if ssm.get("layer", "Mamba1") == "Mamba1" else mamba2
    depth = len([name for name in w if name.endswith("mixer.D")])
    for i in range(depth):
        prefix = f"backbone.layers.{i}."
        own = {n.removeprefix(f"{prefix}mixer."): t for n, t in w.items() if n.startswith(f"{prefix}mixer.")}
        x = x + mixer(rms(x, w[f"{prefix}norm.weight"]), own, ssm)
    return rms(x, w["backbone.norm_f.weight"]) @ w["lm_head.weight"].mT


def folder(tmp_path: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(weights, tmp_path / "pytorch_model.bin")
    return tmp_path


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("ssm", [MAMBA1, MAMBA2, {**MAMBA2, "ngroups": 1, "headdim": 16}])
def test_theirs_to_ours_and_back(ssm: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    weights = state_dict(ssm, 32, tied)  # 29 tokens, padded to a multiple of 8
    theirs = folder(tmp_path / "theirs", {**CONFIG, "ssm_cfg": ssm, "tie_embeddings": tied}, weights)
    loaded = exchange.load(theirs)
    assert loaded.data.vocabulary == 32
    assert_same(logits(loaded, tokens()), reference(weights, ssm, tokens()))
    exchange.export(loaded, "mamba-ssm", tmp_path / "back")
    back = torch.load(tmp_path / "back" / "pytorch_model.bin", weights_only=True)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())
    if tied:
        assert back["lm_head.weight"].data_ptr() == back["backbone.embedding.weight"].data_ptr()
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert config.keys() == CONFIG.keys()
    assert config["ssm_cfg"] == {"layer": "Mamba1", "d_conv": 4, **ssm}


def test_their_defaults_are_known(tmp_path: Path) -> None:
    """A Mamba-1 config as the published ones: no d_state, d_conv, expand or dt_rank; a 16th of the width."""
    weights = state_dict({**MAMBA1, "d_state": 16, "dt_rank": 1}, 32, True)
    old = {
        key: CONFIG[key]
        for key in ("d_model", "n_layer", "vocab_size", "ssm_cfg", "rms_norm", "fused_add_norm")
    }
    loaded = exchange.load(folder(tmp_path, old, weights))
    assert_same(logits(loaded, tokens()), reference(weights, {"d_state": 16}, tokens()))


def test_no_convolution_bias_is_a_bias_of_zero(tmp_path: Path) -> None:
    weights = {n: t for n, t in state_dict(MAMBA1, 32, True).items() if not n.endswith("conv1d.bias")}
    loaded = exchange.load(folder(tmp_path, {**CONFIG, "ssm_cfg": {**MAMBA1, "conv_bias": False}}, weights))
    full = weights | {f"backbone.layers.{i}.mixer.conv1d.bias": torch.zeros(CHANNELS) for i in range(DEPTH)}
    assert_same(logits(loaded, tokens()), reference(full, MAMBA1, tokens()))


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_different_order_are_padded_exactly(kind: str, tmp_path: Path) -> None:
    ours = checkpoint(LAYERS[kind], unequal)
    exchange.export(ours, "mamba-ssm", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["ssm_cfg"]["d_state"] == ORDER
    weights = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    assert_same(logits(ours, tokens()), reference(weights, config["ssm_cfg"], tokens()))
    again = exchange.load(tmp_path)
    assert set(again.orders.values()) == {ORDER}
    assert_same(logits(again, tokens()), logits(ours, tokens()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_intermediate": 64}, r"d_intermediate is 64; only 0 can be read"),
        ({"attn_layer_idx": [1]}, r"attn_layer_idx is \[1\]; only \[\]"),
        ({"rms_norm": False}, r"rms_norm is false; only true"),
        ({"bidirectional": True}, r"bidirectional is true; it is not known"),
        ({"n_layer": float("inf")}, r"n_layer is Infinity; only a positive whole number"),
        ({"ssm_cfg": {"layer": ["Mamba2"]}}, r'ssm_cfg.layer is \["Mamba2"\]; only "Mamba1"'),
        ({"n_layer": 0}, r"n_layer is 0; only a positive whole number"),
        ({"d_model": "wide"}, r'd_model is "wide"; only a positive whole number'),
        ({"d_model": None}, r"d_model is missing"),
        ({"tie_embeddings": 1}, r"tie_embeddings is 1; only true or false"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, r'ssm_cfg.layer is "Mamba3"; only "Mamba1" or "Mamba2"'),
        ({"ssm_cfg": {**MAMBA2, "d_ssm": 16}}, r"ssm_cfg.d_ssm is 16; only null or 32"),
        ({"ssm_cfg": {**MAMBA2, "rmsnorm": False}}, r"ssm_cfg.rmsnorm is false"),
        ({"ssm_cfg": {**MAMBA2, "D_has_hdim": True}}, r"ssm_cfg.D_has_hdim is true"),
        ({"ssm_cfg": {**MAMBA2, "norm_before_gate": True}}, r"ssm_cfg.norm_before_gate is true"),
        (
            {"ssm_cfg": {**MAMBA2, "dt_limit": [0.0, 0.1]}},
            r"ssm_cfg.dt_limit is \[0.0, 0.1\]; only the range",
        ),
        ({"ssm_cfg": {**MAMBA2, "headdim": 5}}, r"head_dim \(5\) must divide"),
        ({"ssm_cfg": {**MAMBA1, "bias": True}}, r"ssm_cfg.bias is true"),
        ({"ssm_cfg": {**MAMBA1, "ngroups": 2}}, r"ssm_cfg.ngroups is 2; it is not known"),
        (
            {"ssm_cfg": {**MAMBA1, "d_state": 5}},
            r"A_log has the shape \(32, 6\); .* must be \(32, 5\)",
        ),
        ({"vocab_size": 40}, r"backbone.embedding.weight has the shape \(32, 16\); .* must be \(40, 16\)"),
        ({"n_layer": 3}, r"the weights lack backbone.layers.2.norm.weight and 9 more"),
        ({"n_layer": 1}, r"no place for the tensor backbone.layers.1.mixer.in_proj.weight and 9 more"),
    ],
)
def test_what_cannot_be_represented_is_told_in_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = folder(tmp_path, {**CONFIG, "ssm_cfg": MAMBA1, **changes}, state_dict(MAMBA1, 32, True))
    with pytest.raises(BadInputError, match=message) as refused:
        exchange.load(path)
    assert "\n" not in str(refused.value)


def test_a_tied_head_of_another_value_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path, {**CONFIG, "ssm_cfg": MAMBA1}, state_dict(MAMBA1, 32, tied=False))
    with pytest.raises(BadInputError, match=r"but config\.json ties them"):
        exchange.load(path)
