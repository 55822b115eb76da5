"""How well each of several real numbers is said, as quantities that runs are compared by."""

from typing import Any

from compressm_cli import objectives
from compressm_cli.core.validation import is_number
from compressm_cli.objectives.regression import MAE, MSE, R2
from compressm_cli.reports.arms import Member
from compressm_cli.reports.metrics import Metric, Reading

KEY = "test.targets"


def target_metrics(baseline: Member) -> list[Metric]:
    """Of each number that the baseline says: its errors in its own unit, and R2; none where it says no numbers."""
    return [_metric(name, metric) for name in _scores(baseline) for metric in (MSE, MAE, R2)]


def _metric(name: str, metric: objectives.Metric) -> Metric:
    def read(member: Member) -> Reading:
        if member.summary is None:
            return None, member.unrecorded
        own = _scores(member)
        if name not in own:
            return None, "the run does not tell it" if own else "the run does not tell each number"
        value = own[name][metric.name]
        return (None, metric.unknown or "the run found no value") if value is None else (value, None)

    title = f"{name}: {metric.title}"
    key = f"{KEY.replace('.', '_')}:{name}:{metric.name}"
    return Metric(key, title, metric.unit, read, metric.higher_is_better, of_data=True, score=True)


def _scores(member: Member) -> dict[str, dict[str, float | None]]:
    """By name; BadInputError where the record of it is damaged. Earlier versions wrote none."""
    if member.summary is None or "targets" not in member.mapping("test"):
        return {}
    listed: Any = member.recorded(KEY)
    member.require(isinstance(listed, list), KEY, "a list", listed)
    found = {}
    for place, one in enumerate(listed):
        where = f"{KEY}[{place}]"
        right = isinstance(one, dict) and isinstance(one.get("name"), str)
        member.require(right, where, "a mapping with a name", one)
        found[one["name"]] = {metric.name: _value(member, where, metric, one) for metric in (MSE, MAE, R2)}
    return found


def _value(member: Member, where: str, metric: objectives.Metric, one: dict[str, Any]) -> float | None:
    value, key = one.get(metric.name), f"{where}.{metric.name}"
    member.require(value is None or is_number(value), key, "null or a number", value)
    wanted = f"null or a number {metric.range}"
    member.require(value is None or metric.is_possible(value), key, wanted, value)
    return None if value is None else float(value)
