"""The scan's Triton kernels: interpreted on a CPU, compiled without a device, and run on one (marked ``cuda``)."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from compressm_cli.ops import diagonal_scan, reference, scan, torch_scan

Inputs = tuple[Tensor, Tensor, Tensor]

DTYPES = [(torch.float64, 1e-12), (torch.float32, 2e-5)]
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Case(NamedTuple):
    """chunk None: what the device asks for."""

    batch: int
    length: int
    n: int
    chunk: int | None
    poles: str = "spread"


INTERPRETED = [
    Case(1, 1, 1, 1),
    Case(2, 1, 3, 4),
    Case(1, 2, 1, 1),
    Case(3, 7, 4, 1),  # as many chunks as steps
    Case(2, 63, 3, 16),
    Case(1, 64, 2, 64),  # one chunk, full
    Case(2, 16, 3, 4),  # full chunks
    Case(5, 65, 1, 64),  # one step in the last chunk
    Case(2, 7, 33, 2),  # three blocks of states, across the rows
    Case(1, 9, 32, 16),  # one block of states, full
    Case(2, 33, 3, 8, "slow"),
    Case(2, 9, 3, 4, "zero"),
]
ON_DEVICE = [
    *INTERPRETED,
    Case(64, 65, 33, None),
    Case(3, 1023, 5, None),  # split
    Case(1, 4097, 1, None),  # split
    Case(2, 1500, 7, None, "slow"),
    Case(40, 100, 130, None),
]


def example(case: Case) -> tuple[Inputs, Tensor]:
    """x and poles, and the weight of each output in a loss; float64."""
    generator = torch.Generator().manual_seed(case.batch * 1000 + case.length * 10 + case.n)
    x, weight = torch.randn(2, case.batch, case.length, 2 * case.n, generator=generator, dtype=torch.float64)
    size = {
        "spread": torch.linspace(0.3, 0.999, case.n, dtype=torch.float64),
        "slow": torch.full((case.n,), 0.9999, dtype=torch.float64),
        "zero": torch.zeros(case.n, dtype=torch.float64),
    }[case.poles]
    angle = torch.linspace(0, 3, case.n, dtype=torch.float64)
    return (x, size * torch.cos(angle), size * torch.sin(angle)), weight


def by_definition(inputs: Inputs, weight: Tensor) -> list[Tensor]:
    """Output and gradients in float64, of inputs of whatever precision."""
    inputs, weight = cast(inputs, weight, torch.float64)
    return with_gradients(reference.diagonal_scan, inputs, weight)


def with_gradients(function: Callable[..., Tensor], inputs: Inputs, weight: Tensor) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    h = function(*leaves)
    return [h.detach(), *torch.autograd.grad((h * weight).sum(), leaves)]


def cast(inputs: Inputs, weight: Tensor, dtype: torch.dtype, device: str = "cpu") -> tuple[Inputs, Tensor]:
    x, poles_re, poles_im, weight = (t.to(device, dtype) for t in (*inputs, weight))
    return (x, poles_re, poles_im), weight


def assert_near(actual: list[Tensor], expected: list[Tensor], dtype: torch.dtype, tolerance: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert (a.dtype, a.shape) == (dtype, e.shape)
        scale = e.abs().max().clamp_min(1.0)
        assert ((a.double().cpu() - e).abs().max() / scale).item() <= tolerance


# Inputs lie between NaNs, so that nothing beside them can be read unnoticed.
INTERPRET = """
import sys
import torch
from compressm_cli.ops import triton_scan

def guarded(t):
    buffer = t.new_full((t.numel() + 512,), float("nan"))
    buffer[256:-256] = t.flatten()
    return buffer[256:-256].view_as(t)

results = {}
for key, (inputs, weight, chunk) in torch.load(sys.argv[1]).items():
    x, *poles = map(guarded, inputs)
    h = triton_scan.scan_forward(x, *poles, chunk=chunk)
    results[key] = [h, *triton_scan.scan_backward(guarded(weight), guarded(h), *poles, chunk=chunk)]
    x_alone = triton_scan.scan_backward(guarded(weight), None, *poles, chunk=chunk)
    poles_alone = triton_scan.scan_backward(guarded(weight), guarded(h), *poles, False, chunk)
    assert [len(t) for t in (*x_alone[1:], poles_alone[0])] == [0, 0, 0]
    for alone, together in zip((x_alone[0], *poles_alone[1:]), results[key][1:]):
        assert torch.equal(alone, together)
