"""Layers one time step at a time: the same outputs as of whole sequences, before cuts and after them."""

import copy
from typing import Any

import pytest
import selective_cases
import test_layer_conformance as invariant
import torch
from cut_units import cut, removals
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_kinds import TIME_INVARIANT
from selective_cases import CASES, ORDER, PAIR_IDS, PAIRS, WIDTH, Cut, noise
from test_selective_units import CASES as UNIT_CASES
from test_selective_units import build as build_with_units
from torch import Tensor

from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.layers.time_invariant import StateProjection
from compressm_cli.ops import decoding, decoding_cpu

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5}
LENGTHS = (11, 1, 2, 3, 7)
"""Of five rows of eleven steps: some are shorter than a convolution."""


def close(found: Tensor, wanted: Tensor) -> None:
    bound = BOUNDS[wanted.dtype]
    torch.testing.assert_close(found, wanted, rtol=bound, atol=bound * float(wanted.abs().max()))


def assert_steps_are_forward(layer: Any, u: Tensor, lengths: tuple[int, ...] = LENGTHS) -> None:
    """Steps from the start, and each row's from after its prompt, whose padding is nothing of its own."""
    with torch.no_grad():
        wanted = layer(u)
    state, length = layer.initial_state(len(u)), u.shape[1]
    for t in range(length):
        y, state = layer.step(u[:, t], state)
        close(y, wanted[:, t])
    rows, ends = torch.arange(len(u)), torch.tensor(lengths)
    real = torch.arange(length) < ends[:, None]
    y, state = layer.prefill(torch.where(real[..., None], u, u.flip(0, 2)), ends)
    close(y[real], wanted[real])
    for _ in range(length - min(lengths)):
        at = ends.clamp_max(length - 1)
        y, state = layer.step(u[rows, at], state)
        close(y[ends < length], wanted[rows, at][ends < length])
        ends = ends + 1


def after(layer: Any, projection: Any) -> Any:
    """A copy of the layer, cut."""
    smaller = copy.deepcopy(layer)
    smaller.set_state_parameters(layer.reduced_parameters(projection))
    return smaller.to(next(layer.parameters()).dtype)


def widely_linear(layer: Any, order: int) -> list[StateProjection]:
    """Real poles among complex ones, and conjugate parts."""
    found = []
    for i, system in enumerate(layer.systems()):
        maps = [invariant.complex_noise(order, system.A.shape[0], seed=10 * i + j) for j in range(4)]
        poles = system.A[:order].clone()
        poles[0], poles[1] = -0.7, 0.0
        found.append(StateProjection(poles, maps[0], maps[1], maps[2].mT, maps[3].mT))
    return found


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("kind", TIME_INVARIANT)
def test_time_invariant_layers(kind: str, dtype: torch.dtype) -> None:
    layer = invariant.build(kind, dtype=dtype)
    u = noise(5, 11, invariant.WIDTH, dtype=dtype)
    assert_steps_are_forward(layer, u)
    assert_steps_are_forward(after(layer, widely_linear(layer, 4)), u)


@pytest.mark.parametrize("kind", ["lru", "s5"])
@pytest.mark.parametrize("form", ["convolution", "recurrent"])
def test_steps_are_both_forms(kind: str, form: str) -> None:
    layer = invariant.build(kind)
    layer.form = form
    assert_steps_are_forward(layer, noise(5, 11, invariant.WIDTH))


def test_slow_oscillations_after_more_steps_than_powers_are_made_of_at_once() -> None:
    layer = invariant.build("s4d", dtype=torch.float32)
    u = noise(2, 150, invariant.WIDTH, dtype=torch.float32)
    assert_steps_are_forward(layer, u, (64, 129))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("case", CASES)
def test_selective_layers(case: str, dtype: torch.dtype) -> None:
    assert_steps_are_forward(selective_cases.build(case, dtype), noise(5, 11, WIDTH, dtype=dtype))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("case", "kind_of_cut"), PAIRS, ids=PAIR_IDS)
def test_selective_layers_after_cuts(case: str, kind_of_cut: Cut, dtype: torch.dtype) -> None:
    layer = selective_cases.build(case, dtype)
    smaller = after(layer, kind_of_cut.projection(layer, 4))
    assert smaller.state_dim == 4
    assert_steps_are_forward(smaller, noise(5, 11, WIDTH, dtype=dtype))


@pytest.mark.parametrize("width", [1, 2, 6])
@pytest.mark.parametrize("case", ["mamba", "mamba2"])
def test_prompts_shorter_than_a_convolution(case: str, width: int) -> None:
    layer = selective_cases.build(case, conv_width=width)
    assert_steps_are_forward(layer, noise(5, 11, WIDTH))
    assert_steps_are_forward(layer, noise(1, 1, WIDTH), (1,))


def test_a_state_of_more_channels_than_a_vector_has() -> None:
    layer = selective_cases.build("mamba", torch.float32, model_dim=20, order=17)
    assert_steps_are_forward(layer, noise(5, 11, 20, dtype=torch.float32))


