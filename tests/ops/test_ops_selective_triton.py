"""The Triton kernels of the selective scan: interpreted on a CPU, compiled without a device, run on one (``cuda``)."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from compressm_cli.ops import (
    reference,
    scan,
    selective,
    selective_scan,
    selective_scan_gated,
    selective_torch,
)

DTYPES = {torch.float64: (1e-13, 1e-13), torch.float32: (1e-6, 2e-6)}
"""Tolerances in norm: of the output, of gradients."""


class Case(NamedTuple):
    batch: int
    length: int
    channels: int
    n: int
    gated: bool = False
    some: bool = False
    """Whether channels keep different numbers of states."""


# Interpreted with 8 steps a chunk.
INTERPRETED = [
    Case(1, 1, 1, 1),
    Case(2, 7, 3, 2, gated=True),
    Case(1, 8, 16, 1),
    Case(2, 17, 3, 3),
    Case(2, 17, 18, 3, gated=True, some=True),
    Case(1, 16, 17, 4, some=True),
]
ON_DEVICE = [
    *INTERPRETED,
    Case(3, 63, 130, 5, gated=True),
    Case(2, 200, 70, 33, some=True),
    Case(4, 130, 64, 16, gated=True, some=True),
]


def example(case: Case) -> tuple[list[Tensor], Tensor | None, Tensor]:
    """x, dt, A, B, C, D and, gated, the bias and z; the states kept; the gradient of the output."""
    batch, length, channels, n = case[:4]
    generator = torch.Generator().manual_seed(length)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, z, grad, raw = (draw(batch, length, channels) for _ in range(4))
    dt = raw - 3 if case.gated else torch.exp(raw - 3)
    A = -torch.arange(1.0, n + 1, dtype=torch.float64) * torch.exp(draw(channels, n))
    inputs = [x, dt, A, draw(batch, length, n), draw(batch, length, n), draw(channels)]
    kept = torch.linspace(0, n, channels).round().to(torch.int64).flip(0) if case.some else None
    return inputs + ([draw(channels), z] if case.gated else []), kept, grad


def by_definition(inputs: list[Tensor], kept: Tensor | None, grad: Tensor) -> list[Tensor]:
    """Output and gradients in float64, of inputs of whatever precision."""
    leaves = [t.detach().double().requires_grad_() for t in inputs]
    if len(leaves) == 6:
        y = reference.selective_scan(*leaves, kept=kept)
    else:
        x, dt, A, B, C, D, bias, z = leaves
        y = reference.selective_scan_gated(x, dt, bias, A, B, C, D, z, kept)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.double())]


def assert_near(actual: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert (a.dtype, a.shape) == (dtype, e.shape)
        error = torch.linalg.vector_norm(a.double() - e) / torch.linalg.vector_norm(e).clamp_min(1e-30)
        assert error.item() <= DTYPES[dtype][min(i, 1)], i


# Inputs lie between NaNs, so that nothing beside them can be read unnoticed.
INTERPRET = """
import sys
import torch
from compressm_cli.ops import selective, selective_triton

selective_triton.STEPS = 8

def guarded(t):
    if t is None or not t.is_floating_point():
        return t
    buffer = t.new_full((t.numel() + 512,), float("nan"))
    buffer[256:-256] = t.flatten()
    return buffer[256:-256].view_as(t)

results = {}
for key, (inputs, kept, grad) in torch.load(sys.argv[1]).items():
    inputs = [guarded(t) for t in inputs]
    arguments = (*inputs[:6], kept, *(inputs[6:] or (None, None)))
    gated = len(inputs) > 6
    out, y, states = selective_triton.forward(*arguments, gated, True)
    assert torch.equal(out, selective_triton.forward(*arguments, False, False)[0])
    asked = [True] * 6 + [gated] * 2
    gradients = selective_triton.backward(guarded(grad), *arguments, guarded(y), guarded(states), asked)
    results[key] = [out, *gradients[: len(inputs)]]
    if key[0] != 1 or grad.dtype != torch.float32:  # the first that is gated
        continue
    # Each gradient by itself, and all others: of what none of them reads there is nothing.
    for number in range(8):
        for others in (False, True):
            needs = [(i == number) != others for i in range(8)]
            kept_y, kept_states = selective._Needs(*needs).kept()
            _, y, states = selective_triton.forward(*arguments, kept_y, kept_states)
            read = selective._Needs(*needs).inputs()
            empty = grad.new_empty(0)
            x, dt, A, B, C = (t if n else empty for t, n in zip(inputs[:5], read))
            D, bias, z = (t if n else None for t, n in zip(inputs[5:], read[5:]))
            saved = x, dt, A, B, C, D, kept, bias, z, y, states
            found = selective_triton.backward(guarded(grad), *saved, needs)
            for asked, alone, together in zip(needs, found, gradients):
                assert torch.equal(alone, together) if asked else not len(alone)
