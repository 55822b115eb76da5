"""``bench``: what a recipe's training step and inference take on this machine, at several orders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from compressm_cli.core.errors import BadInputError
from compressm_cli.engine.experiment import check_recipe
from compressm_cli.engine.threads import choose_threads, using
from compressm_cli.engine.trainee import Setting
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.measure.flops import CONVENTION, training_step_flops
from compressm_cli.measure.probe import example_batch
from compressm_cli.measure.roof import DEFINITION, Roof, measure_roof
from compressm_cli.models import build_model
from compressm_cli.ops.machine import is_busy
from compressm_cli.recipe import Recipe
from compressm_cli.reports.decoding import decoding_speed, obstacle
from compressm_cli.reports.step_memory import StepMemory, step_memory
from compressm_cli.reports.timing import StepTimes, time_steps
from compressm_cli.structure import surgery


@dataclass(frozen=True)
class BenchRow:
    """The recipe's model at one order: what was counted and what was measured."""

    order: int | None
    """State dimension of every layer; None where they differ."""
    orders: dict[str, int]
    """State dimension by layer."""
    forms: dict[str, str]
    """In which the recurrence of each layer is computed: convolution or recurrent."""
    parameters: int
    batch_size: int
    """Sequences of a step."""
    length: int
    """Steps of a sequence, none of them padding."""
    step_seconds: float
    """A training step (forward, backward, update): the median over the rounds."""
    step_seconds_least: float
    """The shortest round's."""
    tokens_per_second: float
    """Steps of sequences that a training step takes in: batch_size x length / step_seconds."""
    times_faster: float
    """step_seconds of the first row over that of this one."""
    flops_per_step: int
    """Counted as ``flop_convention`` says."""
    roof_fraction: float
    """(flops_per_step / roof_flops_per_second) / step_seconds; see ``roof_definition``."""
    roof_flops_per_second: float
    roof_bytes_per_second: float
    """Of a copy in memory, bytes read plus bytes written."""
    peak_bytes: int | None
    """None where it was not measured, for the reason beside it."""
    peak_bytes_kind: str
    peak_bytes_reason: str | None
    inference_seconds: float
    """A sequence, in a forward pass of the same batch in evaluation mode without gradient: the median."""
    decoding_tokens_per_second: float | None
    """Of ``decoding_batch`` sequences together, one time step after the other, in fp32; this and the next ones are None
    where a model cannot be stepped, for the ``decoding_reason``."""
    decoding_batch: int | None
    decoding_times_faster: float | None
    """Than the first row: the median over the rounds."""
    state_bytes: int | None
    """What is kept of a sequence between two steps."""
    first_token_seconds: float | None
    """From a prompt of ``length`` steps of one sequence to the scores after it: the median."""
    decoding_reason: str | None
    rounds: int
    precision: str
    device: str
    threads: int
    """Of PyTorch on the CPU."""
    flop_convention: str = CONVENTION
    roof_definition: str = DEFINITION


@dataclass(frozen=True)
class BenchReport:
    """One row an order, in the order asked for."""

    recipe: str
    rows: list[BenchRow]
    roof: Roof
    busy: bool = False
    """Whether other work kept the machine busy when it was measured."""


def bench(
    recipe: Recipe,
    orders: Sequence[int] | None = None,
    rounds: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Measure the recipe's model with every layer at each of some orders; None is the recipe's own.

    The data are random, of the shape of the recipe's; they are loaded only if their shape is not known otherwise.
    ``rounds`` None takes as many as fit into some ten seconds. ``tell`` hears what is going on. Raises BadInputError
    where the recipe cannot be trained here. CPU threads are as many as a run of the recipe would take.
    """
    check_recipe(recipe)
    data, busy = recipe.data.spec(), is_busy()
    with using(choose_threads(recipe, data)):
        return replace(_measured(Setting.of(recipe, data), orders, rounds, tell), busy=busy)


def _measured(
    setting: Setting, orders: Sequence[int] | None, rounds: int | None, tell: Callable[[str], None]
) -> BenchReport:
    recipe, models = setting.recipe, model_orders(setting, orders)
    tell(f"measuring the roof of {setting.device}")
    roof = measure_roof(setting.device, recipe.train.precision)
    tell("measuring peak memory, one order after the other")
    memory = step_memory(setting, models)
    tell("timing training steps and inference, the orders in alternation")
    times = time_steps(setting, models, rounds)
    tell("timing decoding, the orders in alternation")
    decoded = _decoding(setting, models)
    rows = [
        _row(setting, each, roof, found, times[0], peak, decoding)
        for each, found, peak, decoding in zip(models, times, memory, decoded, strict=True)
    ]
    return BenchReport(recipe.name, rows, roof)


@torch.random.fork_rng(devices=[])
def model_orders(setting: Setting, orders: Sequence[int] | None) -> list[dict[str, int]]:
    """Every layer's order, by module name, of each model: the recipe's own, or the same one for all layers."""
    own = surgery.orders(build_model(setting.recipe.model, setting.data))
    if orders is not None and not own:
        raise BadInputError("--orders: the model has no state space layers, and so no orders; leave it out")
    return [own] if orders is None else [dict.fromkeys(own, order) for order in orders]


@torch.random.fork_rng(devices=[])
def _decoding(setting: Setting, orders: list[dict[str, int]]) -> list[dict[str, Any]]:
    """The fields of each row that are of decoding."""
    models = [setting.model(each) for each in orders]
    reason = obstacle(models)
    if reason is not None:
        names = ("tokens_per_second", "batch", "times_faster")
        nothing = dict.fromkeys(
            [*(f"decoding_{name}" for name in names), "state_bytes", "first_token_seconds"]
        )
        return [{**nothing, "decoding_reason": reason} for _ in models]
    found = decoding_speed(models, setting.data, setting.device)
    steps = found.batches[-1]
    return [
        {
            "decoding_tokens_per_second": steps.tokens_per_second[i],
            "decoding_batch": steps.batch,
            "decoding_times_faster": steps.ratios[i].value,
            "state_bytes": found.state_bytes[i],
            "first_token_seconds": found.first_token_seconds[i],
            "decoding_reason": None,
        }
        for i in range(len(models))
    ]


@torch.random.fork_rng(devices=[])
def _row(
    setting: Setting,
    orders: dict[str, int],
    roof: Roof,
    times: StepTimes,
    first: StepTimes,
    memory: StepMemory,
    decoding: dict[str, Any],
) -> BenchRow:
    model, data, rows = setting.model(orders), setting.data, setting.rows
    flops, seconds = (
        training_step_flops(model, example_batch(data, rows), setting.objective),
        times.step_seconds,
    )
    return BenchRow(
        order=next(iter(orders.values())) if len(set(orders.values())) == 1 else None,
        orders=orders,
        forms={name: str(layer.form) for name, layer in state_space_layers(model).items()},
        parameters=sum(p.numel() for p in model.parameters()),
        batch_size=rows,
        length=data.length,
        step_seconds=seconds,
        step_seconds_least=min(times.step),
        tokens_per_second=rows * data.length / seconds,
        times_faster=first.step_seconds / seconds,
        flops_per_step=flops,
        roof_fraction=roof.fraction(flops, seconds),
        roof_flops_per_second=roof.flops_per_second,
        roof_bytes_per_second=roof.bytes_per_second,
        peak_bytes=memory.bytes,
        peak_bytes_kind=memory.kind,
        peak_bytes_reason=memory.reason,
        inference_seconds=times.inference_seconds,
        **decoding,
        rounds=len(times.step),
        precision=roof.precision,
        device=roof.device,
        threads=roof.threads,
    )
