"""What every layer promises, for all that ``LAYERS`` names: a new one is tested here without a line added."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from layer_kinds import TIME_INVARIANT
from torch import Tensor

from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.layers.time_invariant import StateProjection, TimeInvariantLayer

WIDTH, ORDER, LENGTH = 3, 6, 40

pytestmark = pytest.mark.parametrize("kind", TIME_INVARIANT)


def build(
    kind: str, model_dim: int = WIDTH, state_dim: int = ORDER, dtype: torch.dtype = torch.float64
) -> TimeInvariantLayer:
    torch.manual_seed(5)
    layer_class = LAYERS[kind]
    return layer_class(layer_class.Config(kind=kind), model_dim, state_dim).to(dtype)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def complex_noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.complex(noise(*shape, seed=seed), noise(*shape, seed=seed + 100))


def kernel(A: Tensor, B: Tensor, C: Tensor, length: int = LENGTH) -> np.ndarray:
    """Re(C diag(A)^k B), k = 0..length-1: (length, q, p)."""
    a, b, c = A.numpy(), B.numpy(), C.numpy()
    return np.stack([(c @ (a[:, None] ** k * b)).real for k in range(length)])


def kernels(layer: TimeInvariantLayer) -> list[np.ndarray]:
    return [kernel(s.A, s.B, s.C) for s in layer.systems()]


def respond(layer: TimeInvariantLayer, u: Tensor) -> np.ndarray:
    """The output that ``systems`` and the feedthrough D give, by convolution in numpy."""
    outputs = []
    for k, v in zip(kernels(layer), layer.system_inputs(u), strict=True):
        x = v.numpy()
        y = np.zeros((*x.shape[:2], k.shape[1]))
        for t in range(x.shape[1]):
            y[:, t] = sum(x[:, t - lag] @ k[lag].T for lag in range(t + 1))
        outputs.append(y)
    return np.concatenate(outputs, axis=-1) + layer.D.detach().numpy() * u.numpy()


def permutation(layer: TimeInvariantLayer, scaled: bool = True) -> list[StateProjection]:
    """The same states in another order; where ``scaled``, times complex numbers, some conjugated."""
    projections = []
    for i, system in enumerate(layer.systems()):
        n = system.A.shape[0]
        order = torch.randperm(n, generator=torch.Generator().manual_seed(i))
        select = torch.eye(n, dtype=torch.complex128)[order]
        conjugate = (torch.arange(n) % 2 == 1) & scaled
        direct, conj = select * ~conjugate[:, None], select * conjugate[:, None]
        poles = torch.where(conjugate, system.A[order].conj(), system.A[order])
        projection = StateProjection(poles, direct, conj, direct.mT, conj.mT)
        projections.append(projection.scaled(complex_noise(n, seed=i)) if scaled else projection)
    return projections


def selection(layer: TimeInvariantLayer, keep: list[int]) -> list[StateProjection]:
    projections = []
    for system in layer.systems():
        rows = torch.eye(system.A.shape[0], dtype=torch.complex128)[keep]
        none = torch.zeros_like(rows)
        projections.append(StateProjection(system.A[keep], rows, none, rows.mT, none.mT))
    return projections


def arbitrary(layer: TimeInvariantLayer, poles: Tensor) -> list[StateProjection]:
    """Projections onto states with the given poles that approximate nothing."""
    n, r = layer.state_dim, poles.shape[0]
    return [
        StateProjection(
            poles,
            *(complex_noise(r, n, seed=10 * i + j) for j in (1, 2)),
            *(complex_noise(n, r, seed=10 * i + j) for j in (3, 4)),
        )
        for i, _ in enumerate(layer.systems())
    ]


def silence(layer: TimeInvariantLayer, parameters: tuple[str, ...], states: list[int]) -> None:
    """Zero the named parameters, where the layer has them, at some states."""
    with torch.no_grad():
        for name in parameters:
            if name in layer.state_parameters:
                getattr(layer, name).index_fill_(layer.state_axes[name], torch.tensor(states), 0.0)


def gradients(layer: TimeInvariantLayer, u: Tensor) -> dict[str, Tensor]:
    layer.zero_grad()
    (layer(u) ** 2).sum().backward()
    return {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}


def test_forward_is_that_of_its_systems(kind: str) -> None:
    layer, u = build(kind), noise(2, LENGTH, WIDTH)
    y = layer(u)
    assert y.shape == u.shape
    np.testing.assert_allclose(y.detach().numpy(), respond(layer, u), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("batch", "length", "width", "order"), [(1, 1, 1, 1), (1, 2, 1, 3), (2, 63, 4, 1), (1, 65, 2, 9)]
)
def test_odd_shapes_in_float32(kind: str, batch: int, length: int, width: int, order: int) -> None:
    layer, u = build(kind, width, order), noise(batch, length, width)
    y = layer(u).detach()
    low = build(kind, width, order, torch.float32)(u.float())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), y, rtol=1e-4, atol=1e-5)


def test_systems_are_stable_detached_and_in_double_precision(kind: str) -> None:
    for system in build(kind, dtype=torch.float32).systems():
        assert system.A.shape == (ORDER,)
        assert system.A.abs().max() < 1
        for tensor in (system.A, system.B, system.C):
            assert tensor.dtype == torch.complex128
            assert not tensor.requires_grad


def test_parameters_are_real_trainable_and_saved(kind: str) -> None:
    layer = build(kind, dtype=torch.float32)
    found = gradients(layer, noise(2, LENGTH, WIDTH, dtype=torch.float32))
    names = {name for name, _ in layer.named_parameters()}
    assert set(found) == names == set(layer.state_dict())
    for name, p in layer.named_parameters():
        assert p.dtype == torch.float32
        assert torch.isfinite(found[name]).all()
        assert found[name].abs().max() > 0, name


def test_named_parameters_exist_and_hold_the_states_where_said(kind: str) -> None:
    layer = build(kind)
    parameters = dict(layer.named_parameters())
    assert layer.recurrent_parameters <= set(parameters)
    assert layer.model_dim == WIDTH
    assert layer.state_dim == ORDER
    for name, axis in layer.state_axes.items():
        assert parameters[name].shape[axis] == ORDER
    smaller = dict(build(kind, state_dim=ORDER - 1).named_parameters())
    changed = {name for name, p in parameters.items() if p.shape != smaller[name].shape}
    assert changed == set(layer.state_parameters)


def test_is_found_in_a_model(kind: str) -> None:
    layer = build(kind)
    model = torch.nn.ModuleDict({"a": torch.nn.ModuleList([layer]), "b": torch.nn.Linear(2, 2)})
    assert state_space_layers(model) == {"a.0": layer}


def test_same_seed_same_layer(kind: str) -> None:
    first, second = build(kind).state_dict(), build(kind).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_new_coordinates_keep_the_function(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    layer = build(kind, dtype=dtype)
    before = kernels(layer)
    layer.set_state_parameters(layer.reduced_parameters(permutation(layer)))
    for new, old in zip(kernels(layer), before, strict=True):
        assert np.abs(new - old).max() <= tolerance * np.abs(old).max()


def test_states_that_nothing_reads_or_reaches_are_cut_without_loss(kind: str) -> None:
    layer, u = build(kind), noise(2, LENGTH, WIDTH)
    silence(layer, ("C_re", "C_im"), [0, 4])
    silence(layer, ("B_re", "B_im"), [2])
    keep = [1, 3, 5] if "B_re" in layer.state_parameters else [1, 2, 3, 5]
    before = layer(u).detach()
    layer.set_state_parameters(layer.reduced_parameters(selection(layer, keep)))
    assert layer.state_dim == len(keep)
    torch.testing.assert_close(layer(u).detach(), before, rtol=0, atol=1e-11)


def test_a_conjugate_twin_is_merged_without_loss(kind: str) -> None:
    """Of one input, states with poles lambda and conj(lambda) are one state for a real output."""
    layer, u = build(kind, model_dim=1, state_dim=1), noise(2, LENGTH, 1)
    twin = arbitrary(layer, torch.tensor([0.9j + 0.1, 0.1 - 0.9j], dtype=torch.complex128))
    layer.set_state_parameters(layer.reduced_parameters(twin))
    old_gradients, before = gradients(layer, u), layer(u).detach()
    first, second = layer.systems()[0].B[:, 0]
    none = torch.zeros_like(first)
    merged = StateProjection(
        layer.systems()[0].A[:1],
        restrict=torch.stack([0.3 / first, none])[None],
        restrict_conj=torch.stack([none, 0.7 / second.conj()])[None],
        lift=torch.stack([first, none])[:, None],
        lift_conj=torch.stack([none, second])[:, None],
    )
    moments, _ = layer.transported_moments([merged], old_gradients, old_gradients)
    layer.set_state_parameters(layer.reduced_parameters([merged]))
    assert layer.state_dim == 1
    torch.testing.assert_close(layer(u).detach(), before, rtol=0, atol=1e-11)
    assert_moments(moments, gradients(layer, u))


REAL_POLES = torch.tensor([0.999, 0.4, 0.0, -0.3, -0.95, 0.5 + 0.5j, -0.2 - 0.7j], dtype=torch.complex128)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-6)])
def test_any_stable_poles_can_be_written_back(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    """Real poles as well, positive, negative and zero: the new systems are those of the projection."""
    layer = build(kind, dtype=dtype)
    projections = arbitrary(layer, REAL_POLES)
    expected = [
        kernel(p.poles, p.reduce_input(s.B), p.reduce_output(s.C))
        for p, s in zip(projections, layer.systems(), strict=True)
    ]
    layer.set_state_parameters(layer.reduced_parameters(projections))
    for new, wanted in zip(kernels(layer), expected, strict=True):
        assert np.abs(new - wanted).max() <= tolerance * np.abs(wanted).max()
    for system in layer.systems():
        np.testing.assert_allclose(system.A.numpy(), REAL_POLES.numpy(), rtol=0, atol=tolerance)
    found = gradients(layer, noise(2, LENGTH, WIDTH, dtype=dtype))
    assert all(torch.isfinite(g).all() for g in found.values())


def test_a_cut_layer_reloads_into_a_fresh_one_of_its_order(kind: str) -> None:
    layer, u = build(kind), noise(1, LENGTH, WIDTH)
    layer.set_state_parameters(layer.reduced_parameters(arbitrary(layer, REAL_POLES)))
    fresh = build(kind, state_dim=len(REAL_POLES))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(u), layer(u))


def assert_moments(moments: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Input and output matrices have the gradients that the new layer has; the poles' start from zero."""
    for name, moment in moments.items():
        wanted = expected[name] if name[:2] in {"B_", "C_"} else torch.zeros_like(expected[name])
        torch.testing.assert_close(moment, wanted, rtol=1e-8, atol=1e-8 * expected[name].abs().max().item())


