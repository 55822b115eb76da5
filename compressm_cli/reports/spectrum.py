"""``analyze``: the Hankel spectrum of each layer of a model, and what smaller orders would cost and save."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from compressm_cli import exchange
from compressm_cli.accounting.flops import CONVENTION, inference_flops, training_step_flops
from compressm_cli.accounting.probe import example_batch
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.compression.balanced import BalancedSystem
from compressm_cli.compression.method import LayerRecord
from compressm_cli.compression.selective import SelectiveReduction, selective_reduction
from compressm_cli.errors import BadInputError
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.layers.time_invariant import TimeInvariantLayer
from compressm_cli.lti import error_bound, order_for_energy
from compressm_cli.models import build_model
from compressm_cli.ops.machine import is_busy
from compressm_cli.reports.timing import time_steps
from compressm_cli.run import Run
from compressm_cli.training.oneshot import CALIBRATED, calibration_inputs, has_selective
from compressm_cli.training.precision import require_compiler, resolve_device
from compressm_cli.training.threads import choose_threads, using
from compressm_cli.training.trainee import Setting

RealizationKind = Literal["real", "complex"]
THRESHOLDS = (0.9, 0.95, 0.99, 0.999)
NEARLY_REAL = 1e-3
"""A pole counts as real where its imaginary part is at most this share of its size."""


@dataclass(frozen=True)
class OrderAtThreshold:
    """What an energy threshold makes of one layer."""

    energy_threshold: float
    values_kept: int
    """Hankel singular values kept of those of the spectrum (two a complex state for the real realization)."""
    order: int
    """Complex states that this takes, in the system that takes most."""
    tail: float
    """Share of the Hankel energy that is discarded, 0 to 1."""
    bound: float | None
    """H-infinity error of the layer is at most this (twice the discarded sum, the largest of its systems); None
    for a selective layer, for which no such bound holds."""
    measured_error: float | None = None
    """Relative error of a selective layer's recurrence on the calibration batches after the cut to this order."""
    kernel_order: int | None = None
    """The order with which mamba-ssm's kernels would compute; None for a time-invariant layer."""
    predicted_error: float | None = None
    """The same, predicted in mean square; None where there is no such prediction."""


@dataclass(frozen=True)
class LayerSpectrum:
    """One layer: its order, its poles and its spectrum."""

    layer: str
    kind: str
    systems: int
    order: int
    start_order: int
    """The order that the recipe gave it."""
    spectral_radius: float | None
    """Largest size of a pole, over all systems; None for a selective layer, which has no constant poles."""
    poles: int | None
    real_poles: int | None
    """Poles, over all systems, with an imaginary part of at most a thousandth of their size."""
    hsv: list[float]
    """Hankel singular values, descending: the mean over the systems."""
    decay: float
    """The smallest over the largest."""
    thresholds: list[OrderAtThreshold]
    variant: str | None = None
    """How a selective layer would be reduced; its spectrum is that of this reduction's surrogate."""


@dataclass(frozen=True)
class ModelSize:
    """The whole model at some orders: counted, not estimated."""

    energy_threshold: float | None
    """None for the model as it is."""
    orders: dict[str, int]
    total_order: int
    parameters: int
    inference_flops: int
    """Of one sequence of full length."""
    training_step_flops: int
    """Of one batch of the recipe's size."""
    step_seconds: float | None = None
    """Of a training step on this machine, measured; None where that was not asked for."""


@dataclass(frozen=True)
class StepTiming:
    """How every ``step_seconds`` was measured: as medians over rounds in which each model had its turn."""

    device: str
    threads: int
    """Of PyTorch on the CPU."""
    precision: str
    rounds: int
    busy: bool
    """Whether other work kept the machine busy then."""


@dataclass(frozen=True)
class SpectrumReport:
    """Everything that ``analyze`` finds."""

    path: str
    checkpoint: str
    chosen: str
    """Why it is this checkpoint."""
    run: str | None
    recipe: str
    seeds: list[int]
    step: int
    realization: RealizationKind
    layers: list[LayerSpectrum]
    now: ModelSize
    predicted: list[ModelSize]
    """The model at the orders of each threshold."""
    batch_size: int
    flop_convention: str
    timing: StepTiming | None = None
    step_seconds_reason: str | None = "not measured: steps are timed only when asked for (--time)"
    """Why there is no ``step_seconds``; None where there is."""