torch.save(results, sys.argv[2])
"""


def in_a_fresh_process(code: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, torch.dtype], list[Tensor]]:
    """Output and gradients of the kernels, by number of the case and dtype."""
    # Before 3.7 its interpreter cannot read the end of a loop with newer versions of numpy.
    pytest.importorskip("triton", minversion="3.7")
    folder = tmp_path_factory.mktemp("triton")
    work = {
        (number, dtype): (*cast(*example(case), dtype), case.chunk)
        for number, case in enumerate(INTERPRETED)
        for dtype, _ in DTYPES
    }
    torch.save(work, folder / "work.pt")
    in_a_fresh_process(INTERPRET, folder / "work.pt", folder / "results.pt", TRITON_INTERPRET="1")
    return torch.load(folder / "results.pt")


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("number", range(len(INTERPRETED)), ids=map(str, INTERPRETED))
def test_interpreted_kernels_match_the_definition(
    interpreted: dict[tuple[int, torch.dtype], list[Tensor]],
    number: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    expected = by_definition(*cast(*example(INTERPRETED[number]), dtype))
    assert_near(interpreted[number, dtype], expected, dtype, tolerance)


@pytest.fixture
def triton_scan() -> ModuleType:
    pytest.importorskip("triton", minversion="3.6")
    from compressm_cli.ops import triton_scan

    return triton_scan


def ptx(kernel: Any, dtype: str, capability: int, sizes: str, **constants: object) -> str:
    """What the compiler makes of a kernel for a device that need not be here. Sizes of 1 are compiled in, as Triton
    does when it is called with them."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if sizes == "one":
        constants |= dict.fromkeys(("batch", "length", "n", "chunk"), 1)
    integers = {"batch", "length", "n", "chunk", "doublings"}
    signature = {name: "i32" if name in integers else f"*{dtype}" for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constexprs=constants)
    return triton.compile(source, GPUTarget("cuda", capability, 32), options={"num_warps": 1}).asm["ptx"]


