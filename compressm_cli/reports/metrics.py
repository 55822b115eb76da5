"""The quantities that runs are compared by: where each is recorded, its unit, and which way is better."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compressm_cli import objectives
from compressm_cli.core.axes import units_by_kind
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.quantities import Unit
from compressm_cli.exchange.places import weight_bytes
from compressm_cli.measure.flops import inference_flops
from compressm_cli.measure.memory import held_bytes, inference_bytes
from compressm_cli.measure.probe import example_batch
from compressm_cli.reports.arms import Member

Reading = tuple[float | None, str | None]
"""A value, or None and why there is none."""

NOT_MEASURED = "not measured in the run"


@dataclass(frozen=True)
class Metric:
    """One row of a comparison."""

    key: str
    title: str
    unit: Unit
    read: Callable[[Member], Reading]
    higher_is_better: bool = False
    measured: bool = False
    """Measured in separate runs, so small differences mean nothing; otherwise counted exactly."""
    timed: bool = False
    """Depends on what else the machine had to do meanwhile."""
    of_data: bool = False
    """Found on the rows of a data set, so that it says nothing beside what was found on others."""
    score: bool = False
    """A metric of the objective, by which models are judged."""


def _recorded(key: str, reason: str | None = None) -> Callable[[Member], Reading]:
    """What summary.json holds under ``key``; ``reason`` is the key of the reason why it may be null."""

    def read(member: Member) -> Reading:
        if member.summary is None:
            return None, member.unrecorded
        value = member.amount(key)
        if value is not None:
            return value, None
        return None, f"not measured: {member.recorded(reason)}" if reason else NOT_MEASURED

    return read


def _counted(member: Member, key: str) -> Reading:
    """What every run records under ``key``."""
    value = member.amount(key)
    member.require(value is not None, key, "a number", value)
    return value, None


def _total_order(member: Member) -> Reading:
    return float(sum(final_orders(member).values())), None


def _parameters(member: Member) -> Reading:
    if member.summary is not None:
        return _counted(member, "parameters.final")
    return float(sum(p.numel() for p in member.model.parameters())), None


def _checkpoint_bytes(member: Member) -> Reading:
    if member.summary is not None:
        return _counted(member, "checkpoint_bytes")
    if member.is_folder:
        return float(weight_bytes(member.path)), None
    if member.checkpoint.training is not None:
        return None, "this checkpoint holds the state of training too; give a final.pt"
    return float(member.checkpoint_path.stat().st_size), None


def _inference_flops(member: Member) -> Reading:
    if member.summary is not None:
        return _counted(member, "flops.inference_final_per_sequence")
    return float(inference_flops(member.model, example_batch(member.checkpoint.data, 1))), None


def _inference_memory(member: Member) -> Reading:
    try:
        model, batch = member.model, example_batch(member.checkpoint.data, 1)
    except BadInputError as error:
        return None, str(error)
    return float(held_bytes(model) + inference_bytes(model, batch)), None


def _score(split: str, metric: objectives.Metric) -> Metric:
    """The row of a metric on a split."""

    def read(member: Member) -> Reading:
        if unjudged := member.unjudged:
            return None, unjudged
        if member.summary is None:
            return None, member.unrecorded
        own, kind = objectives.primary_of(member.recipe), objectives.objective_type(member.recipe)
        if metric != own and metric.name not in member.mapping(split):
            return None, f"the run does not tell it: it was judged by {own.title}"
        if metric not in kind.METRICS:  # of an objective from elsewhere
            return (
                None,
                f"what the run tells by this name is another metric, of the objective {kind.__name__}",
            )
        value = member.number(f"{split}.{metric.name}")
        return (None, metric.unknown or "the run found no value") if value is None else (value, None)

    title = f"{split} {metric.title}"
    return Metric(
        f"{split}_{metric.name}", title, metric.unit, read, metric.higher_is_better, of_data=True, score=True
    )


def _loss(baseline: Member) -> Metric:
    """The row of the loss on the test split, where it is the same quantity."""
    loss, learned = objectives.objective_type(baseline.recipe).LOSS, _learned(baseline)

    def read(member: Member) -> Reading:
        if unjudged := member.unjudged:
            return None, unjudged
        if _learned(member) != learned:
            own = objectives.objective_config(member.recipe).kind
            return None, f"its loss is that of another objective, {own}"
        value = None if member.summary is None else member.number("test.loss")
        if value is not None:
            return value, None
        return None, member.unrecorded if member.summary is None else NOT_MEASURED

    return Metric("test_loss", "test loss", loss.unit, read, measured=True, of_data=True)


def _learned(member: Member) -> tuple[object, dict[str, Any]]:
    """What tells one loss from another: how it is computed, and the settings beside those of metrics.

    Not the teacher: models are evaluated by the labels alone.
    """
    beside = {"kind", "primary", "metrics", "teacher"}
    settings = objectives.objective_config(member.recipe).model_dump(exclude=beside)
    return objectives.objective_type(member.recipe).loss, settings


def metrics_of(baseline: Member, folders: bool = False) -> list[Metric]:
    """All rows of a comparison, in the order in which they are shown: first what the baseline is judged by.

    Memory of inference is among them only beside ``folders``, which have no memory of training to be told.
    """
    objective, primary = objectives.objective_type(baseline.recipe), objectives.primary_of(baseline.recipe)
    told = {} if baseline.summary is None else baseline.mapping("test")
    others = [m for m in objective.METRICS if m != primary and m.name in told]
    scores = [_score("test", primary), _score("validation", primary), *(_score("test", m) for m in others)]
    return [*scores, _loss(baseline), *METRICS, *([INFERENCE_MEMORY] if folders else [])]


def known_scores() -> dict[str, objectives.Metric]:
    """Metrics on the test split that some objective has, by the key of their row."""
    kinds = objectives.OBJECTIVES.values()
    return {f"test_{metric.name}": metric for objective in kinds for metric in objective.METRICS}


def limited_scores() -> list[str]:
    """Those of which a ratio can be limited: no shares, and better when lower."""
    return [key for key, m in known_scores().items() if m.unit != "share" and not m.higher_is_better]


METRICS = (
    Metric("total_order", "states, all layers", "order", _total_order),
    Metric("parameters", "parameters", "count", _parameters),
    Metric("checkpoint_bytes", "checkpoint", "bytes", _checkpoint_bytes),
    Metric("training_flops", "training FLOPs", "flops", _recorded("flops.training")),
    Metric("inference_flops", "inference FLOPs, one sequence", "flops", _inference_flops),
    Metric(
        "total_seconds", "wall time, total", "seconds", _recorded("seconds.total"), measured=True, timed=True
    ),
    Metric(
        "training_seconds",
        "wall time, training",
        "seconds",
        _recorded("seconds.training"),
        measured=True,
        timed=True,
    ),
    Metric(
        "step_seconds",
        "final training step",
        "seconds",
        _recorded("step_seconds.final"),
        measured=True,
        timed=True,
    ),
    Metric(
        "joules", "joules", "joules", _recorded("joules.value", "joules.reason"), measured=True, timed=True
    ),
    Metric("peak_memory", "peak memory", "bytes", _recorded("peak_memory.bytes"), measured=True),
)
"""What models cost, read from the records of the runs."""

INFERENCE_MEMORY = Metric("inference_memory", "memory, one sequence", "bytes", _inference_memory)
"""Of tensors that exist at once in a forward pass, the model's own among them: counted, without short-lived buffers
inside operators, the allocator's reserve and PyTorch itself."""