torch.save(results, sys.argv[2])
"""


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, torch.dtype], list[Tensor]]:
    """Output and gradients of the kernels, by number of the case and dtype."""
    # Before 3.7 its interpreter cannot read the end of a loop with newer versions of numpy.
    pytest.importorskip("triton", minversion="3.7")
    folder = tmp_path_factory.mktemp("triton")
    work = {}
    for number, case in enumerate(INTERPRETED):
        inputs, kept, grad = example(case)
        for dtype in DTYPES:
            work[number, dtype] = ([t.to(dtype) for t in inputs], kept, grad.to(dtype))
    torch.save(work, folder / "work.pt")
    command = [sys.executable, "-c", INTERPRET, str(folder / "work.pt"), str(folder / "results.pt")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", range(len(INTERPRETED)), ids=map(str, INTERPRETED))
def test_interpreted_kernels_match_the_definition(
    interpreted: dict[tuple[int, torch.dtype], list[Tensor]], number: int, dtype: torch.dtype
) -> None:
    inputs, kept, grad = example(INTERPRETED[number])
    expected = by_definition([t.to(dtype) for t in inputs], kept, grad.to(dtype))
    assert_near(interpreted[number, dtype], expected, dtype)


@pytest.fixture
def selective_triton() -> ModuleType:
    pytest.importorskip("triton", minversion="3.6")
    from compressm_cli.ops import selective_triton

    return selective_triton


def ptx(kernel: Any, dtype: str, capability: int, **constants: object) -> str:
    """What the compiler makes of a kernel for a device that need not be here."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def kind(name: str) -> str:
        if name in ("length", "channels", "n_states") or name.endswith(("_batch", "_step")):
            return "i32"
        return "*i64" if name in ("order", "kept") else f"*{dtype}"

    signature = {name: kind(name) for name in kernel.arg_names} | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constexprs=constants)
    return triton.compile(source, GPUTarget("cuda", capability, 32)).asm["ptx"]


@pytest.mark.parametrize(
    ("dtype", "capability", "gated", "some"),
    # Every two of them in each way.
    [
        ("fp32", 80, False, False),
        ("fp32", 80, True, True),
        ("fp64", 90, False, True),
        ("fp64", 90, True, False),
    ],
)
def test_kernels_compile_for_devices_that_are_not_here(
    selective_triton: ModuleType,
    dtype: str,
    capability: int,
    gated: bool,
    some: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = {"STEPS": selective_triton.STEPS, "LANES": selective_triton.LANES, "GATED": gated}
    forward = ptx(
        selective_triton._forward_kernel,
        dtype,
        capability,
        SORTED=some,
        KEEP_Y=gated,
        SAVE=not some,
        **sizes,
    )
    asked = dict.fromkeys(selective_triton.ASKED, True) | {"OF_BIAS": gated, "OF_Z": gated}
    backward = ptx(selective_triton._backward_kernel, dtype, capability, SORTED=some, **asked, **sizes)
    # States go from thread to thread through memory.
    assert "bar.sync" in forward
    assert "bar.sync" in backward


LAZY = """
import sys
sys.modules["triton"] = None  # importing it raises
from compressm_cli.ops import selective_scan
print("compressm_cli.ops.selective_triton" in sys.modules)
"""


def test_triton_is_not_needed_for_importing_the_operator() -> None:
    run = subprocess.run([sys.executable, "-c", LAZY], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "False"


@pytest.fixture
def fresh_choice() -> Any:
    selective._cuda_kernels.cache_clear()
    yield
    selective._cuda_kernels.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
def test_without_triton_cuda_gets_plain_pytorch_and_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan.importlib.util, "find_spec", {}.get)
    with pytest.warns(UserWarning, match="triton is not installed"):
        assert selective._cuda_kernels() is selective_torch


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnDevice:
    def on_device(self, case: Case, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Of the operator, and by definition."""
        inputs, kept, grad = example(case)
        leaves = [t.to("cuda", dtype).requires_grad_() for t in inputs]
        kept = None if kept is None else kept.cuda()
        grad = grad.to("cuda", dtype)
        if case.gated:
            x, dt, A, B, C, D, bias, z = leaves
            y = selective_scan_gated(x, dt, bias, A, B, C, D, z, kept)
        else:
            y = selective_scan(*leaves, kept=kept)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)], by_definition(leaves, kept, grad)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("case", ON_DEVICE, ids=str)
    def test_operator_matches_the_definition(self, case: Case, dtype: torch.dtype) -> None:
        actual, expected = self.on_device(case, dtype)
        assert_near(actual, expected, dtype)
        again, _ = self.on_device(case, dtype)
        assert all(torch.equal(a, b) for a, b in zip(actual, again, strict=True))

    def test_operator_uses_the_kernels(self, selective_triton: ModuleType) -> None:
        assert selective._cuda_kernels() is selective_triton

    def test_operator_keeps_the_rules_of_custom_operators(self) -> None:
        inputs, kept, _ = example(Case(2, 70, 18, 3, some=True))
        leaves = [t.to("cuda", torch.float32).requires_grad_() for t in inputs]
        arguments = (*leaves, kept.cuda(), None, None, True)
        torch.library.opcheck(torch.ops.compressm.selective_scan_v2.default, arguments)

    def test_operator_compiles_whole(self) -> None:
        inputs, kept, grad = example(Case(2, 70, 18, 3, some=True))
        leaves = [t.to("cuda", torch.float32).requires_grad_() for t in inputs]
        expected = by_definition(leaves, kept.cuda(), grad.cuda())
        y = torch.compile(selective_scan, fullgraph=True)(*leaves, kept=kept.cuda())
        gradients = torch.autograd.grad(y, leaves, grad.to("cuda", torch.float32))
        assert_near([y.detach(), *gradients], expected, torch.float32)
