"""A gradient that nobody asks for costs nothing, and those that are asked for are the same without it."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compressm_cli.layers.gla import _Decayed
from compressm_cli.ops import (
    causal_conv1d,
    cpu,
    diagonal_scan,
    gated_linear_attention,
    selective_cpu,
    selective_scan,
    selective_scan_gated,
    ssd,
)
from compressm_cli.ops.batch_norm import batch_norm
from compressm_cli.ops.convolution import mimo_convolution
from compressm_cli.ops.gated import gated_residual
from compressm_cli.ops.recurrent import recurrent_ssm
from compressm_cli.ops.scan import torch_scan

BATCH, LENGTH = 3, 150
PRODUCTS = ("aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm")


class Case(NamedTuple):
    function: Callable[..., Tensor]
    inputs: dict[str, Tensor]


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def positive(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def recurrence() -> Case:
    return Case(
        recurrent_ssm,
        {
            "u": normal(BATCH, LENGTH, 5),
            "poles_re": 0.9 * positive(7),
            "poles_im": 0.3 * positive(7),
            "B": normal(14, 5),
            "C": normal(5, 14),
            "D": normal(5),
        },
    )


def scan() -> Case:
    x = normal(BATCH, LENGTH, 14)
    return Case(diagonal_scan, {"x": x, "poles_re": 0.9 * positive(7), "poles_im": 0.3 * positive(7)})


def plain_scan() -> Case:
    """What CUDA has without Triton; in float64, else it is not exact to the bit with other gradients or without."""
    x, re, im = scan().inputs.values()

    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            h = torch_scan.scan_forward(*inputs)
            ctx.save_for_backward(h, *inputs[1:])
            return h

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            h, *poles = ctx.saved_tensors
            of_x, *of_poles = ctx.needs_input_grad
            found = torch_scan.scan_backward(*grads, h if any(of_poles) else None, *poles, of_x)
            assert of_x or not len(found[0])
            return tuple(g if n else None for g, n in zip(found, ctx.needs_input_grad, strict=True))

    return Case(Scan.apply, {"x": x, "poles_re": re, "poles_im": im})


def selective(gated: bool, some: bool, dtype: torch.dtype) -> Case:
    channels, n = 37, 5
    kept = torch.arange(channels).remainder(n + 1) if some else None
    inputs = {
        "x": normal(BATCH, LENGTH, channels),
        "dt": positive(BATCH, LENGTH, channels) - (3.0 if gated else 0.0),
        "A": -4 * positive(channels, n),
        "B": normal(BATCH, LENGTH, n),
        "C": normal(BATCH, LENGTH, n) + 1,
        "D": normal(channels),
    }
    if gated:
        inputs |= {"dt_bias": normal(channels), "z": normal(BATCH, LENGTH, channels) + 1}

    def run(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *gate: Tensor) -> Tensor:
        if gate:
            return selective_scan_gated(x, dt, gate[0], A, B, C, D, gate[1], kept)
        return selective_scan(x, dt, A, B, C, D, kept=kept)

    return Case(run, {name: t.to(dtype) for name, t in inputs.items()})


def causal(activation: str | None) -> Case:
    inputs = {"x": normal(BATCH, LENGTH, 37), "weight": normal(37, 4), "bias": normal(37)}
    return Case(lambda *t: causal_conv1d(*t, activation=activation), inputs)


def convolution() -> Case:
    n, p, q = 6, 2, 3
    shapes = {"u": (BATCH, LENGTH, p), "B_re": (n, p), "B_im": (n, p), "C_re": (q, n), "C_im": (q, n)}
    u, *matrices = (normal(*shape) for shape in shapes.values())
    return Case(
        mimo_convolution,
        {
            "u": u,
            "log_abs": -positive(n),
            "angle": positive(n),
            **dict(zip(list(shapes)[1:], matrices, strict=True)),
        },
    )


def duality(length: int) -> Case:
    heads, groups, n = 4, 2, 5
    return Case(
        ssd,
        {
            "x": normal(BATCH, length, heads, 3),
            "dt": positive(BATCH, length, heads),
            "A": -positive(heads),
            "B": normal(BATCH, length, groups, n),
            "C": normal(BATCH, length, groups, n) + 1,
            "D": normal(heads),
        },
    )


def attention(length: int) -> Case:
    keys = (BATCH, length, 2, 6)
    q, k, v = normal(*keys), normal(*keys) + 1, normal(BATCH, length, 2, 3)
    return Case(gated_linear_attention, {"q": q, "k": k, "v": v, "log_decay": -positive(*keys)})


def decayed() -> Case:
    keys = (BATCH, LENGTH, 2, 6)

    def run(q: Tensor, k: Tensor, log_decay: Tensor) -> Tensor:
        q, k = _Decayed.apply(q, k, log_decay)
        return torch.cat([q.square(), 3 * k], dim=-1)

    return Case(run, {"q": normal(*keys), "k": normal(*keys) + 1, "log_decay": -positive(*keys[:3])})


def gate(dropout: float) -> Case:
    def run(*inputs: Tensor) -> Tensor:
        torch.manual_seed(0)
        return gated_residual(*inputs, dropout=dropout, training=True)

    sequence, width = (BATCH, LENGTH, 9), 9
    x, y = normal(*sequence), normal(*sequence) + 1
    return Case(run, {"x": x, "y": y, "weight": normal(2 * width, width), "bias": normal(2 * width)})


CASES: dict[str, Case] = {
    "recurrence": recurrence(),
    "scan": scan(),
    "plain scan": plain_scan(),
    "selective": selective(False, False, torch.float32),
    "selective, gated": selective(True, False, torch.float32),
    "selective, gated, orders": selective(True, True, torch.float32),
    "selective, float64": selective(False, True, torch.float64),
    "selective, gated, float64": selective(True, False, torch.float64),
    "causal": causal(None),
    "causal, silu": causal("silu"),
    "convolution": convolution(),
    "duality": duality(LENGTH),
    "duality, one chunk": duality(20),
    "attention": attention(LENGTH),
    "attention, one chunk": attention(13),
    "decayed": decayed(),
    "gate": gate(0.0),
    "gate, dropout": gate(0.3),
    "batch norm": Case(lambda x: batch_norm(x, None, 1e-5)[0], {"x": normal(BATCH, LENGTH, 9)}),
}


def output(case: Case, asked: set[str]) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {name: t.clone().requires_grad_(name in asked) for name, t in case.inputs.items()}
    return case.function(*leaves.values()), leaves


def gradients(case: Case, asked: set[str]) -> dict[str, Tensor | None]:
    y, leaves = output(case, asked)
    y.backward(normal(*y.shape).to(y.dtype))
    return {name: leaf.grad for name, leaf in leaves.items()}


def subsets(case: Case) -> Iterator[set[str]]:
    for size in range(1, len(case.inputs) + 1):
        for names in itertools.combinations(case.inputs, size):
            yield set(names)


@pytest.mark.parametrize("name", CASES)
def test_each_gradient_is_the_same_whatever_else_is_asked_for(name: str) -> None:
    case = CASES[name]
    expected = gradients(case, set(case.inputs))
    for asked in subsets(case):
        for which, gradient in gradients(case, asked).items():
            assert (gradient is not None) == (which in asked), (asked, which)
            assert gradient is None or torch.equal(gradient, expected[which]), (asked, which)


@pytest.mark.parametrize("name", CASES)
def test_where_nothing_is_asked_for_nothing_is_kept(name: str) -> None:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y, _ = output(CASES[name], set())
    assert y.grad_fn is None
    assert not kept


class Operations(TorchDispatchMode):
    """The operators that are called, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function).rpartition(".")[0])
        return function(*args, **(kwargs or {}))

    @property
    def products(self) -> int:
        return sum(name in PRODUCTS for name in self.names)