@pytest.mark.parametrize("case", UNIT_CASES)
def test_layers_without_some_states_heads_and_channels(case: str) -> None:
    layer = build_with_units(case)

    @settings(max_examples=4, deadline=None)
    @given(removals(layer), st.lists(st.integers(1, 11), min_size=5, max_size=5))
    def check(removed: dict[str, list[int]], lengths: list[int]) -> None:
        smaller, _ = cut(layer, removed)
        assert_steps_are_forward(smaller, noise(5, 11, UNIT_CASES[case][0]), tuple(lengths))

    check()


def test_without_a_parallel_form_prompts_go_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = selective_cases.build("mamba")
    monkeypatch.setattr(type(layer), "prefill", StateSpaceLayer.prefill)
    assert_steps_are_forward(layer, noise(5, 11, WIDTH))


@pytest.mark.parametrize("case", CASES)
def test_a_state_has_the_same_size_after_many_steps(case: str) -> None:
    layer, u = selective_cases.build(case), noise(2, 300, WIDTH)
    states = [layer.initial_state(2), *(layer.prefill(u[:, :length])[1] for length in (1, 300))]
    assert len({state.nbytes for state in states}) == 1
    cut_state = selective_cases.build(case, order=ORDER // 2).initial_state(2)
    assert cut_state.values["h"].nbytes * 2 == states[0].values["h"].nbytes  # type: ignore[union-attr]


def test_inputs_of_other_widths_and_states_of_other_layers_are_refused() -> None:
    layer = selective_cases.build("mamba")
    with pytest.raises(ValueError, match=r"x \(batch, 8\), not \(2, 3, 8\)"):
        layer.step(noise(2, 3, WIDTH), layer.initial_state(2))
    with pytest.raises(ValueError, match=r"it holds {'h': \(2, 1, 3, 16\), .*'h': \(2, 1, 6, 16\)"):
        layer.step(noise(2, WIDTH), selective_cases.build("mamba", order=3).initial_state(2))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("batch", [1, 33])
def test_threads_share_rows_and_channels(
    batch: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding_cpu, "ENTRIES_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    layer = selective_cases.build("mamba", dtype, model_dim=40)
    assert_steps_are_forward(layer, noise(batch, 4, 40, dtype=dtype), (2,) * batch)


@pytest.mark.parametrize("change", ["in place", "replaced", "data"])
def test_weights_may_change_between_sequences_and_but_for_their_data_between_steps(change: str) -> None:
    layer, u = selective_cases.build("mamba", torch.float32), noise(2, 5, WIDTH, dtype=torch.float32)
    state = layer.initial_state(2)
    _, state = layer.step(u[:, 0], state)
    with torch.no_grad():
        if change == "in place":
            layer.A_log.add_(0.5)
        elif change == "replaced":
            layer.A_log = torch.nn.Parameter(layer.A_log + 0.5)
        else:
            layer.A_log.data.add_(0.5)
    if change != "data":
        # As a layer that has never made a step.
        fresh = copy.deepcopy(layer)
        close(layer.step(u[:, 1], state.clone())[0], fresh.step(u[:, 1], state)[0])
    assert_steps_are_forward(layer, u, (1, 3))


@pytest.mark.parametrize("case", [*TIME_INVARIANT, *CASES, "channels", "orders"])
def test_all_that_steps_make_is_on_the_device_of_the_layer(case: str) -> None:
    if case in TIME_INVARIANT:
        layer: Any = invariant.build(case, model_dim=WIDTH)
    elif case in CASES:
        layer = selective_cases.build(case)
    else:
        layer = selective_cases.build("mamba")
        layer = after(layer, Cut(case, ("mamba",)).projection(layer, 4))
    layer, u = layer.to("meta"), noise(5, 11, WIDTH).to("meta")
    y, state = layer.step(u[:, 0], layer.initial_state(5))
    assert (y.shape, y.device.type) == ((5, WIDTH), "meta")
    for lengths in (None, torch.ones(5, dtype=torch.int64, device="meta")):
        y, after_prompt = layer.prefill(u, lengths)
        assert (y.shape, y.device.type) == ((5, 11, WIDTH), "meta")
        for name, tensor in state.values.items():
            found = after_prompt.values[name]
            assert isinstance(tensor, Tensor)
            assert isinstance(found, Tensor)
            assert (found.shape, found.dtype, found.device) == (tensor.shape, tensor.dtype, tensor.device)


@pytest.mark.parametrize("case", ["s4d", *CASES, "orders", "channels"])
def test_what_devices_without_these_kernels_do(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "runs_eagerly_on_cpu", lambda _: False)
    for dtype in BOUNDS:
        if case == "s4d":
            layer: Any = invariant.build(case, model_dim=WIDTH, dtype=dtype)
        else:
            layer = selective_cases.build(case if case in CASES else "mamba", dtype)
        if case in ("orders", "channels"):
            layer = after(layer, Cut(case, ("mamba",)).projection(layer, 4))
        assert_steps_are_forward(layer, noise(5, 11, WIDTH, dtype=dtype))