@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        ("_ends_kernel", {"REVERSE": False}),
        ("_ends_kernel", {"REVERSE": True}),
        ("_forward_kernel", {}),
        ("_backward_kernel", {"OF_X": True, "OF_POLES": True}),
    ],
)
def test_kernels_compile_for_devices_that_are_not_here(
    triton_scan: ModuleType,
    kernel: str,
    constants: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {**constants, "LANES": triton_scan.LANES}
    function = getattr(triton_scan, kernel)
    for dtype, capability in (("fp32", 80), ("fp64", 90)):
        # The inputs of later steps are loaded ahead: without that, each step would wait for memory.
        assert "cp.async" in ptx(function, dtype, capability, "any", **constants)
    assert ptx(function, "fp32", 75, "one", **constants)


@pytest.mark.parametrize("processors", [16, 132])
@pytest.mark.parametrize("length", [1, 2, 63, 256, 257, 1000, 4096, 100_000])
@pytest.mark.parametrize("programs", [1, 7, 128, 5000])
def test_time_is_split_only_where_that_makes_more_programs_at_once(
    triton_scan: ModuleType, programs: int, length: int, processors: int
) -> None:
    steps = triton_scan.steps_per_program(programs, length, processors)
    chunks = -(-length // steps)
    assert steps.bit_count() == 1
    assert chunks == 1 or 4 <= chunks <= steps
    assert chunks == 1 or steps >= triton_scan.MIN_CHUNK
    assert chunks == 1 or chunks * programs <= triton_scan.PROGRAMS_PER_PROCESSOR * processors
    if programs == 1 and length >= 1000:
        assert chunks >= 4


def test_long_sequences_fill_the_device(triton_scan: ModuleType) -> None:
    steps = triton_scan.steps_per_program(programs=128, length=4096, processors=132)
    assert 128 * (4096 // steps) >= 8 * 132


LAZY = """
import sys
sys.modules["triton"] = None  # importing it raises
from compressm_cli.ops import diagonal_scan, scan, torch_scan
print("compressm_cli.ops.triton_scan" in sys.modules)
"""


def test_triton_is_not_needed_for_importing_the_operator() -> None:
    assert in_a_fresh_process(LAZY).strip() == "False"


@pytest.fixture
def fresh_choice() -> Any:
    scan._cuda_kernels.cache_clear()
    yield
    scan._cuda_kernels.cache_clear()


@pytest.mark.usefixtures("fresh_choice")
@pytest.mark.parametrize("missing", ["triton", "C compiler", "C headers"])
def test_without_what_triton_needs_cuda_gets_plain_pytorch_and_a_warning(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"triton": object()}
    monkeypatch.setattr(scan.importlib.util, "find_spec", found.get)
    monkeypatch.setenv("CC", "cc")
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    assert scan.triton_obstacle() is None
    if missing == "triton":
        del found["triton"]
    if missing == "C compiler":
        monkeypatch.delenv("CC")
        monkeypatch.setenv("PATH", str(tmp_path))
    if missing == "C headers":
        (tmp_path / "Python.h").unlink()
    with pytest.warns(UserWarning, match=missing):
        assert scan._cuda_kernels() is torch_scan


@pytest.mark.cuda
@NEEDS_CUDA
class TestOnDevice:
    @pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
    @pytest.mark.parametrize("case", ON_DEVICE, ids=str)
    def test_kernels_match_the_definition(
        self, triton_scan: ModuleType, case: Case, dtype: torch.dtype, tolerance: float
    ) -> None:
        (x, *poles), weight = cast(*example(case), dtype, "cuda")
        expected = by_definition((x, *poles), weight)
        h = triton_scan.scan_forward(x, *poles, chunk=case.chunk)
        actual = [h, *triton_scan.scan_backward(weight, h, *poles, chunk=case.chunk)]
        again = [h, *triton_scan.scan_backward(weight, h, *poles, chunk=case.chunk)]
        assert_near(actual, expected, dtype, tolerance)
        assert all(torch.equal(a, b) for a, b in zip(actual, again, strict=True))

    def test_operator_uses_them(self, triton_scan: ModuleType) -> None:
        assert scan._cuda_kernels() is triton_scan

    @pytest.mark.parametrize(
        "case", [Case(2, 63, 3, None), Case(1, 1, 1, None), Case(2, 600, 5, None)], ids=str
    )
    def test_operator_compiles_whole(self, case: Case) -> None:
        inputs, weight = cast(*example(case), torch.float32, "cuda")
        expected = by_definition(inputs, weight)

        def scaled(x: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
            return 0.5 * diagonal_scan(2 * x.transpose(0, 1).transpose(0, 1), poles_re, poles_im)

        compiled = torch.compile(scaled, fullgraph=True)
        assert_near(with_gradients(compiled, inputs, weight), expected, torch.float32, 2e-5)

    @pytest.mark.parametrize(
        "case", [Case(2, 5, 3, None), Case(1, 1, 1, None), Case(2, 600, 5, None)], ids=str
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_operators_keep_the_rules_of_custom_operators(self, case: Case, dtype: torch.dtype) -> None:
        (x, poles_re, poles_im), weight = cast(*example(case), dtype, "cuda")
        leaves = tuple(t.clone().requires_grad_() for t in (x, poles_re, poles_im))
        torch.library.opcheck(torch.ops.compressm.diagonal_scan_v2.default, leaves)
        torch.library.opcheck(
            torch.ops.compressm.diagonal_scan_backward_v2.default, (weight, x, poles_re, poles_im, True)
        )

    @pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3)])
    def test_nothing_in_nothing_out(self, shape: tuple[int, int, int]) -> None:
        inputs, weight = cast(*example(Case(*shape, None)), torch.float32, "cuda")
        results = with_gradients(diagonal_scan, inputs, weight)
        assert results[0].shape == (shape[0], shape[1], 2 * shape[2])
        assert results[2].tolist() == results[3].tolist() == [0.0] * shape[2]

    def test_views_and_gradients_of_any_layout(self) -> None:
        (x, poles_re, poles_im), weight = cast(*example(Case(3, 70, 4, None)), torch.float32, "cuda")
        expected = by_definition((x, poles_re, poles_im), torch.ones_like(weight))
        view = x.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
        poles = torch.stack([poles_re, poles_im], dim=1).requires_grad_()
        h = diagonal_scan(view, poles[:, 0], poles[:, 1])
        dx, dpoles = torch.autograd.grad(h.sum(), (view, poles))
        assert_near([h.detach(), dx, dpoles[:, 0], dpoles[:, 1]], expected, torch.float32, 2e-5)
