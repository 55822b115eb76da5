"""Random systems and independent references for the tests of ``compressm_cli.lti``."""

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from compressm_cli.lti import Realization


def diagonal_system(
    seed: int,
    n: int,
    p: int = 2,
    q: int = 3,
    radius: float = 0.99,
    cluster: float | None = None,
    max_angle: float = 2 * np.pi,
    feedthrough: bool = False,
) -> Realization:
    """Complex diagonal system of spectral radius ``radius``; all poles within about ``cluster``, if given."""
    rng = np.random.default_rng(seed)
    moduli = radius * np.sqrt(rng.uniform(0.0, 1.0, n))
    moduli[rng.integers(n)] = radius
    angles = rng.uniform(0.0, max_angle, n)
    if cluster is not None:
        moduli, angles = radius - cluster * rng.uniform(0.0, 1.0, n), 1.0 + cluster * rng.uniform(0.0, 1.0, n)
    B, C, D = (complex_normal(rng, shape) for shape in ((n, p), (q, n), (q, p)))
    matrices = (moduli * np.exp(1j * angles), B * np.sqrt(1 - moduli**2)[:, None], C)
    A, B_, C_ = (torch.from_numpy(x) for x in matrices)
    return Realization(A, B_, C_, torch.from_numpy(D) if feedthrough else None)


def dense_system(
    seed: int, n: int, p: int = 2, q: int = 3, radius: float = 0.99, real: bool = True
) -> Realization:
    """Dense system with a normally distributed A, scaled to the given spectral radius."""
    rng = np.random.default_rng(seed)
    shapes = ((n, n), (n, p), (q, n))
    A, B, C = (rng.standard_normal(s) if real else complex_normal(rng, s) for s in shapes)
    A *= radius / np.abs(np.linalg.eigvals(A)).max()
    return Realization(*(torch.from_numpy(x) for x in (A, B, C)))


def defective_looking_system(seed: int, n: int, radius: float = 0.9, spread: float = 1e-7) -> Realization:
    """Dense real system with n poles ``spread`` apart: nearly one Jordan block, turned at random."""
    rng = np.random.default_rng(seed)
    poles = radius - spread * np.arange(n)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A = basis @ (np.diag(poles) + 0.1 * np.diag(np.ones(n - 1), 1)) @ basis.T
    B, C = rng.standard_normal((n, 2)), rng.standard_normal((2, n))
    return Realization(*(torch.from_numpy(x) for x in (A, B, C)))


def complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex128]:
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def systems(max_order: int = 24) -> st.SearchStrategy[Realization]:
    """Diagonal complex, dense complex and dense real systems, conjugate-closed ones too."""
    shape = {"seed": st.integers(0, 2**31), "p": st.integers(1, 4), "q": st.integers(1, 4)}
    radius = st.sampled_from([0.3, 0.9, 0.99, 0.9999])
    order = st.integers(1, max_order)
    diagonal = st.builds(
        diagonal_system, n=order, radius=radius, cluster=st.sampled_from([None, 1e-4]), **shape
    )
    closed = st.builds(diagonal_system, n=st.integers(1, max(1, max_order // 2)), radius=radius, **shape)
    dense = st.builds(dense_system, n=order, radius=radius, real=st.booleans(), **shape)
    return st.one_of(diagonal, closed.map(Realization.real_output), dense)


def realified(r: Realization) -> Realization:
    """Real dense system of twice the order, inputs and outputs that does to (Re, Im) what ``r`` does."""

    def split(X: Tensor) -> Tensor:
        return torch.cat([torch.cat([X.real, -X.imag], dim=1), torch.cat([X.imag, X.real], dim=1)])

    d = r.dense()
    return Realization(split(d.A), split(d.B), split(d.C))


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest entry of the difference, relative to the largest entry of what is expected."""
    return float((actual - expected).abs().max() / expected.abs().max())


def as_tensor(x: NDArray[np.floating]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x))


def refined_grid(*systems: Realization, points: int = 200) -> Tensor:
    """Angles around the circle, and more near each pole's, at the scale of its distance to the circle."""
    poles = torch.cat([s.poles() for s in systems])
    offsets = torch.linspace(-4.0, 4.0, 17, dtype=torch.float64)
    near = poles.angle()[:, None] + (1 - poles.abs())[:, None] * offsets
    return torch.cat([torch.linspace(-torch.pi, torch.pi, points, dtype=torch.float64), near.flatten()])


def h_infinity_distance(a: Realization, b: Realization) -> float:
    """Largest singular value of the difference of the frequency responses over a refined grid."""
    omega = refined_grid(a, b)
    difference = a.frequency_response(omega) - b.frequency_response(omega)
    return float(torch.linalg.matrix_norm(difference, ord=2).max())


def impulse_response(r: Realization, length: int) -> Tensor:
    """D, C B, C A B, ... by stepping the state: (length, q, p)."""
    d = r.dense()
    state, samples = d.B, [d.D if d.D is not None else d.B.new_zeros(d.outputs, d.inputs)]
    for _ in range(length - 1):
        samples.append(d.C @ state)
        state = d.A @ state
    return torch.stack(samples)
