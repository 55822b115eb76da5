"""Formats of checkpoints: what changed from one to the next, and how older ones are read.

1   parameters of the optimizer in the order in which they were made (no longer read)
2   ``orders`` by layer; a trial's shapes are those that its records tell
3   ``sizes`` of all axes and ``parked`` units, also in what a trial goes back to; evaluations have ``metrics`` by name,
    and the best one a ``value``, where there was the accuracy alone; a trial's ``records``, of any units, instead of
    its ``plan``, of layers alone; ``parameters`` of the method's own; the ``sizes`` with which the run ``began``
4   ``encoding``: what makes inputs of files and names of outputs; what a trial goes back to has the ``method``'s memory
    and its ``generator``
"""

import copy
from collections.abc import Callable
from typing import Any

from compressm_cli.checkpoint.validation import read_orders
from compressm_cli.core.validation import DamagedError, described
from compressm_cli.layers.interface import state_axis

FORMAT = 4
Content = dict[str, Any]


def migrated(content: Content) -> Content:
    """The content of a checkpoint as this version writes it; DamagedError where its format is none that can be read."""
    number = content.get("format")
    if type(number) is not int or not (number == FORMAT or number in _MIGRATIONS):
        known = ", ".join(map(str, [*_MIGRATIONS, FORMAT]))
        told = described(number).removeprefix("the number ")
        raise UnknownFormatError(f"checkpoint format {told}; this version reads {known}")
    while number != FORMAT:
        content, number = _MIGRATIONS[number](content), number + 1
    return {**content, "format": FORMAT}


class UnknownFormatError(DamagedError):
    """The format is one of another version."""


def _sizes_instead_of_orders(content: Content) -> Content:
    orders = {state_axis(name): order for name, order in read_orders(content).items()}
    new = {key: value for key, value in content.items() if key != "orders"}
    training = content.get("training")
    if isinstance(training, dict) and isinstance(training.get("trial"), dict):
        new["training"] = {**training, "trial": _with_sizes(training["trial"])}
    return {**new, "sizes": orders, "parked": None}


def _with_sizes(trial: Content) -> Content:
    """A trial that knows the sizes that it would go back to; what is damaged stays so, and is told later."""
    records, saved = trial.get("plan"), trial.get("saved")
    if not (isinstance(records, list) and isinstance(saved, dict)):
        return trial
    whole = [r for r in records if isinstance(r, dict) and {"layer", "order_before"} <= r.keys()]
    sizes = {state_axis(r["layer"]): r["order_before"] for r in whole}
    return {**trial, "saved": {**saved, "sizes": sizes, "parked": None}}


def _metrics_instead_of_accuracy(content: Content) -> Content:
    training = content.get("training")
    if not isinstance(training, dict):
        return content
    new, best, evaluated = dict(training), training.get("best"), training.get("evaluated")
    if isinstance(best, dict) and "accuracy" in best:
        # -1 stood for none yet.
        value = None if best["accuracy"] == -1.0 else best["accuracy"]
        new["best"] = {**{k: v for k, v in best.items() if k != "accuracy"}, "value": value}
    if isinstance(evaluated, list | tuple) and len(evaluated) == 2:
        new["evaluated"] = (evaluated[0], _with_metrics(evaluated[1]))
    if isinstance(training.get("trial"), dict):
        new["trial"] = {**training["trial"], "before": _with_metrics(training["trial"].get("before"))}
    return {**content, "training": new}


def _with_metrics(evaluation: Any) -> Any:
    """An evaluation; what is damaged stays so, and is told later."""
    if not isinstance(evaluation, dict) or "accuracy" not in evaluation:
        return evaluation
    rest = {key: value for key, value in evaluation.items() if key != "accuracy"}
    return {**rest, "metrics": {"accuracy": evaluation["accuracy"]}}


def _records_of_units(content: Content) -> Content:
    training = content.get("training")
    if not isinstance(training, dict):
        return content
    # No method had parameters, nor asked for sizes.
    training = {**training, "parameters": [], "began": {}}
    if isinstance(training.get("trial"), dict):
        trial = dict(training["trial"])
        plan, saved = trial.pop("plan", None), trial.get("saved")
        if isinstance(plan, list):
            trial["records"] = [_record_of_a_unit(record) for record in plan]
        if isinstance(saved, dict):
            trial["saved"] = {**saved, "parameters": []}
        training["trial"] = trial
    return {**content, "training": training}


def _record_of_a_unit(layer: Any) -> Any:
    """What a layer's record is now; what is damaged stays so."""
    if not (isinstance(layer, dict) and {"layer", "order_before", "order_after", "reason"} <= layer.keys()):
        return layer
    details = dict(layer)
    record = {
        "unit": state_axis(details.pop("layer")),
        "kind": "state",
        "before": details.pop("order_before"),
        "after": details.pop("order_after"),
        "reason": details.pop("reason"),
        "scores": [],
        "seconds": details.pop("seconds", 0.0),
    }
    return {**record, "details": details}


def _any_units_and_metrics(content: Content) -> Content:
    return _records_of_units(_metrics_instead_of_accuracy(_sizes_instead_of_orders(content)))


def _encoding_and_memory(content: Content) -> Content:
    """Of an encoding nothing is known; a trial goes back to what the method remembers now, as it did."""
    content, training = {**content, "encoding": None}, content.get("training")
    trial = training.get("trial") if isinstance(training, dict) else None
    if not (isinstance(training, dict) and isinstance(trial, dict) and isinstance(trial.get("saved"), dict)):
        return content
    memory = {name: copy.deepcopy(training[name]) for name in ("method", "generator") if name in training}
    trial = {**trial, "saved": {**trial["saved"], **memory}}
    return {**content, "training": {**training, "trial": trial}}


_MIGRATIONS: dict[int, Callable[[Content], Content]] = {2: _any_units_and_metrics, 3: _encoding_and_memory}