def with_silent_states(kind: str) -> tuple[TimeInvariantLayer, list[StateProjection]]:
    layer = build(kind)
    silence(layer, ("C_re", "C_im"), [0, 4])
    return layer, selection(layer, [1, 2, 3, 5])


@pytest.mark.parametrize(
    "prepare",
    [lambda kind: (layer := build(kind), permutation(layer)), with_silent_states],
    ids=["basis", "cut"],
)
def test_first_moments_become_the_gradients_of_the_new_parameters(
    kind: str, prepare: Callable[[str], tuple[TimeInvariantLayer, list[StateProjection]]]
) -> None:
    layer, projections = prepare(kind)
    u = noise(2, LENGTH, WIDTH)
    old = gradients(layer, u)
    first, second = layer.transported_moments(projections, old, {name: g**2 for name, g in old.items()})
    layer.set_state_parameters(layer.reduced_parameters(projections))
    assert set(first) == set(second) == set(layer.state_parameters)
    assert_moments(first, gradients(layer, u))
    for name, moment in second.items():
        assert moment.shape == getattr(layer, name).shape
        assert (moment >= 0).all()


def test_second_moments_follow_their_states(kind: str) -> None:
    layer = build(kind)
    # Where each state has its standard scale already, changing their order is all that happens.
    layer.set_state_parameters(layer.reduced_parameters(permutation(layer)))
    projections = permutation(layer, scaled=False)
    old = {name: noise(*p.shape, seed=3) ** 2 for name, p in layer.named_parameters()}
    _, second = layer.transported_moments(projections, old, old)
    orders = torch.stack([p.restrict.real.argmax(dim=1) for p in projections])
    for name in {"B_re", "B_im"} & set(second):
        torch.testing.assert_close(second[name], old[name][orders[0]])
    for name in ("C_re", "C_im"):
        torch.testing.assert_close(second[name], old[name].gather(1, orders.expand_as(old[name])))


