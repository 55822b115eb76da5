"""The constants of the cost model, fitted to timings of small problems on this machine and kept in the user's cache."""

import hashlib
import json
import platform
import time

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from compressm_cli.core.caches import remember, remembered
from compressm_cli.ops.forms import DEFAULT, FORMS, CostModel, Form, Problem, terms
from compressm_cli.ops.machine import is_busy, processor_name
from compressm_cli.ops.ssm import diagonal_ssm

VERSION = 1
"""Of the terms, and of the implementations that are timed."""
PROBLEMS = [
    Problem(batch, length, states, channels, channels)
    for batch, length, states, channels in (
        (8, 64, 16, 4),
        (8, 64, 128, 32),
        (32, 64, 16, 32),
        (8, 500, 128, 8),
        (8, 500, 16, 1),
        (32, 250, 16, 16),
        (32, 250, 64, 4),
        (4, 1000, 8, 24),
        (4, 1000, 64, 48),
    )
]
"""What is timed: each term dominates somewhere."""
REPEATS = 5


def calibrated(device: torch.device, precision: str) -> CostModel:
    """The cost model of this machine: from the cache, else measured (about two seconds) and kept there.

    A machine that is busy with other work is not measured: its threads wait for one another in one form more than in
    the other. The built-in costs stand in, and the next process tries again.
    ``precision`` is fp32, tf32 or bf16, as a recipe has it; bf16 stands for autocast.
    """
    name = f"forms-{_machine(device, precision)}.json"
    try:
        saved = remembered(name)
        return CostModel({form: tuple(map(float, saved[form])) for form in FORMS})
    except (ValueError, KeyError, TypeError):
        pass  # not there, or not whole
    if is_busy():
        return DEFAULT
    model = measure(device, precision)
    remember(name, model.constants)
    return model


def _machine(device: torch.device, precision: str) -> str:
    """Everything that the constants depend on, as a name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    facts = [
        VERSION,
        device.type,
        name,
        platform.machine(),
        torch.__version__,
        torch.get_num_threads(),
        precision,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def measure(device: torch.device, precision: str) -> CostModel:
    """Time both forms of ``PROBLEMS``, forward and backward, and fit the constants; the random state is kept."""
    generator = torch.Generator().manual_seed(0)
    constants = {}
    for form in FORMS:
        seconds = np.array([_time(form, problem, device, precision, generator) for problem in PROBLEMS])
        counts = np.array([terms(form, problem) for problem in PROBLEMS])
        # Relative errors count, so that small problems are as well described as large ones.
        fitted, _ = nnls(counts / seconds[:, None], np.ones(len(PROBLEMS)))
        constants[form] = tuple(map(float, fitted))
    return CostModel(constants)


def _time(
    form: Form, problem: Problem, device: torch.device, precision: str, generator: torch.Generator
) -> float:
    """The least of a few timings, in seconds."""
    inputs = [t.to(device).requires_grad_() for t in _example(problem, generator)]
    timings = []
    for _ in range(REPEATS):
        _wait(device)
        began = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            y = diagonal_ssm(*inputs, form=form)  # type: ignore[misc, arg-type]
        torch.autograd.grad(y, inputs, torch.ones_like(y))
        _wait(device)
        timings.append(time.perf_counter() - began)
    return min(timings)


def _example(problem: Problem, generator: torch.Generator) -> list[Tensor]:
    n, p, q = problem.state_dim, problem.inputs, problem.outputs
    shapes = [(problem.batch, problem.length, p), (n, p), (n, p), (q, n), (q, n)]
    u, *matrices = (torch.randn(shape, generator=generator) for shape in shapes)
    log_abs = -torch.rand(n, generator=generator).clamp_min(1e-3)
    return [u, log_abs, torch.rand(n, generator=generator), *matrices]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
