"""``analyze``: the Hankel spectrum of each layer of a model, and what smaller orders would cost and save."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from compressm_cli import exchange
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.oneshot import Outlook, asked, needs_data, outlook
from compressm_cli.engine.precision import require_compiler, resolve_device
from compressm_cli.engine.same_data import as_before, names_data, relation
from compressm_cli.engine.teaching import alone, teacher_of
from compressm_cli.engine.threads import choose_threads, using
from compressm_cli.engine.trainee import Setting
from compressm_cli.exchange.names import CONFIG
from compressm_cli.exchange.places import find_checkpoint
from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import STATES
from compressm_cli.layers.time_invariant import TimeInvariantLayer
from compressm_cli.lti import order_for_energy
from compressm_cli.measure.flops import CONVENTION
from compressm_cli.methods.hankel.config import HankelConfig
from compressm_cli.methods.hankel.method import REFUSED
from compressm_cli.methods.hankel.record import hankel_record
from compressm_cli.methods.hankel.reduction import Reduction
from compressm_cli.ops.machine import is_busy
from compressm_cli.recipe import Recipe
from compressm_cli.reports.sizes import ModelSize, Sizes
from compressm_cli.reports.timing import time_steps
from compressm_cli.runs.folder import Run
from compressm_cli.structure.plan import UnitRecord

RealizationKind = Literal["real", "complex"]
THRESHOLDS = (0.9, 0.95, 0.99, 0.999)
NEARLY_REAL = 1e-3
"""A pole counts as real where its imaginary part is at most this share of its size."""


@dataclass(frozen=True)
class OrderAtThreshold:
    """What an energy threshold makes of one layer."""

    energy_threshold: float
    values_needed: int
    """Hankel singular values, of those of the spectrum, that hold so much of the energy."""
    order: int
    """States after a cut at this threshold (of a time-invariant layer complex ones); the order now without one."""
    values_kept: int | None
    """Hankel singular values that such a cut keeps: as many as fit into the order. None where it keeps others."""
    tail: float | None
    """Share of the Hankel energy that is discarded with the others, 0 to 1, the mean over the systems; None where
    others are kept."""
    bound: float | None
    """H-infinity error of the recurrence is at most this (twice the discarded sum, the largest of its systems); None
    where no such bound holds: for Gramians from data or of finite horizon, and for selective layers."""
    measured_error: float | None
    """Relative error of the recurrence on the calibration batches after the cut to this order; None where
    not measured."""
    kernel_order: int | None
    """The order with which mamba-ssm's kernels would compute; None for a time-invariant layer, and without a cut."""
    predicted_error: float | None
    """The measured error, predicted in mean square; None where there is no such prediction."""
    reason: str
    """What such a cut does, or why the layer keeps its order, in the words of compression.jsonl."""
    exception: str | None
    """Of that reason, why the layer cannot be cut so, or not over the horizon that it was measured over; None
    where nothing is in the way."""


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
    realization: str | None
    """The form of a time-invariant layer that is balanced; None for a selective one."""
    gramian: str
    """``empirical``: of the states that calibration batches produce; ``analytic``: of those of white inputs."""
    horizon: int | None
    """Steps over which analytic sums of a time-invariant layer go; None means for ever."""
    variant: str | None
    """How a selective layer would be reduced; its spectrum is that of this reduction's surrogate."""


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
class AxisSize:
    """How many units an axis other than that of a layer's states has."""

    axis: str
    size: int
    start_size: int


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
    gramian: str
    """Of time-invariant layers, as the recipe's compression says or by default; those of others are empirical."""
    calibration_batches: int | None
    """Training batches that Gramians were measured on; None where all are analytic."""
    unjudged: str | None
    """Why Gramians and errors from these batches say little of the model, which are no real data; None where they are,
    and where none were used."""
    layers: list[LayerSpectrum]
    """Empty of a model without state space layers."""
    axes: list[AxisSize]
    now: ModelSize
    predicted: list[ModelSize]
    """The model at the orders of each threshold; empty where there are no layers."""
    batch_size: int
    flop_convention: str
    data: str | None = None
    """Which data the batches are of, and whether the model was trained on them; None where none were used."""
    timing: StepTiming | None = None
    step_seconds_reason: str | None = "not measured: steps are timed only when asked for (--time)"
    """Why there is no ``step_seconds``; None where there is."""
    taught: bool = False
    """Whether it learned from a teacher, whose passes are in none of these FLOPs and seconds."""


