"""``compare``: trained models side by side, from their run folders and checkpoints."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from compressm_cli.core.errors import BadInputError
from compressm_cli.measure.flops import CONVENTION
from compressm_cli.objectives import Metric, primary_of
from compressm_cli.reports import differences, verdict
from compressm_cli.reports.agreement import Agreement, prediction_agreement
from compressm_cli.reports.arms import Arm, read_arms
from compressm_cli.reports.budgets import RunBudget
from compressm_cli.reports.decoding import DecodingReport, decoding_speed, obstacle
from compressm_cli.reports.inference import SpeedReport, inference_speed, resolve_device
from compressm_cli.reports.metrics import axis_units, final_orders, metrics_of, start_orders
from compressm_cli.reports.rows import Row, make_row
from compressm_cli.reports.targets import target_metrics
from compressm_cli.reports.texts import Judge, JudgedText, primary_of_text, text_metrics
from compressm_cli.reports.verdict import ToleranceResult, Tolerances


@dataclass(frozen=True)
class ArmInfo:
    """One column: which models it stands for."""

    label: str
    paths: list[str]
    seeds: list[int | None]
    checkpoint: str
    """The model that stands for the arm where one is needed: for inference speed and spectra."""
    budgets: list[RunBudget | None]
    """Of each of its runs; None of those that had none."""


@dataclass(frozen=True)
class LayerOrders:
    """Orders of one layer, means over the seeds; None where an arm has no such layer."""

    layer: str
    start: list[float | None]
    final: list[float | None]


@dataclass(frozen=True)
class AxisUnits:
    """Units of all axes of a kind together, means over the seeds; None where that is not known."""

    kind: str
    start: list[float | None]
    final: list[float | None]


@dataclass(frozen=True)
class ComparisonReport:
    """Everything that a comparison found."""

    arms: list[ArmInfo]
    primary: Metric
    """What the baseline is judged by, and so all arms."""
    rows: list[Row]
    """The first is that of the primary metric: on the test split, and the second the same on the validation split; or
    on a text that was given, with which more rows begin."""
    targets: list[Row]
    """Of each real number that models say its errors on the test split, in its own unit, and R2; empty of others."""
    orders: list[LayerOrders]
    axes: list["AxisUnits"]
    """Of the kinds of axes beside states of which some arm has lost units, or gained some."""
    agreement: list[Agreement | None]
    speed: SpeedReport | None
    speed_reason: str | None
    """Why the inference speed was not measured."""
    decoding: DecodingReport | None
    """Of the same models, one time step at a time."""
    decoding_reason: str | None
    """Why it was not measured."""
    text: JudgedText | None
    """That all models were judged on; None where none was given."""
    warnings: list[str]
    tolerances: list[ToleranceResult]
    verdict: list[str]
    flop_convention: str

    @property
    def broken(self) -> bool:
        """Whether a stated tolerance does not hold."""
        return any(not t.holds for t in self.tolerances)

    def row(self, key: str) -> Row:
        """The row of a metric."""
        return next(row for row in self.rows if row.key == key)


@torch.random.fork_rng(devices=[])
def compare(
    baseline: Path,
    others: list[Path],
    *,
    speed: bool = True,
    device: str = "auto",
    tolerances: Tolerances | None = None,
    judge: Judge | None = None,
) -> ComparisonReport:
    """Compare models with a baseline.

    Each path is a run folder, a folder of runs (its finished ones, the newest of each seed), a checkpoint, or a folder
    of another library with a language model. ``judge`` judges all of them on a text, by which they are compared then.
    Raises BadInputError where one is neither, has not finished, or a tolerance names an unknown metric.
    """
    tolerances = tolerances or Tolerances()
    tolerances.check()
    where = resolve_device(device)
    if not others:
        raise BadInputError("compare needs at least two models: a baseline and what is compared with it")
    arms = read_arms([baseline, *others])
    members = [member for arm in arms for member in arm.members]
    metrics = metrics_of(arms[0].members[0], any(arm.is_folder for arm in arms))
    text, primary = None, primary_of(arms[0].members[0].recipe)
    if judge is not None:
        text = judge(members)
        primary, metrics = primary_of_text(), [*text_metrics(text, members), *metrics]
    tolerances.require_points(primary, metrics[0].key)
    rows = [make_row(metric, arms) for metric in metrics]
    tolerances.require_rows(rows)
    orders = _orders(arms)
    told = [row for row in rows if orders or row.key != "total_order"]
    targets = [make_row(metric, arms) for metric in target_metrics(arms[0].members[0])]
    timed = _timed(arms)
    off = None, "switched off with --no-speed"
    measured, reason, decoded, no_decoding = _speed(arms, timed, where) if speed else (*off, *off)
    results = tolerances.results([arm.label for arm in arms], rows, measured)
    agreement = prediction_agreement(arms, where)
    return ComparisonReport(
        arms=[_info(arm, index) for arm, index in zip(arms, timed, strict=True)],
        primary=primary,
        rows=told,
        targets=targets,
        orders=orders,
        axes=_axes(arms),
        agreement=agreement,
        speed=measured,
        speed_reason=reason,
        decoding=decoded,
        decoding_reason=no_decoding,
        text=text,
        warnings=[*differences.warnings(arms), *(text.notes if text is not None else [])],
        tolerances=results,
        verdict=verdict.sentences(
            [arm.label for arm in arms], primary.titles, told, measured, agreement, results
        ),
        flop_convention=CONVENTION,
    )


def _info(arm: Arm, timed: int) -> ArmInfo:
    return ArmInfo(
        label=arm.label,
        paths=[str(m.path) for m in arm.members],
        seeds=[m.seed for m in arm.members],
        checkpoint=str(arm.members[timed].checkpoint_path),
        budgets=[RunBudget.of(member) for member in arm.members],
    )


def _orders(arms: list[Arm]) -> list[LayerOrders]:
    start = [[start_orders(m) for m in arm.members] for arm in arms]
    final = [[final_orders(m) for m in arm.members] for arm in arms]
    layers = list(dict.fromkeys(layer for arm in final for member in arm for layer in member))
    return [
        LayerOrders(n, [_mean_order(s, n) for s in start], [_mean_order(s, n) for s in final]) for n in layers
    ]


def _axes(arms: list[Arm]) -> list[AxisUnits]:
    known = [[axis_units(member) for member in arm.members] for arm in arms]
    kinds = dict.fromkeys(kind for arm in known for start, final in arm for kind in {**start, **final})
    found = [
        AxisUnits(kind, *([_mean_units([m[when] for m in arm], kind) for arm in known] for when in (0, 1)))
        for kind in kinds
    ]
    return [axis for axis in found if axis.kind != "states" and axis.start != axis.final]


def _mean_units(members: list[dict[str, int]], kind: str) -> float | None:
    if not all(members):
        return None
    return sum(units.get(kind, 0) for units in members) / len(members)


def _mean_order(members: list[dict[str, int]], layer: str) -> float | None:
    found = [orders[layer] for orders in members if layer in orders]
    return sum(found) / len(found) if found else None


def _timed(arms: list[Arm]) -> list[int]:
    """Which member of each arm has its speed measured: one of a seed that all have, else the first."""
    seeds = set.intersection(*(set(arm.by_seed) for arm in arms))
    if not seeds:
        return [0] * len(arms)
    return [next(i for i, m in enumerate(arm.members) if m.seed == min(seeds)) for arm in arms]


def _speed(
    arms: list[Arm], timed: list[int], device: torch.device
) -> tuple[SpeedReport | None, str | None, DecodingReport | None, str | None]:
    """Inference and decoding, each with the reason where it was not measured."""
    members = [arm.members[i] for arm, i in zip(arms, timed, strict=True)]
    try:
        checkpoints = [m.checkpoint for m in members]
    except BadInputError as error:
        return (None, str(error)) * 2
    # Which tokens it reads changes no model's time: those that all of them know.
    vocabularies = [c.data.vocabulary for c in checkpoints if c.data.vocabulary is not None]
    data = replace(checkpoints[0].data, vocabulary=min(vocabularies, default=None))
    shapes = ((c.data.length, c.data.features, c.data.vocabulary is None, c.data.image) for c in checkpoints)
    if len(set(shapes)) > 1:
        return (None, "the models take inputs of different shapes") * 2
    models = [member.model for member in members]
    speed, reason = inference_speed(models, data, device), obstacle(models)
    if reason is not None:
        return speed, None, None, reason
    return speed, None, decoding_speed(models, data, device), None