def test_reduction_only_reads_and_replacing_keeps_what_is_frozen(kind: str) -> None:
    layer = build(kind)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    values = layer.reduced_parameters(arbitrary(layer, REAL_POLES))
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters())
    layer.requires_grad_(False)
    layer.set_state_parameters(values)
    assert not any(p.requires_grad for p in layer.parameters())


def test_projections_that_do_not_fit_are_refused(kind: str) -> None:
    layer = build(kind)
    projections = arbitrary(layer, REAL_POLES)
    with pytest.raises(ValueError, match="projections of one order"):
        layer.reduced_parameters([*projections, projections[0]])
    with pytest.raises(ValueError, match="expected"):
        layer.set_state_parameters({"C_re": layer.C_re})


def test_autocast_keeps_parameters_and_gradients_in_float32(kind: str) -> None:
    layer, u = build(kind, dtype=torch.float32), noise(2, LENGTH, WIDTH, dtype=torch.float32)
    expected = layer(u).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(u)
    y.float().sum().backward()
    assert ((y - expected).abs().max() / expected.abs().max()).item() < 0.03
    assert {p.grad.dtype for p in layer.parameters() if p.grad is not None} == {torch.float32}


def test_meta_device_gives_shapes(kind: str) -> None:
    u = noise(2, LENGTH, WIDTH, dtype=torch.float32).to("meta")
    assert build(kind, dtype=torch.float32).to("meta")(u).shape == u.shape