@torch.random.fork_rng(devices=[])
def analyze(
    path: Path,
    thresholds: tuple[float, ...] = THRESHOLDS,
    realization: RealizationKind | None = None,
    timed: bool = False,
    overrides: Sequence[str] = (),
) -> SpectrumReport:
    """Read a checkpoint, or the final (else newest) checkpoint of a run, and analyze every layer.

    Layers are measured as ``compress`` measures them: as the recipe's own compression says, else by default;
    ``overrides`` change its settings and those of the data, ``realization`` that one. Orders are those that
    ``compress`` comes to. With ``timed``, a training step at each of the orders found is timed on this machine,
    which takes some seconds. Raises BadInputError where there is no checkpoint, the calibration data are not at
    hand, or are others than the model was trained on and no override names them, or a layer is no stable finite system.
    """
    _check_thresholds(thresholds)
    checkpoint, file, chosen, run = _opened(path)
    settings = {"energy_threshold": 1.0, **({"realization": realization} if realization else {})}
    recipe = asked(checkpoint.recipe, settings, f"{path}: recipe", overrides).located()
    _check_overrides(recipe)
    shares = sorted(set(thresholds))
    checkpoint = replace(checkpoint, recipe=recipe)
    found, spec, data = _outlook(checkpoint, recipe.compression, shares, names_data(overrides))
    layers = _spectra(checkpoint, found, shares)
    sizes = Sizes(checkpoint, spec)
    now = sizes.of(checkpoint.orders)
    predicted = [
        replace(
            sizes.of({layer.layer: layer.thresholds[i].order for layer in layers}), energy_threshold=share
        )
        for i, share in enumerate(shares if layers else [])
    ]
    calibrated = any(layer.gramian == "empirical" for layer in layers)
    report = SpectrumReport(
        path=str(path),
        checkpoint=str(file),
        chosen=chosen,
        run=str(run.folder) if run else None,
        recipe=recipe.name,
        seeds=recipe.seeds,
        step=checkpoint.step,
        realization=recipe.compression.realization,
        gramian=recipe.compression.gramian,
        calibration_batches=recipe.compression.calibration_batches if calibrated else None,
        unjudged=recipe.data.unjudged() if calibrated else None,
        layers=layers,
        axes=_axes(checkpoint),
        now=now,
        predicted=predicted,
        batch_size=sizes.batch_size,
        taught=teacher_of(checkpoint.recipe) is not None,
        flop_convention=CONVENTION,
        data=data,
    )
    return _timed(report, checkpoint, spec) if timed else report


def _axes(checkpoint: Checkpoint) -> list[AxisSize]:
    start, whole = checkpoint.start_sizes, (":sublayer", 1)
    return [
        AxisSize(name, size, start[name])
        for name, size in checkpoint.sizes.items()
        if not name.endswith(STATES) and (f":{name.rpartition(':')[2]}", size) != whole
    ]


def open_model(path: Path) -> tuple[Checkpoint, str]:
    """The model that a path means, of ours or of another library, and in words which one it is."""
    checkpoint, _, chosen, _ = _opened(path)
    return checkpoint, chosen


def _opened(path: Path) -> tuple[Checkpoint, Path, str, Run | None]:
    if exchange.is_model_folder(path):
        chosen = "the model of another library" if (path / CONFIG).is_file() else "the exported model"
        return exchange.load(path), path, chosen, None
    file, chosen, run = find_checkpoint(path)
    return exchange.load(file), file, chosen, run


def _check_thresholds(thresholds: tuple[float, ...]) -> None:
    bad = [t for t in thresholds if not 0 < t <= 1]
    if bad or not thresholds:
        found = ", ".join(f"{t:g}" for t in bad) or "none"
        raise BadInputError(
            f"thresholds: found {found}; write shares of the energy above 0 and up to 1, such as 0.9,0.99"
        )


def _check_overrides(recipe: Recipe) -> None:
    config = recipe.compression
    if not isinstance(config, HankelConfig) or config.energy_threshold != 1.0:
        raise BadInputError(
            "compression: an analysis is of method hankel, and its orders are those of --thresholds; "
            "override other settings, such as compression.gramian=analytic"
        )


def layer_spectra(checkpoint: Checkpoint, config: HankelConfig) -> list[LayerSpectrum]:
    """Every layer's spectrum, measured as ``config`` says; BadInputError as in ``analyze``."""
    found, _, _ = _outlook(checkpoint, config, [])
    return _spectra(checkpoint, found, [])