SPEED_METRICS = ("inference_seconds_single", "inference_seconds_batch")
"""Measured by the comparison itself: one sequence, and a batch."""


def start_orders(member: Member) -> dict[str, int]:
    """The order of each layer at the start of the training."""
    if member.summary is not None:
        return member.counts("orders.start")
    return member.checkpoint.start_orders


def final_orders(member: Member) -> dict[str, int]:
    """The order of each layer of the finished model."""
    if member.summary is None:
        return member.checkpoint.orders
    told = member.counts("orders.final")
    try:
        own = member.checkpoint.orders
    except BadInputError:  # told where the model itself is asked for
        return told
    for name in {**own, **told}:
        wanted = (
            f"{own[name]}, as in {member.checkpoint_path.name}"
            if name in own
            else "that of a layer of the model"
        )
        member.require(told.get(name) == own.get(name), f"orders.final.{name}", wanted, told.get(name))
    return told


def axis_units(member: Member) -> tuple[dict[str, int], dict[str, int]]:
    """Units of all axes by kind, at the start of the training and of the finished model; empty where not known."""
    if member.summary is not None and "axes" in member.summary:
        return member.counts("axes.start"), member.counts("axes.final")
    try:
        return units_by_kind(member.checkpoint.start_sizes), units_by_kind(member.checkpoint.sizes)
    except BadInputError:
        return {}, {}