@torch.random.fork_rng(devices=[])
def analyze(
    path: Path,
    thresholds: tuple[float, ...] = THRESHOLDS,
    realization: RealizationKind | None = None,
    timed: bool = False,
) -> SpectrumReport:
    """Read a checkpoint, or the final (else newest) checkpoint of a run, and analyze every layer.

    ``realization`` None takes that of the recipe's compression, or real. Gramians of time-invariant layers are
    analytic: inputs are taken as white. Those of selective layers are of the first training batches, so the data
    must be at hand. With ``timed``, a training step at each of the orders found is timed on this machine, which
    takes some seconds. Raises BadInputError where there is no checkpoint, or a layer is no stable finite system.
    """
    _check_thresholds(thresholds)
    checkpoint, file, chosen, run = _opened(path)
    own: RealizationKind = getattr(checkpoint.recipe.compression, "realization", "real")
    kind = own if realization is None else realization
    shares = sorted(set(thresholds))
    layers = layer_spectra(checkpoint, shares, kind)
    now = _size(checkpoint, checkpoint.orders)
    predicted: list[ModelSize] = []
    for i, threshold in enumerate(shares):
        orders = {layer.layer: layer.thresholds[i].order for layer in layers}
        known = next((size for size in (now, *predicted) if size.orders == orders), None)
        predicted.append(replace(known or _size(checkpoint, orders), energy_threshold=threshold))
    report = SpectrumReport(
        path=str(path),
        checkpoint=str(file),
        chosen=chosen,
        run=str(run.folder) if run else None,
        recipe=checkpoint.recipe.name,
        seeds=checkpoint.recipe.seeds,
        step=checkpoint.step,
        realization=kind,
        layers=layers,
        now=now,
        predicted=predicted,
        batch_size=checkpoint.recipe.train.batch_size,
        flop_convention=CONVENTION,
    )
    return _timed(report, checkpoint) if timed else report


def open_model(path: Path) -> tuple[Checkpoint, str]:
    """The model that a path means, of ours or of another library, and in words which one it is."""
    checkpoint, _, chosen, _ = _opened(path)
    return checkpoint, chosen


def _opened(path: Path) -> tuple[Checkpoint, Path, str, Run | None]:
    if exchange.is_model_folder(path):
        return exchange.load(path), path, "the model of another library", None
    file, chosen, run = find_checkpoint(path)
    return Checkpoint.load(file), file, chosen, run


def find_checkpoint(path: Path) -> tuple[Path, str, Run | None]:
    """The checkpoint that a path means, why that one, and its run; BadInputError where there is none."""
    if path.is_file():
        return path, "the given checkpoint", None
    runs = Run.find(path)
    run = runs[-1]
    which = "" if len(runs) == 1 else f" of the newest of {len(runs)} runs, {run.folder.name}"
    if run.final_checkpoint.is_file():
        return run.final_checkpoint, f"the final checkpoint{which}", run
    status = run.read_info().get("status", "unknown")
    if found := run.last_checkpoints():
        return found[-1], f"the newest checkpoint{which}, which has not finished (status: {status})", run
    if run.best_checkpoint.is_file():
        return (
            run.best_checkpoint,
            f"the best checkpoint{which}, which has not finished (status: {status})",
            run,
        )
    raise BadInputError(
        f"{run.folder}: the run has no checkpoint yet (status: {status}); wait for its first one"
    )


def _check_thresholds(thresholds: tuple[float, ...]) -> None:
    bad = [t for t in thresholds if not 0 < t <= 1]
    if bad or not thresholds:
        found = ", ".join(f"{t:g}" for t in bad) or "none"
        raise BadInputError(
            f"thresholds: found {found}; write shares of the energy above 0 and up to 1, such as 0.9,0.99"
        )


def layer_spectra(
    checkpoint: Checkpoint, thresholds: list[float], realization: RealizationKind
) -> list[LayerSpectrum]:
    """Every layer's spectrum; BadInputError where a layer is no stable finite system."""
    start = dict(zip(checkpoint.orders, checkpoint.recipe.model.state_dims(), strict=True))
    kind = checkpoint.recipe.model.layer.kind
    found = []
    model = checkpoint.build_model()
    inputs = calibration_inputs(model, checkpoint) if has_selective(model) else {}
    for name, layer in state_space_layers(model).items():
        try:
            if isinstance(layer, TimeInvariantLayer):
                found.append(_layer(name, kind, layer, start[name], thresholds, realization))
            else:
                reduction = selective_reduction(layer, CALIBRATED, inputs[name])
                found.append(_selective_layer(name, kind, reduction, start[name], thresholds))
        except ValueError as error:
            raise BadInputError(f"{name} of this model cannot be analyzed: {error}") from error
    return found


