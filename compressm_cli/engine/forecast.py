"""What a recipe will do, known without training: shapes, FLOPs, memory, check steps."""

from dataclasses import dataclass

import torch
from torch import nn

from compressm_cli.data.interface import DataSpec
from compressm_cli.data.report import Report
from compressm_cli.engine.course import Course
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.experiment import check_recipe
from compressm_cli.engine.inheriting import inherited
from compressm_cli.engine.precision import resolve_device
from compressm_cli.engine.teaching import checked, taught, teacher_of
from compressm_cli.engine.workload import Workload
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.measure.flops import CONVENTION
from compressm_cli.measure.memory import batch_bytes, held_bytes, inference_bytes, step_bytes, trained_bytes
from compressm_cli.measure.probe import example_batch
from compressm_cli.methods.faults import ask
from compressm_cli.methods.method import Method
from compressm_cli.methods.registry import method_of
from compressm_cli.models import blocks_of, build_model
from compressm_cli.objectives import Objective
from compressm_cli.recipe import Recipe
from compressm_cli.recipe.bounds import least_parameters
from compressm_cli.structure import surgery

LARGE_MODEL = 100_000_000
"""Parameters from which on a model is not made to forecast its run."""


@dataclass(frozen=True)
class MemoryForecast:
    """Bytes of tensors that one process holds at most, the data set not among them, before the first cut."""

    step: int
    """In a training step."""
    evaluation: int
    check: int
    """While calibration batches of a compression check are passed; 0 where there is no check."""
    checkpoint: int
    """While a checkpoint is written, whose copies are on the CPU; 0 on a GPU."""
    rows: int
    """Passed through the model at once in training."""
    processes: int
    sharded: bool
    """Whether each process has a part of the model."""

    @property
    def largest(self) -> tuple[int, str]:
        """The peak, and when it is reached."""
        moments = {
            "in training steps": self.step,
            "in evaluations": self.evaluation,
            "in compression checks": self.check,
            "while a checkpoint is written": self.checkpoint,
        }
        when = max(moments, key=lambda name: moments[name])
        return moments[when], when


@dataclass(frozen=True)
class Forecast:
    """What a recipe will do, known without training."""

    data: DataSpec
    device: str
    orders: dict[str, int]
    parameters: int
    training_step_flops: int
    inference_flops_per_sequence: int
    memory: MemoryForecast
    course: Course
    check_steps: list[int]
    """In steps of ``course.total``."""
    report: Report | None = None
    """What was read of the user's files."""
    flop_convention: str = CONVENTION


def forecast(recipe: Recipe, group: Group | None = None) -> Forecast:
    """Shapes, FLOPs, memory and check steps of a recipe; the data are loaded only if their shape is not known.

    FLOPs are those that a run by these processes on this machine counts, before its first cut; memory is that of one
    of them.
    """
    check_recipe(recipe)
    group = group or Group()
    spec, report = recipe.data.described()
    if teacher_of(recipe) is not None:
        checked(recipe, recipe.data.dataset())
    if recipe.train.initial is not None:
        inherited(recipe, recipe.seeds[0], recipe.data.dataset())
    # Of a large one shapes are enough; the memory of a small one is counted exactly.
    with torch.device("meta" if least_parameters(recipe) > LARGE_MODEL else "cpu"):
        model = build_model(recipe.model, spec)
    batch_size = min(recipe.train.batch_size, spec.rows[0] or recipe.train.batch_size)
    objective = taught(recipe, spec, next(model.parameters()).device)
    work = Workload(recipe.train, spec, batch_size, group, objective)
    counted = work.measures(model, model, work.costs_here(model, resolve_device(recipe.device)))
    method = method_of(recipe.compression)
    course = Course.counted(recipe, counted["step"])
    checks = ask(method, Method.check_steps, course.total)
    return Forecast(
        data=spec,
        report=report,
        device=str(resolve_device(recipe.device)),
        orders=surgery.orders(model),
        parameters=counted["parameters"],
        training_step_flops=counted["step"],
        inference_flops_per_sequence=counted["inference"],
        memory=_memory(recipe, spec, model, method, work, batch_size, group, objective, checks),
        course=course,
        check_steps=checks,
    )


def _memory(
    recipe: Recipe,
    spec: DataSpec,
    model: nn.Module,
    method: Method,
    work: Workload,
    batch_size: int,
    group: Group,
    objective: Objective,
    check_steps: list[int],
) -> MemoryForecast:
    config, on_cpu = recipe.train, resolve_device(recipe.device).type == "cpu"
    sharded = config.parallel == "fsdp" and not group.is_alone
    share = group.size if sharded else 1
    trained, part = trained_bytes(model), example_batch(spec, work.rows)
    copies = -(-(held_bytes(model) + 2 * trained) // share)
    # A trial keeps what it may go back to, in the main process's CPU memory where the model is in parts.
    saved = 0 if recipe.compression.safety is None else copies * share
    beside = sum(map(held_bytes, objective.modules()))
    standing = copies + (saved if on_cpu or not sharded else 0) + beside
    gradients = -(-trained // share)
    # What is gathered of a model in parts for a pass, and of its gradients for the backward.
    gathered = _gathered_bytes(model, on_cpu) if sharded else 0
    # DistributedDataParallel's buckets are there all the time; without more passes they are the gradients.
    buckets = 0 if group.is_alone or sharded else trained
    own = config.accumulate > 1 or not buckets
    passes = step_bytes(model, part, config.accumulate, gradients=own and not sharded, objective=objective)
    batch = batch_bytes(example_batch(spec, batch_size)) + config.accumulate * batch_bytes(part)
    rows = _evaluated_at_once(spec, work, 1 if sharded else group.size)
    between = standing + gradients + gathered
    kept, at_once = ask(method, Method.calibration_bytes, model, work.rows, spec.length)
    return MemoryForecast(
        step=standing + buckets + (gradients + 2 * gathered if sharded else 0) + batch + passes,
        evaluation=between + inference_bytes(model, example_batch(spec, rows)),
        check=between + kept + max(at_once, inference_bytes(model, part)) if check_steps else 0,
        checkpoint=standing + gradients + copies * share if on_cpu else 0,
        rows=work.rows,
        processes=group.size,
        sharded=sharded,
    )


def _evaluated_at_once(spec: DataSpec, work: Workload, processes: int) -> int:
    """Rows that a process passes at once in evaluations, of the larger of the two splits."""
    most = max(spec.rows[1:])
    return min(work.evaluation_rows, -(-most // processes)) if most else work.evaluation_rows


def _gathered_bytes(model: nn.Module, on_cpu: bool) -> int:
    """Of parameters that FSDP2 has whole at once: those outside of blocks, and of two blocks, one of them prefetched.

    On a CPU also copies of the parameters of all layers, which the backward needs.
    """
    blocks = [held_bytes(block) for block in blocks_of(model).values()]
    lent = sum(held_bytes(layer) for layer in state_space_layers(model).values()) if on_cpu else 0
    return held_bytes(model) - sum(blocks) + 2 * max(blocks, default=0) + lent
