"""``compressm doctor``: what this machine offers, and what will be used of it."""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path

import typer

from compressm_cli import __version__
from compressm_cli.cli.commands import Command
from compressm_cli.cli.console import escape, stdout, table
from compressm_cli.cli.parameters import Json
from compressm_cli.core.caches import Place, obstacle
from compressm_cli.core.quantities import quantity


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``ok`` is None where there is nothing to judge."""

    group: str
    name: str
    ok: bool | None
    detail: str


LIBRARIES = (
    ("numba", "numba", "recurrences on the CPU", "pip install numba"),
    ("datasets", "datasets", "data from files and from the hub", "pip install datasets"),
    ("triton", "triton", "fused kernels on CUDA", "comes with the CUDA builds of torch"),
    ("mamba_ssm", "mamba-ssm", "fused Mamba layers on CUDA", "pip install 'compressm[mamba]'"),
)
"""Module, distribution, what it is for, how to get it."""


app = typer.Typer(add_completion=False)


@app.command(cls=Command)
def doctor(as_json: Json = False) -> None:
    """Show what this machine offers, and what will be used of it. Makes no network access."""
    found = findings()
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in found], indent=2))
        return
    for group in dict.fromkeys(finding.group for finding in found):
        rows = table(group, "", "")
        for finding in found:
            if finding.group == group:
                mark = {True: "[green]yes[/]", False: "[yellow]no[/]", None: ""}[finding.ok]
                rows.add_row(escape(finding.name), mark, escape(finding.detail))
        stdout().print(rows)


def findings() -> list[Finding]:
    """Everything that the report says, in its order."""
    return [*_software(), *_processor(), *_cuda(), *_libraries(), *_backends(), *_joules(), *_folders()]


def _software() -> list[Finding]:
    import torch

    return [
        Finding("software", "compressm", None, __version__),
        Finding("software", "python", None, f"{platform.python_version()}, {sys.executable}"),
        Finding("software", "torch", None, f"{torch.__version__}, {torch.get_num_threads()} threads"),
    ]


def _processor() -> list[Finding]:
    from compressm_cli.ops.machine import processor_name

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Finding("machine", "system", None, platform.platform()),
        Finding("machine", "processor", None, f"{processor_name()}, {usable} cores usable"),
        Finding("machine", "memory", None, _memory()),
        _bfloat16(),
    ]


def _bfloat16() -> Finding:
    import torch

    from compressm_cli.engine.precision import bfloat16_is_slow

    slow = bfloat16_is_slow(torch.device("cpu"))
    detail = (
        "no instructions for it: precision bf16 is far slower than fp32 on the CPU" if slow else "on the CPU"
    )
    return Finding("machine", "bfloat16", not slow, detail)


def _memory() -> str:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown: this system does not tell"
    return quantity(size, "bytes")


def _cuda() -> list[Finding]:
    import torch

    if torch.version.cuda is None:
        return [Finding("cuda", "device", False, f"torch {torch.__version__} is built without CUDA")]
    if not torch.cuda.is_available():
        return [Finding("cuda", "device", False, "no CUDA device, or no driver for it")]
    found = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        memory = quantity(device.total_memory, "bytes")
        detail = f"{device.name}, {memory}, capability {device.major}.{device.minor}"
        found.append(Finding("cuda", f"cuda:{index}", True, detail))
    return found


def _libraries() -> list[Finding]:
    return [Finding("libraries", module, *_library(module, *rest)) for module, *rest in LIBRARIES]


def _library(module: str, distribution: str, purpose: str, how: str) -> tuple[bool, str]:
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False, f"not installed: {purpose}; {how}"
    try:
        import_module(module)
    except Exception as error:  # a broken binary can raise anything
        return False, f"{version} is installed but cannot be imported: {' '.join(str(error).split())}"
    return True, version


def _backends() -> list[Finding]:
    from compressm_cli.ops import available_backends

    return [*(Finding("recurrences", *backend) for backend in available_backends()), *_forms()]


def _forms() -> list[Finding]:
    """Which form some typical layers take here, by the calibrated cost model."""
    import torch

    from compressm_cli.ops.calibration import calibrated
    from compressm_cli.ops.forms import FORMS, Problem

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    costs = calibrated(device, "fp32")
    found = []
    for states, width in ((256, 8), (16, 8), (64, 128)):
        problem = Problem(32, 1024, states, width, width)
        seconds = ", ".join(f"{form} {1e3 * costs.seconds(form, problem):.3g} ms" for form in FORMS)
        name = f"N={states}, H={width}"
        found.append(Finding("recurrences", name, None, f"{costs.cheapest(problem)} on {device} ({seconds})"))
    return found


def _joules() -> list[Finding]:
    from compressm_cli.measure.joules import available_sources

    return [Finding("joules", *source) for source in available_sources()]


def _folders() -> list[Finding]:
    from compressm_cli import ops
    from compressm_cli.core.caches import cache_place
    from compressm_cli.core.kernels import kernel_place

    places = {"cache": cache_place(), "compiled kernels": kernel_place(Path(ops.__file__).parent)}
    return [
        Finding("folders", "outputs", *_writable(Path("outputs"))),
        *(Finding("folders", name, *_kept(place)) for name, place in places.items()),
    ]


def _kept(place: Place) -> tuple[bool, str]:
    """Whether there is a folder for what is kept, and which and why."""
    if place.folder is None:
        return False, f"none: {place.why}"
    ok, detail = _writable(place.folder)
    return ok, f"{detail} ({place.why})"


def _writable(path: Path) -> tuple[bool, str]:
    """Whether the folder, or the closest one above it that exists, can be written to."""
    path = path.absolute()
    if problem := obstacle(path):
        return False, f"{path}: {problem}"
    return True, str(path) if path.is_dir() else f"{path} (will be made)"