def backward_products(case: Case, asked: set[str]) -> int:
    y, _ = output(case, asked)
    with Operations() as operations:
        y.backward(torch.ones_like(y))
    return operations.products


HALVINGS = 6
"""Of a chunk of 64 steps, the last of which has 50."""
# Of one part. Duality: the gradients of the states at the ends of chunks, of the scores, the products themselves, what
# is read later, that of u; two more each for B and C. Attention: those at the ends, of the scores; then each halving.
COUNTED: dict[str, dict[str, int]] = {
    "recurrence": {"u": 2, "poles_re": 1, "poles_im": 1, "B": 2, "C": 1, "D": 0, "all": 4},
    "convolution": {"u": 1, "all": 6},
    "duality": {"x": 4, "dt": 5, "A": 4, "B": 4, "C": 3, "D": 0, "all": 9},
    "duality, one chunk": {"x": 2, "dt": 3, "A": 2, "B": 2, "C": 2, "D": 0, "all": 5},
    "attention": {
        "q": 2 + HALVINGS,
        "k": 3 + HALVINGS,
        "v": 3 + HALVINGS,
        "log_decay": 4 + 2 * HALVINGS,
        "all": 6 + 3 * HALVINGS,
    },
    "gate": {"x": 0, "y": 1, "weight": 1, "bias": 0, "all": 2},
}


