"""State projections: the maps that they stand for, and the adjoints of these."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressm_cli.layers.time_invariant import StateProjection, check_orders, ratio


def draw(seed: int, *shapes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.complex128) for shape in shapes]


def projection(n: int, r: int, seed: int = 0) -> StateProjection:
    poles, restrict, restrict_conj, lift, lift_conj = draw(seed, (r, 1), (r, n), (r, n), (n, r), (n, r))
    return StateProjection(poles[:, 0], restrict, restrict_conj, lift, lift_conj)


def old_input(p: StateProjection, B: Tensor) -> Tensor:
    return p.lift @ B + p.lift_conj @ B.conj()


def old_output(p: StateProjection, C: Tensor) -> Tensor:
    return C @ p.restrict + C.conj() @ p.restrict_conj.conj()


SIZES = st.tuples(*[st.integers(1, 5)] * 3, st.integers(0, 10**6))


@settings(max_examples=20, deadline=None)
@given(SIZES)
def test_input_and_output_matrices_are_those_of_the_mapped_states(sizes: tuple[int, int, int, int]) -> None:
    n, r, width, seed = sizes
    p = projection(n, r, seed)
    h, g, B, C = draw(seed + 1, (n, 1), (r, 1), (n, width), (width, n))
    (u,) = draw(seed + 2, (width, 1))
    u = u.real.to(B.dtype)
    restricted = p.restrict @ (h + B @ u) + p.restrict_conj @ (h + B @ u).conj()
    torch.testing.assert_close(
        p.restrict @ h + p.restrict_conj @ h.conj() + p.reduce_input(B) @ u, restricted
    )
    lifted = p.lift @ g + p.lift_conj @ g.conj()
    torch.testing.assert_close((p.reduce_output(C) @ g).real, (C @ lifted).real)
    new_C = p.reduce_output(C)
    torch.testing.assert_close(
        (old_output(p, new_C) @ h).real, (new_C @ (p.restrict @ h + p.restrict_conj @ h.conj())).real
    )


@settings(max_examples=20, deadline=None)
@given(SIZES)
def test_scaling_states_scales_the_maps(sizes: tuple[int, int, int, int]) -> None:
    n, r, width, seed = sizes
    p = projection(n, r, seed)
    (new,), (old,) = draw(seed + 1, (1, r))[0], draw(seed + 2, (1, n))[0]
    scaled = p.scaled(new, old)
    h, g = draw(seed + 3, (n, 1), (r, 1))
    restricted = scaled.restrict @ (old[:, None] * h) + scaled.restrict_conj @ (old[:, None] * h).conj()
    torch.testing.assert_close(restricted, new[:, None] * (p.restrict @ h + p.restrict_conj @ h.conj()))
    lifted = scaled.lift @ (new[:, None] * g) + scaled.lift_conj @ (new[:, None] * g).conj()
    torch.testing.assert_close(lifted, old[:, None] * (p.lift @ g + p.lift_conj @ g.conj()))
    B, C = draw(seed + 4, (n, width), (width, n))
    torch.testing.assert_close(
        scaled.reduce_output(C / old) @ scaled.reduce_input(old[:, None] * B),
        p.reduce_output(C) @ p.reduce_input(B),
    )


@pytest.mark.parametrize(("n", "r", "width"), [(1, 1, 1), (4, 2, 3), (3, 3, 1)])
@pytest.mark.parametrize("side", ["input", "output"])
def test_pull_backs_are_the_gradients_that_autograd_finds(side: str, n: int, r: int, width: int) -> None:
    p = projection(n, r)
    expand = old_input if side == "input" else old_output
    new_shape, old_shape = ((r, width), (n, width)) if side == "input" else ((width, r), (width, n))
    (new,) = draw(1, new_shape)
    (weight,) = draw(2, old_shape)
    re, im = new.real.clone().requires_grad_(), new.imag.clone().requires_grad_()
    old = expand(p, torch.complex(re, im))
    expected = torch.autograd.grad((weight.real * old.real + weight.imag * old.imag).sum(), (re, im))
    pull_back = p.pull_back_input if side == "input" else p.pull_back_output
    torch.testing.assert_close(pull_back(weight.real, weight.imag), expected)


@pytest.mark.parametrize("side", ["input", "output"])
def test_squared_pull_backs_add_mean_squares(side: str) -> None:
    p, (new_shape, old_shape) = projection(4, 2), ((2, 3), (4, 3)) if side == "input" else ((3, 2), (3, 4))
    expand = old_input if side == "input" else old_output

    def real_map(re: Tensor, im: Tensor) -> Tensor:
        return torch.view_as_real(expand(p, torch.complex(re, im)))

    (new,), (squares,) = draw(1, new_shape), draw(2, (*old_shape,))
    by_re, by_im = torch.autograd.functional.jacobian(real_map, (new.real, new.imag))
    m = torch.stack([squares.real**2, squares.imag**2], dim=-1)
    expected = tuple((m[..., None, None] * j**2).sum((0, 1, 2)) for j in (by_re, by_im))
    pull_back = p.pull_back_input if side == "input" else p.pull_back_output
    torch.testing.assert_close(pull_back(m[..., 0], m[..., 1], squared=True), expected)


def test_orders_must_agree() -> None:
    assert check_orders([projection(3, 2), projection(3, 2)], 2) == 2
    with pytest.raises(ValueError, match=r"need 2 projections of one order, got 2 of orders \[1, 2\]"):
        check_orders([projection(3, 2), projection(3, 1)], 2)


def test_ratio_leaves_states_without_size_unscaled() -> None:
    assert ratio(torch.tensor([3.0, 3.0]), torch.tensor([2.0, 0.0])).tolist() == [1.5, 1.0]