def _outlook(
    checkpoint: Checkpoint, config: HankelConfig, thresholds: list[float], wanted: bool = False
) -> tuple[Outlook, DataSpec, str | None]:
    """What is found of every layer, the description of the data that it was found on, and which these are, if any.

    OtherDataError where they are not those that the model was trained on, unless they are ``wanted``.
    """
    model, task = checkpoint.build_model(), checkpoint.recipe.data
    dataset, told = None, None
    try:
        if needs_data(model, config):
            dataset = as_before(checkpoint.fingerprint, task.dataset())
            told = relation(checkpoint, dataset, task, wanted)
    except BadInputError as error:
        if needs_data(model, config.model_copy(update={"gramian": "analytic"})):
            raise
        raise BadInputError(
            f"{error}; Gramians of white inputs need no data: compression.gramian=analytic"
        ) from error
    data = checkpoint.data if dataset is None else dataset.spec
    return outlook(checkpoint, model, config, thresholds, dataset), data, told


def _spectra(checkpoint: Checkpoint, found: Outlook, thresholds: list[float]) -> list[LayerSpectrum]:
    start = checkpoint.start_orders
    spectra = []
    for name, reduction in found.measured.items():
        if isinstance(reduction, str):
            raise BadInputError(f"{name} of this model cannot be analyzed: {reduction}")
        records = [next(r for r in plan.records if r.title == name) for plan in found.plans]
        rows = [_at(*each, reduction) for each in zip(thresholds, records, strict=True)]
        spectra.append(_layer(name, reduction, start[name], rows))
    return spectra


def _layer(name: str, reduction: Reduction, start: int, rows: list[OrderAtThreshold]) -> LayerSpectrum:
    hsv, layer = reduction.hsv(), reduction.layer
    record = hankel_record(name, layer.state_dim)
    reduction.describe(record)
    details = record.details
    systems = layer.systems() if isinstance(layer, TimeInvariantLayer) else []
    poles = torch.cat([system.A for system in systems]) if systems else None
    return LayerSpectrum(
        layer=name,
        kind=LAYERS.name_of(type(layer)),
        systems=len(systems) or 1,
        order=layer.state_dim,
        start_order=start,
        spectral_radius=None if poles is None else float(poles.abs().max()),
        poles=None if poles is None else len(poles),
        real_poles=None if poles is None else _real(poles),
        hsv=hsv.tolist(),
        decay=float(hsv[-1] / hsv[0]) if hsv[0] > 0 else 0.0,
        thresholds=rows,
        realization=details["realization"],
        gramian=str(details["gramian"]),
        horizon=details["horizon"],
        variant=details["variant"],
    )


def _real(poles: torch.Tensor) -> int:
    """How many poles are real, nearly."""
    return int((poles.imag.abs() <= NEARLY_REAL * poles.abs()).sum()) if poles.is_complex() else len(poles)


def _at(threshold: float, record: UnitRecord, reduction: Reduction) -> OrderAtThreshold:
    hsv, details = reduction.hsv(), record.details
    whole = not record.is_change  # then nothing is lost
    bounded = details["gramian"] == "analytic" and details["horizon"] is None
    return OrderAtThreshold(
        energy_threshold=threshold,
        values_needed=order_for_energy(hsv, threshold),
        order=record.after,
        values_kept=len(hsv) if whole else details["kept"],
        tail=0.0 if whole else details["tail"],
        bound=0.0 if whole and bounded else details["bound"],
        measured_error=details["measured_error"],
        kernel_order=details["kernel_order"],
        predicted_error=details["predicted_error"],
        reason=record.reason,
        exception=_exception(record, reduction),
    )


def _exception(record: UnitRecord, reduction: Reduction) -> str | None:
    if record.reason.startswith(REFUSED):
        return f"the layer keeps its order: {record.reason.removeprefix(REFUSED)}"
    # A spectrum is another one only where a system was balanced over another time.
    return record.reason.partition("; ")[2] if record.details["hsv"] != reduction.hsv().tolist() else None


def _timed(report: SpectrumReport, checkpoint: Checkpoint, data: DataSpec) -> SpectrumReport:
    """The report with the seconds of a training step of every model in it, on the best device of this machine."""
    # A model's file does not decide what else is read.
    recipe = alone(checkpoint.recipe.model_copy(update={"device": "auto"}))
    if recipe.train.compile:
        require_compiler(resolve_device(recipe.device))
    models: list[dict[str, int]] = []
    for size in (report.now, *report.predicted):
        if size.orders not in models:
            models.append(size.orders)
    busy = is_busy()
    with using(choose_threads(recipe, data, report.now.orders)):
        setting, threads = Setting.of(recipe, data, checkpoint.sizes), torch.get_num_threads()
        times = time_steps(setting, models)

    def with_seconds(size: ModelSize) -> ModelSize:
        return replace(size, step_seconds=times[models.index(size.orders)].step_seconds)

    timing = StepTiming(str(setting.device), threads, recipe.train.precision, len(times[0].step), busy)
    predicted = [with_seconds(size) for size in report.predicted]
    return replace(
        report, now=with_seconds(report.now), predicted=predicted, timing=timing, step_seconds_reason=None
    )
