"""The quantities that runs are compared by: where each is recorded, its unit, and which way is better."""

from collections.abc import Callable
from dataclasses import dataclass

from compressm_cli.core.quantities import Unit
from compressm_cli.measure.flops import inference_flops
from compressm_cli.measure.probe import example_batch
from compressm_cli.reports.sides import Member

Reading = tuple[float | None, str | None]
"""A value, or None and why there is none."""

NO_RUN = "a checkpoint alone does not record it; give the run folder"


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


def _recorded(key: str, reason: str | None = None) -> Callable[[Member], Reading]:
    """What summary.json holds under ``key``; ``reason`` is the key of the reason why it may be null."""

    def read(member: Member) -> Reading:
        if member.summary is None:
            return None, NO_RUN
        value = member.recorded(key)
        if value is not None:
            return float(value), None
        return None, f"not measured: {member.recorded(reason)}" if reason else "not measured in the run"

    return read


def _total_order(member: Member) -> Reading:
    return float(sum(final_orders(member).values())), None


def _parameters(member: Member) -> Reading:
    if member.summary is not None:
        return float(member.recorded("parameters.final")), None
    return float(sum(p.numel() for p in member.checkpoint.build_model().parameters())), None


def _checkpoint_bytes(member: Member) -> Reading:
    if member.summary is not None:
        return float(member.recorded("checkpoint_bytes")), None
    if member.checkpoint.training is not None:
        return None, "this checkpoint holds the state of training too; give a final.pt"
    return float(member.checkpoint_path.stat().st_size), None


def _inference_flops(member: Member) -> Reading:
    if member.summary is not None:
        return float(member.recorded("flops.inference_final_per_sequence")), None
    checkpoint = member.checkpoint
    return float(inference_flops(checkpoint.build_model(), example_batch(checkpoint.data, 1))), None


def _judged(key: str) -> Callable[[Member], Reading]:
    """What summary.json holds under ``key``, where the data judge a model."""

    def read(member: Member) -> Reading:
        unjudged = member.recipe.data.unjudged()
        return (None, unjudged) if unjudged else _recorded(key)(member)

    return read


METRICS = (
    Metric(
        "test_accuracy",
        "test accuracy",
        "share",
        _judged("test.accuracy"),
        higher_is_better=True,
        of_data=True,
    ),
    Metric(
        "validation_accuracy",
        "validation accuracy",
        "share",
        _judged("validation.accuracy"),
        higher_is_better=True,
        of_data=True,
    ),
    Metric("test_loss", "test loss", "nats", _judged("test.loss"), measured=True, of_data=True),
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
"""Read from the records of the runs, in the order in which they are shown."""

SPEED_METRICS = ("inference_seconds_single", "inference_seconds_batch")
"""Measured by the comparison itself: one sequence, and a batch."""


def start_orders(member: Member) -> dict[str, int]:
    """The order of each layer at the start of the training."""
    if member.summary is not None:
        return dict(member.recorded("orders.start"))
    return member.checkpoint.start_orders


def final_orders(member: Member) -> dict[str, int]:
    """The order of each layer of the finished model."""
    if member.summary is not None:
        return dict(member.recorded("orders.final"))
    return member.checkpoint.orders