def _selective_layer(
    name: str, kind: str, reduction: SelectiveReduction, start: int, thresholds: list[float]
) -> LayerSpectrum:
    hsv = reduction.hsv()
    return LayerSpectrum(
        layer=name,
        kind=kind,
        systems=1,
        order=reduction.layer.state_dim,
        start_order=start,
        spectral_radius=None,
        poles=None,
        real_poles=None,
        hsv=hsv.tolist(),
        decay=float(hsv[-1] / hsv[0]) if hsv[0] > 0 else 0.0,
        thresholds=[_selective_at(threshold, reduction) for threshold in thresholds],
        variant=reduction.variant,
    )


def _selective_at(threshold: float, reduction: SelectiveReduction) -> OrderAtThreshold:
    order = max(1, reduction.order_for(threshold))
    record = LayerRecord("", reduction.layer.state_dim, order, "")
    reduction.cut(order, lambda wanted: wanted, torch.Generator().manual_seed(0), record)
    return OrderAtThreshold(
        energy_threshold=threshold,
        values_kept=order,
        order=record.order_after,
        tail=record.tail or 0.0,
        bound=None,
        measured_error=record.measured_error,
        predicted_error=record.predicted_error,
        kernel_order=record.kernel_order,
    )


def _layer(
    name: str,
    kind: str,
    layer: TimeInvariantLayer,
    start: int,
    thresholds: list[float],
    realization: RealizationKind,
) -> LayerSpectrum:
    systems = layer.systems()
    balanced = [BalancedSystem.of(system, realization) for system in systems]
    hsv = torch.stack([b.hsv for b in balanced]).mean(0)
    poles = torch.cat([system.A for system in systems])
    real = poles.imag.abs() <= NEARLY_REAL * poles.abs() if poles.is_complex() else torch.ones_like(poles)
    return LayerSpectrum(
        layer=name,
        kind=kind,
        systems=len(systems),
        order=layer.state_dim,
        start_order=start,
        spectral_radius=float(poles.abs().max()),
        poles=len(poles),
        real_poles=int(real.sum()),
        hsv=hsv.tolist(),
        decay=float(hsv[-1] / hsv[0]) if hsv[0] > 0 else 0.0,
        thresholds=[_at(threshold, hsv, balanced, layer.state_dim) for threshold in thresholds],
    )


def _at(threshold: float, hsv: torch.Tensor, balanced: list[BalancedSystem], now: int) -> OrderAtThreshold:
    kept = order_for_energy(hsv, threshold)
    total = float(hsv.sum())
    return OrderAtThreshold(
        energy_threshold=threshold,
        values_kept=kept,
        # More states than now are never taken, and a layer always keeps one.
        order=max(1, min(now, max(system.states_of(kept) for system in balanced))),
        tail=float(hsv[kept:].sum()) / total if total > 0 else 0.0,
        bound=max(error_bound(system.hsv, kept) for system in balanced),
    )


def _size(checkpoint: Checkpoint, orders: dict[str, int]) -> ModelSize:
    recipe, data = checkpoint.recipe, checkpoint.data
    model = build_model(recipe.model, data, orders)
    return ModelSize(
        energy_threshold=None,
        orders=dict(orders),
        total_order=sum(orders.values()),
        parameters=sum(p.numel() for p in model.parameters()),
        inference_flops=inference_flops(model, example_batch(data, 1)),
        training_step_flops=training_step_flops(model, example_batch(data, recipe.train.batch_size)),
    )


def _timed(report: SpectrumReport, checkpoint: Checkpoint) -> SpectrumReport:
    """The report with the seconds of a training step of every model in it, on the best device of this machine."""
    recipe = checkpoint.recipe.model_copy(update={"device": "auto"})
    if recipe.train.compile:
        require_compiler(resolve_device(recipe.device))
    models: list[dict[str, int]] = []
    for size in (report.now, *report.predicted):
        if size.orders not in models:
            models.append(size.orders)
    busy = is_busy()
    with using(choose_threads(recipe, checkpoint.data, report.now.orders)):
        setting, threads = Setting.of(recipe, checkpoint.data), torch.get_num_threads()
        times = time_steps(setting, models)

    def with_seconds(size: ModelSize) -> ModelSize:
        return replace(size, step_seconds=times[models.index(size.orders)].step_seconds)

    timing = StepTiming(str(setting.device), threads, recipe.train.precision, len(times[0].step), busy)
    predicted = [with_seconds(size) for size in report.predicted]
    return replace(
        report, now=with_seconds(report.now), predicted=predicted, timing=timing, step_seconds_reason=None
    )
