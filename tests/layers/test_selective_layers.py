"""Mamba, Mamba-2 and gated linear attention against the published equations, written as loops, and against others."""

from typing import Any

import pytest
import torch
from selective_cases import CASES, CUTS, ORDER, PAIR_IDS, PAIRS, WIDTH, Cut, build, noise
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from compressm_cli.layers import gla as gla_module
from compressm_cli.layers import mamba as mamba_module
from compressm_cli.layers import mamba2 as mamba2_module
from compressm_cli.layers.selective import (
    ChannelTrace,
    HeadTrace,
    VectorTrace,
    balancing_rows,
    inverse_softplus,
)
from compressm_cli.structure import surgery

LENGTH = 23


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def convolved(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """silu of the causal convolution of x (length, channels), one product at a time."""
    width = weight.shape[-1]
    out = bias.expand_as(x).clone()
    for t in range(len(x)):
        for lag in range(min(width, t + 1)):
            out[t] += weight[:, 0, width - 1 - lag] * x[t - lag]
    return silu(out)


def normalized(x: Tensor, groups: int, weight: Tensor, eps: float = 1e-5) -> Tensor:
    parts = x.view(len(x), groups, -1)
    return (parts / torch.sqrt((parts**2).mean(-1, keepdim=True) + eps)).view(x.shape) * weight


def mamba_by_hand(p: dict[str, Tensor], u: Tensor, layer: Any) -> Tensor:
    """Algorithm 2 of Gu and Dao (2023), with the simplified (Euler) input of their code, for u (length, H)."""
    x, z = (u @ p["in_proj.weight"].T).chunk(2, dim=-1)
    x = convolved(x, p["conv1d.weight"], p["conv1d.bias"])
    rank = p["dt_proj.weight"].shape[1]
    low, B, C = (x @ p["x_proj.weight"].T).split([rank, layer.state_dim, layer.state_dim], dim=-1)
    dt = torch.log1p(torch.exp(low @ p["dt_proj.weight"].T + p["dt_proj.bias"]))
    A = -torch.exp(p["A_log"])
    h, outputs = torch.zeros_like(A), []
    for t in range(len(u)):
        h = torch.exp(dt[t, :, None] * A) * h + dt[t, :, None] * B[t] * x[t, :, None]
        outputs.append(h @ C[t] + p["D"] * x[t])
    return (torch.stack(outputs) * silu(z)) @ p["out_proj.weight"].T


def mamba2_by_hand(p: dict[str, Tensor], u: Tensor, layer: Any) -> Tensor:
    """Dao and Gu (2024), section 7, for u (length, H)."""
    heads, groups, n = len(p["A_log"]), layer.groups, layer.state_dim
    channels = p["out_proj.weight"].shape[1]
    z, x, B, C, low = (u @ p["in_proj.weight"].T).split(
        [channels, channels, groups * n, groups * n, heads], dim=-1
    )
    mixed = convolved(torch.cat([x, B, C], dim=-1), p["conv1d.weight"], p["conv1d.bias"])
    x, B, C = mixed.split([channels, groups * n, groups * n], dim=-1)
    x, B, C = x.view(len(u), heads, -1), B.view(len(u), groups, n), C.view(len(u), groups, n)
    dt = torch.log1p(torch.exp(low + p["dt_bias"]))
    y = torch.zeros_like(x)
    for head in range(heads):
        group = head // (heads // groups)
        h = x.new_zeros(x.shape[2], n)
        for t in range(len(u)):
            decay = torch.exp(-dt[t, head] * torch.exp(p["A_log"][head]))
            h = decay * h + dt[t, head] * torch.outer(x[t, head], B[t, group])
            y[t, head] = h @ C[t, group] + p["D"][head] * x[t, head]
    gated = y.flatten(1) * silu(z)
    return normalized(gated, groups, p["norm.weight"]) @ p["out_proj.weight"].T


def gla_by_hand(p: dict[str, Tensor], u: Tensor, layer: Any) -> Tensor:
    """Yang et al. (2023), equations 3 and 4, for u (length, H)."""
    heads, n = layer.heads, layer.state_dim
    q, k, v = ((u @ p[f"{name}_proj.weight"].T).view(len(u), heads, -1) for name in ("q", "k", "v"))
    low = u @ p["gk_proj.0.weight"].T @ p["gk_proj.1.weight"].T + p["gk_proj.1.bias"]
    alpha = (1 / (1 + torch.exp(-low))) ** (1 / 16)
    alpha = alpha.view(len(u), heads, -1).expand(-1, -1, n)
    y = torch.zeros_like(v)
    for head in range(heads):
        S = u.new_zeros(n, v.shape[2])
        for t in range(len(u)):
            S = alpha[t, head, :, None] * S + torch.outer(k[t, head], v[t, head])
            y[t, head] = S.T @ q[t, head] / n**0.5
    normal = normalized(y.reshape(-1, v.shape[2]), 1, p["g_norm.weight"]).view(len(u), -1)
    return (normal * silu(u @ p["g_proj.weight"].T)) @ p["o_proj.weight"].T


BY_HAND = {"mamba": mamba_by_hand, "mamba2": mamba2_by_hand, "gla": gla_by_hand}


def by_hand(case: str, layer: nn.Module, u: Tensor) -> Tensor:
    p = {name: value.detach().double() for name, value in layer.named_parameters()}
    return torch.stack([BY_HAND[CASES[case]["kind"]](p, row.double(), layer) for row in u])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("length", [1, 2, LENGTH, 65])
def test_forward_is_the_published_recurrence(case: str, length: int) -> None:
    layer, u = build(case), noise(2, length, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(layer(u), by_hand(case, layer, u), rtol=1e-10, atol=1e-10)


SETTINGS: list[tuple[str, dict[str, Any], int]] = [
    ("mamba", {"expand": 1, "conv_width": 1, "dt_rank": 3}, 5),
    ("mamba", {"expand": 3}, 3),
    ("mamba2", {"head_dim": 1, "groups": 2, "conv_width": 2}, 3),
    ("gla", {"heads": 1}, 5),
    ("gla-scalar", {"heads": 5}, 5),
]


@pytest.mark.parametrize(("case", "settings", "width"), SETTINGS)
@pytest.mark.parametrize("order", [1, 7])
def test_other_shapes_and_one_state(case: str, settings: dict[str, Any], width: int, order: int) -> None:
    layer, u = build(case, order=order, model_dim=width, **settings), noise(1, 9, width)
    with torch.no_grad():
        torch.testing.assert_close(layer(u), by_hand(case, layer, u), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("batch", "length", "order"), [(1, 1, 1), (3, 67, 5)])
def test_float32_is_close(case: str, batch: int, length: int, order: int) -> None:
    layer, u = build(case, torch.float32, order), noise(batch, length, WIDTH)
    with torch.no_grad():
        y = layer(u.float())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), by_hand(case, layer, u), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_is_causal(case: str) -> None:
    layer, u = build(case), noise(1, LENGTH, WIDTH).requires_grad_()
    (at,) = torch.autograd.grad(layer(u)[0, 11].square().sum(), u)
    assert bool(at[0, :12].any(dim=1).all())
    assert not bool(at[0, 12:].any())


# ---- weights move to and from others' layers -----------------------------------------------------------------


def test_a_layer_of_transformers_with_mambas_weights_is_the_same() -> None:
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    layer = build("mamba", torch.float32)
    config = modeling.MambaConfig(hidden_size=WIDTH, state_size=ORDER, num_hidden_layers=1, use_mambapy=False)
    same_as(layer, modeling.MambaMixer(config, layer_idx=0))


@pytest.mark.parametrize(("case", "groups"), [("mamba2", 1), ("mamba2-groups", 2)])
def test_a_layer_of_transformers_with_mamba2s_weights_is_the_same(case: str, groups: int) -> None:
    modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    config = modeling.Mamba2Config(
        hidden_size=WIDTH, state_size=ORDER, num_hidden_layers=1, head_dim=4, num_heads=4, n_groups=groups,
        chunk_size=8,
    )  # fmt: skip
    same_as(build(case, torch.float32), modeling.Mamba2Mixer(config, layer_idx=0))


def test_a_cut_layer_is_a_smaller_one_of_transformers() -> None:
    first = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    second = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    cuts = {cut.kind: cut for cut in CUTS}
    mamba, mamba2 = build("mamba", torch.float32), build("mamba2-groups", torch.float32)
    for layer, kind in ((mamba, "shared"), (mamba2, "coordinates")):
        layer.set_state_parameters(layer.reduced_parameters(cuts[kind].projection(layer, 4)))
    config = first.MambaConfig(hidden_size=WIDTH, state_size=4, num_hidden_layers=1, use_mambapy=False)
    same_as(mamba, first.MambaMixer(config, layer_idx=0))
    config = second.Mamba2Config(
        hidden_size=WIDTH,
        state_size=4,
        num_hidden_layers=1,
        head_dim=4,
        num_heads=4,
        n_groups=2,
        chunk_size=8,
    )
    same_as(mamba2, second.Mamba2Mixer(config, layer_idx=0))


def same_as(layer: nn.Module, other: nn.Module) -> None:
    shapes = {name: value.shape for name, value in layer.state_dict().items()}
    assert shapes == {name: value.shape for name, value in other.state_dict().items()}
    other.load_state_dict(layer.state_dict())
    u = noise(2, LENGTH, WIDTH, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(layer(u), other.eval()(u), rtol=1e-5, atol=1e-5)


def test_names_of_gated_linear_attention() -> None:
    """Those of flash-linear-attention: fla.layers.GatedLinearAttention."""
    projections = {f"{name}_proj.weight" for name in "qkvgo"}
    gates = {"gk_proj.0.weight", "gk_proj.1.weight", "gk_proj.1.bias", "g_norm.weight"}
    shapes = {name: tuple(value.shape) for name, value in build("gla").state_dict().items()}
    assert set(shapes) == projections | gates
    assert shapes["q_proj.weight"] == shapes["k_proj.weight"] == (2 * ORDER, WIDTH)
    assert shapes["gk_proj.1.weight"] == (2 * ORDER, 3)


# ---- precision, gradients, shapes ----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_named_parameters_exist_and_all_get_gradients(case: str) -> None:
    layer = build(case, torch.float32)
    parameters = dict(layer.named_parameters())
    assert layer.state_dim == ORDER
    maps = {"B_map", "C_map", "B_proj", "C_proj"}
    assert layer.recurrent_parameters - maps <= set(parameters)
    assert layer.state_parameters - maps <= set(parameters)
    smaller = dict(build(case, torch.float32, ORDER - 1).named_parameters())
    changed = {name for name, p in parameters.items() if p.shape != smaller[name].shape}
    scalar = {"gk_proj.1.weight", "gk_proj.1.bias"} if case == "gla-scalar" else set()
    assert changed == layer.state_parameters - maps - scalar
    layer(noise(2, LENGTH, WIDTH, dtype=torch.float32)).square().sum().backward()
    for name, p in parameters.items():
        assert p.grad is not None, name
        assert bool(p.grad.isfinite().all()), name
        assert bool(p.grad.any()), name


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_loop(case: str) -> None:
    layer, u = build(case), noise(1, 9, WIDTH)
    parameters = dict(layer.named_parameters())
    expected = torch.autograd.grad(
        BY_HAND[CASES[case]["kind"]](parameters, u[0], layer).square().sum(), list(parameters.values())
    )
    found = torch.autograd.grad(layer(u).square().sum(), list(parameters.values()))
    for name, one, other in zip(parameters, found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("slow", [0.0, 8.0, 16.0])
@pytest.mark.parametrize("case", ["gla", "gla-scalar"])
def test_gradients_of_slow_decays_are_not_lost_in_float32(case: str, slow: float) -> None:
    """Decays of exp(-1e-3 / 16) and of exp(-1e-7 / 16) a step as well."""
    found = []
    for dtype in (torch.float64, torch.float32):
        layer = build(case, dtype)
        with torch.no_grad():
            layer.gk_proj[1].bias.add_(slow)
        layer(noise(2, LENGTH, WIDTH, dtype=dtype)).square().sum().backward()
        found.append(layer.gk_proj[1].bias.grad.double())
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 1e-4


MODULES = {"mamba": mamba_module, "mamba2": mamba2_module, "gla": gla_module}
OPS = {
    "mamba": "selective_scan_gated",
    "mamba2": "ssd",
    "mamba2-groups": "ssd",
    "gla": "gated_linear_attention",
    "gla-scalar": "ssd",
}


@pytest.mark.parametrize("case", CASES)
def test_autocast_leaves_states_in_float32(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = MODULES[CASES[case]["kind"]]
    op, seen = getattr(module, OPS[case]), []

    def watched(*args: Any, **kwargs: Any) -> Tensor:
        y = op(*args, **kwargs)
        # The decays of linear attention, dt and A of SSD, the bias of dt and A of the scan.
        watched_args = {"gla": args[3:4], "mamba": args[2:4]}.get(case, args[1:3])
        seen.extend([y.dtype, *(value.dtype for value in watched_args)])
        return y

    monkeypatch.setattr(module, OPS[case], watched)
    layer, u = build(case, torch.float32), noise(2, LENGTH, WIDTH, dtype=torch.float32)
    expected = layer(u).detach()
    seen.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(u)
    assert set(seen) == {torch.float32}
    y.float().sum().backward()
    assert bool(y.isfinite().all())
    assert float((y.detach() - expected).abs().max() / expected.abs().max()) < 0.05
    assert {p.grad.dtype for p in layer.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize(("case", "cut"), PAIRS, ids=PAIR_IDS)
def test_flops_are_counted_without_storage(case: str, cut: Cut) -> None:
    def flops(layer: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter:
            u = torch.empty(2, LENGTH, WIDTH, device="meta", requires_grad=True)
            y = layer.to("meta")(u)
            assert y.shape == u.shape
            y.sum().backward()
        return int(counter.get_total_flops())

    full, small = (build(case, torch.float32, order=32) for _ in range(2))
    small.set_state_parameters(small.reduced_parameters(cut.projection(small, 2)))
    count = flops(full)
    assert count > 0
    if cut.kind not in ("orders", "channels"):  # which are no cheaper, and not counted, in that order
        assert flops(small) < count


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("order", [4, ORDER])
def test_of_order_has_the_shapes_after_the_usual_cut(case: str, order: int) -> None:
    layer = build(case, torch.float32)
    if order < ORDER:
        usual = {"mamba": "shared", "gla": "heads"}.get(case, "maps")
        cut = next(c for c in CUTS if c.kind == usual)
        layer.set_state_parameters(layer.reduced_parameters(cut.projection(layer, order)))
    kind = type(layer)
    fresh = kind.of_order(kind.Config(**CASES[case]), WIDTH, ORDER, order)
    assert fresh.state_dim == order
    assert {n: v.shape for n, v in fresh.state_dict().items()} == {
        n: v.shape for n, v in layer.state_dict().items()
    }


def test_widths_that_do_not_fit_are_refused() -> None:
    for case, settings in (("mamba2", {"head_dim": 5}), ("mamba2", {"groups": 3}), ("gla", {"heads": 3})):
        with pytest.raises(ValueError, match=r"must divide"):
            build(case, **settings)


# ---- what reductions read ------------------------------------------------------------------------------------


def outputs_of(trace: ChannelTrace | HeadTrace | VectorTrace) -> Tensor:
    """The recurrence's output, a step after the other."""
    h, outputs = torch.zeros(()), []
    length = trace.weight.shape[1]
    for t in range(length):
        if isinstance(trace, ChannelTrace):
            step = trace.dt[:, t, :, None]
            h = torch.exp(step * trace.A) * h + step * trace.x[:, t, :, None] * trace.B[:, t, None]
            outputs.append((h * trace.C[:, t, None]).sum(-1))
        elif isinstance(trace, HeadTrace):
            heads, groups = trace.u.shape[2], trace.B.shape[2]
            group = torch.arange(heads) // (heads // groups)
            added = trace.u[:, t, :, :, None] * trace.B[:, t, group, None, :]
            h = torch.exp(trace.log_decay[:, t, :, None, None]) * h + added
            outputs.append(torch.einsum("bhpn,bhn->bhp", h, trace.C[:, t, group]))
        else:
            added = trace.k[:, t, :, :, None] * trace.v[:, t, :, None, :]
            h = torch.exp(trace.log_decay[:, t])[..., None] * h + added
            outputs.append(torch.einsum("bhnp,bhn->bhp", h, trace.q[:, t]))
    return torch.stack(outputs, dim=1)


def finished(case: str, layer: Any, u: Tensor, y: Tensor, fixed_norm: bool = False) -> Tensor:
    """The layer's output for the recurrence's y, without D; the norm as it is at y where ``fixed_norm``."""
    if case == "mamba":
        x, z = layer.in_proj(u).chunk(2, dim=-1)
        x = torch.stack([convolved(row, layer.conv1d.weight, layer.conv1d.bias) for row in x])
        return layer.out_proj((y + layer.D * x) * silu(z))
    if case.startswith("gla"):
        power = (y.detach() if fixed_norm else y).square().mean(-1, keepdim=True)
        normal = y / torch.sqrt(power + 1e-5) * layer.g_norm.weight
        return layer.o_proj(normal.flatten(2) * silu(layer.g_proj(u)))
    z, mixed, _ = layer.in_proj(u).split([layer.channels, layer.conv1d.weight.shape[0], layer.heads], dim=-1)
    x = torch.stack([convolved(row, layer.conv1d.weight, layer.conv1d.bias) for row in mixed])
    x = x[..., : layer.channels].unflatten(-1, (layer.heads, -1))
    gated = ((y + layer.D[:, None] * x).flatten(2) * silu(z)).unflatten(-1, (layer.groups, -1))
    power = (gated.detach() if fixed_norm else gated).square().mean(-1, keepdim=True)
    return layer.out_proj((gated / torch.sqrt(power + 1e-5)).flatten(2) * layer.norm.weight)


@pytest.mark.parametrize("case", CASES)
def test_the_trace_is_what_the_recurrence_sees(case: str) -> None:
    layer, u = build(case), noise(2, LENGTH, WIDTH)
    trace = layer.trace(u)
    assert trace.real is None
    assert not any(value.requires_grad for value in vars(trace).values() if value is not None)
    with torch.no_grad():
        y = finished(case, layer, u, outputs_of(trace))
        torch.testing.assert_close(y, layer(u), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_the_weight_is_what_an_error_of_one_channel_adds_to_that_of_the_layer(case: str) -> None:
    """To first order; the norm of the other channels counts as given."""
    layer, u = build(case), noise(1, 5, WIDTH)
    trace = layer.trace(u)
    y = outputs_of(trace).requires_grad_()

    def output(value: Tensor) -> Tensor:
        return finished(case, layer, u, value, fixed_norm=True)

    jacobian = torch.autograd.functional.jacobian(output, y)  # (1, 5, H, *y.shape)
    weight = jacobian.square().sum((0, 1, 2))
    torch.testing.assert_close(trace.weight, weight, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_a_trace_of_a_layer_in_bfloat16_is_in_float32(case: str) -> None:
    layer = build(case, torch.bfloat16)
    trace = layer.trace(noise(1, 5, WIDTH, dtype=torch.bfloat16))
    assert {value.dtype for value in vars(trace).values() if value is not None} == {torch.float32}


# ---- cuts ----------------------------------------------------------------------------------------------------


def reduced_by_hand(case: str, cut: Cut, layer: Any, u: Tensor, order: int) -> Tensor:
    """The recurrence with the projection's new states, from the trace of the full layer."""
    trace, projection = layer.trace(u), cut.projection(layer, order)
    if isinstance(trace, ChannelTrace):
        B, C = (
            torch.einsum("...rn,bln->bl...r", m, v)
            for m, v in ((projection.to_input, trace.B), (projection.to_output, trace.C))
        )
        if projection.to_input.ndim == 2:
            B, C = B[:, :, None], C[:, :, None]
        if projection.kept is not None:
            C = C * (torch.arange(order) < projection.kept[:, None])
        h, outputs = torch.zeros(()), []
        for t in range(u.shape[1]):
            step = trace.dt[:, t, :, None]
            h = torch.exp(step * projection.A) * h + step * trace.x[:, t, :, None] * B[:, t]
            outputs.append((h * C[:, t]).sum(-1))
        return torch.stack(outputs, dim=1)
    if isinstance(trace, HeadTrace):
        B = torch.einsum("grn,blgn->blgr", projection.to_input, trace.B)
        C = torch.einsum("grn,blgn->blgr", projection.to_output, trace.C)
        return outputs_of(HeadTrace(trace.u, trace.log_decay, B, C, trace.weight))
    index = projection.keep.expand(*trace.k.shape[:2], -1, -1)
    k, decay = trace.k.gather(-1, index), trace.log_decay.gather(-1, index)
    q = torch.einsum("hrn,blhn->blhr", projection.to_output, trace.q)
    return outputs_of(VectorTrace(q, k, trace.v, decay, trace.weight))


@pytest.mark.parametrize(("case", "cut"), PAIRS, ids=PAIR_IDS)
def test_a_cut_gives_the_recurrence_of_the_projection(case: str, cut: Cut) -> None:
    layer, u, order = build(case), noise(2, LENGTH, WIDTH), 4
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with torch.no_grad():
        wanted = finished(case, layer, u, reduced_by_hand(case, cut, layer, u, order))
        values = layer.reduced_parameters(cut.projection(layer, order))
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
        layer.set_state_parameters(values)
        assert layer.state_dim == order
        assert set(values) <= layer.state_parameters | layer.state_buffers
        torch.testing.assert_close(layer(u), wanted, rtol=1e-9, atol=1e-10)
    assert all(p.requires_grad for p in layer.parameters())
    layer(u).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())


@pytest.mark.parametrize(("case", "cut"), PAIRS, ids=PAIR_IDS)
def test_a_cut_layer_reloads_and_goes_back(case: str, cut: Cut) -> None:
    layer, fresh = (nn.ModuleDict({"layer": build(case, torch.float32)}) for _ in range(2))
    u = noise(2, LENGTH, WIDTH, dtype=torch.float32)
    whole = {name: value.clone() for name, value in layer.state_dict().items()}
    before = layer["layer"](u).detach()
    inner: Any = layer["layer"]
    inner.set_state_parameters(inner.reduced_parameters(cut.projection(inner, 3)))
    surgery.resize(fresh, None, layer.state_dict())
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh["layer"](u), layer["layer"](u))
    assert surgery.orders(fresh) == {"layer": 3}
    surgery.resize(fresh, None, whole)
    fresh.load_state_dict(whole)
    assert torch.equal(fresh["layer"](u), before)
    assert set(fresh.state_dict()) == set(whole)


@pytest.mark.parametrize(
    ("case", "first", "second"),
    [
        ("mamba", "shared", "shared"),
        ("mamba", "shared", "channels"),
        ("mamba2-groups", "maps", "maps"),
        ("mamba2-groups", "coordinates", "maps"),
        ("mamba2-groups", "maps", "coordinates"),
        ("mamba2-groups", "coordinates", "coordinates"),
        ("gla", "heads", "heads"),
        ("gla-scalar", "maps", "maps"),
    ],
)
def test_a_second_cut_starts_from_the_first(case: str, first: str, second: str) -> None:
    cuts = {cut.kind: cut for cut in CUTS}
    layer, u = build(case), noise(1, LENGTH, WIDTH)
    layer.set_state_parameters(layer.reduced_parameters(cuts[first].projection(layer, 5)))
    with torch.no_grad():
        wanted = finished(case, layer, u, reduced_by_hand(case, cuts[second], layer, u, 3))
        layer.set_state_parameters(layer.reduced_parameters(cuts[second].projection(layer, 3)))
        torch.testing.assert_close(layer(u), wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["orders", "channels"])
def test_channels_with_states_of_their_own_are_not_cut_again(kind: str) -> None:
    layer = build("mamba")
    cut = next(cut for cut in CUTS if cut.kind == kind)
    layer.set_state_parameters(layer.reduced_parameters(cut.projection(layer, 4)))
    with pytest.raises(ValueError, match=r"its channels have (bases|orders) of their own already"):
        layer.trace(noise(1, LENGTH, WIDTH))


@pytest.mark.parametrize(("case", "cut"), PAIRS, ids=PAIR_IDS)
def test_the_states_own_rows_are_those_that_a_cut_changes(case: str, cut: Cut) -> None:
    layer = build(case)
    values = layer.reduced_parameters(cut.projection(layer, ORDER))
    for name, rows in layer.state_rows().items():
        if name in values:
            changed = torch.ones(len(values[name]), dtype=torch.bool)
            changed[rows] = False
            assert torch.equal(values[name][changed].to(torch.float64), layer.get_parameter(name)[changed])
            assert bool(changed.any())


def test_new_states_get_rows_of_one_norm() -> None:
    B, C = noise(2, 4, 7, seed=1), 100 * noise(2, 4, 7, seed=2)
    B[0, 1], C[1, 2] = 0.0, 0.0
    scale = balancing_rows(B, C)[..., None]
    rows, columns = (B * scale).norm(dim=-1), (C / scale).norm(dim=-1)
    idle = (rows == 0) | (columns == 0)
    torch.testing.assert_close(rows[~idle], columns[~idle])
    assert bool((scale[idle] == 1).all())
    layer = build("mamba")
    layer.set_state_parameters(layer.reduced_parameters(CUTS[0].projection(layer, 4)))
    _, B, C = layer.x_proj.weight.split([layer.rank, 4, 4])
    torch.testing.assert_close(B.norm(dim=1), C.norm(dim=1))
    layer = build("gla-scalar")
    layer.set_state_parameters(layer.reduced_parameters(CUTS[3].projection(layer, 4)))
    torch.testing.assert_close(layer.q_proj.weight.norm(dim=1), layer.k_proj.weight.norm(dim=1))


def test_a_step_size_survives_its_inverse() -> None:
    steps = torch.tensor([1e-6, 1e-3, 0.1, 5.0], dtype=torch.float64)
    torch.testing.assert_close(functional.softplus(inverse_softplus(steps)), steps, rtol=1e-9, atol=0)