@pytest.mark.parametrize(("name", "which"), [(n, w) for n, counts in COUNTED.items() for w in counts])
def test_matrix_products_are_those_of_the_gradients_asked_for(name: str, which: str) -> None:
    case = CASES[name]
    asked = set(case.inputs) if which == "all" else {which}
    assert backward_products(case, asked) == COUNTED[name][which]


def largest_kept(case: Case, asked: set[str]) -> int:
    sizes = [0]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        output(case, asked)
    return max(sizes)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("recurrence", {"u"}),
        ("scan", {"x"}),
        ("causal", {"x"}),
        ("causal", {"bias"}),
        ("gate", {"x"}),
        ("gate, dropout", {"x"}),
    ],
)
def test_nothing_of_the_sequence_is_kept_where_no_gradient_reads_it(name: str, asked: set[str]) -> None:
    case = CASES[name]
    assert largest_kept(case, asked) < BATCH * LENGTH <= largest_kept(case, set(case.inputs))


def test_states_are_kept_for_those_gradients_alone_that_read_them() -> None:
    case = CASES["selective, gated"]
    shape = selective_cpu.states_shape(case.inputs["x"].shape, case.inputs["A"].shape[1])
    states = shape[0] * shape[1] * shape[2] * shape[3] * shape[4]
    for name in case.inputs:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t
        ):
            output(case, {name})
        assert (states in sizes) == (name in {"dt", "A", "C", "dt_bias"}), name


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, tuple[Any, ...]]]:
    """What is computed by kernels: they, and their arguments."""
    calls: list[tuple[Any, tuple[Any, ...]]] = []
    for module in (cpu, selective_cpu):
        plain = module.over_parts

        def noted(kernel: Any, size: int, *arguments: Any, plain: Any = plain) -> None:
            calls.append((kernel, arguments))
            plain(kernel, size, *arguments)

        monkeypatch.setattr(module, "over_parts", noted)
    return calls


@pytest.mark.parametrize("name", ["recurrence", "scan"])
def test_the_scan_against_time_is_left_out_or_taken_without_the_poles(
    name: str, kernel_calls: list[tuple[Any, tuple[Any, ...]]]
) -> None:
    case = CASES[name]

    def kernels(*asked: str) -> set[Any]:
        kernel_calls.clear()
        gradients(case, set(asked))
        return {kernel for kernel, _ in kernel_calls} - {cpu._forward}

    assert kernels(*case.inputs) == kernels("poles_re") == {cpu._backward}
    assert kernels(next(iter(case.inputs))) == {cpu._adjoint}
    if name == "recurrence":
        assert kernels("C") == kernels("D") == kernels("C", "D") == set()
        assert kernels("B") == {cpu._adjoint}


def test_the_selective_kernel_gets_room_for_what_is_asked_for_alone(
    kernel_calls: list[tuple[Any, tuple[Any, ...]]],
) -> None:
    case = CASES["selective, gated"]
    for asked in subsets(case):
        kernel_calls.clear()
        gradients(case, asked)
        ((_, arguments),) = [call for call in kernel_calls if call[0] is selective_cpu._backward]
        assert [len(result) > 0 for result in arguments[-8:]] == [name in asked for name in case.inputs]
        # Without states the recurrence is not gone through again.
        assert (arguments[0][2] == 0) == (asked <= {"D", "z"})
