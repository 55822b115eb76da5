"""What the state of training in a checkpoint must be, so that resuming fails before it has touched anything.

Keys that are not known here are left to those who wrote them.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.checkpoint.parked import read_parked, require_modules_fit
from compressm_cli.checkpoint.skeleton import skeleton
from compressm_cli.checkpoint.validation import (
    is_dense,
    read_orders,
    read_tensors,
    require_finite,
    require_fit,
)
from compressm_cli.core.text import shorten
from compressm_cli.core.validation import (
    LATEST,
    DamagedError,
    described,
    is_amount,
    is_count,
    is_number,
    mapping_of,
    part,
    require,
)
from compressm_cli.data.interface import DataSpec
from compressm_cli.layers.interface import ROLES, parameter_groups
from compressm_cli.methods.faults import MethodFaultError, ask
from compressm_cli.methods.method import Method
from compressm_cli.methods.registry import METHODS, method_of
from compressm_cli.ops.forms import FORMS, Problem, terms
from compressm_cli.recipe import Recipe
from compressm_cli.structure.optimizers import METHOD
from compressm_cli.structure.plan import UnitRecord
from compressm_cli.structure.surgery import require_constraints

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def require_training(training: object, model: nn.Module, recipe: Recipe, data: DataSpec) -> None:
    """Raise DamagedError unless ``training`` is a state from which ``model``, perhaps a skeleton, can be trained on."""
    where = "training"
    if type(training) is not dict:
        raise DamagedError(f"{where} must be a mapping, found {described(training)}")
    require(is_count(part(training, "seed", int, where), 0), f"{where}.seed", "a seed", training["seed"])
    threads = training.get("threads", 1)
    require(is_count(threads, 1, 1024), f"{where}.threads", "a number of CPU threads", threads)
    optimizer = part(training, "optimizer", dict, where)
    own = _own_parameters(training, where)
    groups = _require_optimizer(optimizer, model, own, f"{where}.optimizer", (len(ROLES), 2))
    mapping_of(training, "began", lambda v: is_count(v, 0, 65536), "a whole number from 0 to 65536", where)
    for i, process in enumerate(part(training, "processes", list, where) or [None]):
        _require_process(process, training.get("trial") is not None, f"{where}.processes[{i}]")
    _require_generator(training.get("generator"), f"{where}.generator")
    _require_method(part(training, "method", dict, where), model, recipe, f"{where}.method")
    _require_accounts(training, where)
    _require_budget(training.get("budget"), f"{where}.budget")
    _require_progress(training, where)
    if training.get("trial") is not None:
        _require_trial(part(training, "trial", dict, where), recipe, data, groups, f"{where}.trial")
    elif "trial" not in training:
        raise DamagedError(f"{where}.trial is missing")


def _own_parameters(saved: dict[str, Any], where: str) -> list[Tensor]:
    """Parameters that are the method's own, in the order of the optimizer."""
    found = part(saved, "parameters", list, where)
    for i, value in enumerate(found):
        place = f"{where}.parameters[{i}]"
        require(is_dense(value) and value.dtype == torch.float32, place, "a float32 tensor", value)
    require_finite(dict(enumerate(found)), f"{where}.parameters")
    return list(found)


def _require_optimizer(
    saved: dict[str, Any], model: nn.Module, own: list[Tensor], where: str, counts: tuple[int, ...]
) -> int:
    """``counts``: of the model's groups, that are allowed; returns that of this optimizer. ``own`` are the method's."""
    groups = part(saved, "param_groups", list, where)
    for i, group in enumerate(groups):
        require(type(group) is dict, f"{where}.param_groups[{i}]", "a mapping", group)
    count = sum(group.get("of") != METHOD for group in groups)
    allowed = " or ".join(map(str, counts))
    right = count in counts and all(group.get("of") != METHOD for group in groups[:count])
    require(right, f"{where}.param_groups", f"a list of {allowed}, and then those of the method", groups)
    named = parameter_groups(model, count)
    flat: list[Tensor] = [*(model.get_parameter(name) for names in named for name in names), *own]
    sizes = [len(names) for names in named]
    for i, group in enumerate(groups[count:], count):
        sizes.append(len(part(group, "params", list, f"{where}.param_groups[{i}]")))
    right = sum(sizes[count:]) == len(own)
    require(
        right, f"{where}.param_groups", f"of the model's parameters and {len(own)} of the method's", groups
    )
    start = 0
    for i, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        place, numbers = f"{where}.param_groups[{i}]", list(range(start, start + size))
        right = group.get("params") == numbers
        require(right, f"{place}.params", f"{size} numbers from {start}", group.get("params"))
        _require_settings(group, place)
        start += size
    for number, moments in part(saved, "state", dict, where).items():
        place = f"{where}.state[{shorten(number)}]"
        require(is_count(number, 0, len(flat) - 1), place, "of a parameter of the model", number)
        require(
            type(moments) is dict and set(moments) == set(MOMENTS),
            place,
            f"a mapping of {', '.join(MOMENTS)}",
            moments,
        )
        for name, value in moments.items():
            like = flat[number]
            shape = torch.Size() if name == "step" else like.shape
            right = is_dense(value) and value.shape == shape and value.dtype == torch.float32
            require(right, f"{place}.{name}", f"a float32 tensor of the shape {tuple(shape)}", value)
        require_finite(moments, place)
        negative = any(m.numel() and bool(m.min() < 0) for m in (moments["step"], moments["exp_avg_sq"]))
        require(not negative, place, "of squares and steps that are not negative", moments)
    return count


def _require_settings(group: dict[str, Any], where: str) -> None:
    """AdamW's settings of a group, of the kind that the optimizer was made with."""
    for name in ("lr", "factor", "weight_decay", "eps"):
        right = is_number(group.get(name)) and group[name] >= 0
        require(right, f"{where}.{name}", "a number that is not negative", group.get(name))
    betas = group.get("betas")
    right = (
        isinstance(betas, (tuple, list))
        and len(betas) == 2
        and all(is_number(b) and 0 <= b < 1 for b in betas)
    )
    require(right, f"{where}.betas", "two numbers from 0 to below 1", betas)
    for name in ("amsgrad", "maximize", "capturable", "differentiable"):
        require(group.get(name, False) is False, f"{where}.{name}", "false", group.get(name))
    for name in ("foreach", "fused", "decoupled_weight_decay"):
        value = group.get(name)
        require(value is None or type(value) is bool, f"{where}.{name}", "null, true or false", value)
    require(not (group.get("foreach") and group.get("fused")), f"{where}.foreach", "false beside fused", True)


def _require_process(own: Any, on_trial: bool, where: str) -> None:
    """What one process of the run had to itself."""
    require(type(own) is dict, where, "a mapping", own)
    _require_random(part(own, "random", dict, where), f"{where}.random")
    if on_trial:
        _require_random(part(own, "trial_random", dict, where), f"{where}.trial_random")
    loss = own.get("window_loss")
    right = is_dense(loss) and loss.ndim == 0 and loss.dtype is torch.float32
    require(right, f"{where}.window_loss", "one float32 number in a tensor", loss)


def _require_random(saved: dict[str, Any], where: str) -> None:
    _require_generator(saved.get("cpu"), f"{where}.cpu")
    for i, value in enumerate(part(saved, "cuda", list, where)):
        right = is_dense(value) and value.dtype is torch.uint8 and value.ndim == 1
        require(right, f"{where}.cuda[{i}]", "a tensor of bytes", value)


def _require_generator(value: Any, where: str) -> None:
    """The state of a random generator: PyTorch knows best."""
    wanted = "the state of a random generator"
    require(is_dense(value) and value.dtype is torch.uint8 and value.ndim == 1, where, wanted, value)
    try:
        torch.Generator().set_state(value)
    except RuntimeError:
        require(False, where, wanted, value)


def _require_method(saved: dict[str, Any], model: nn.Module, recipe: Recipe, where: str) -> None:
    method = method_of(recipe.compression)
    try:
        ask(method, Method.validate, saved, model)
    except MethodFaultError:
        raise
    except ValueError as error:
        raise DamagedError(f"{where}.{error}") from error


def _require_accounts(training: dict[str, Any], where: str) -> None:
    """FLOPs, seconds, joules and the costs of forms."""
    flops = part(training, "flops", dict, where)
    for name in ("total", "per_step"):
        value = flops.get(name, "")
        right = value is None or (type(value) is int and 0 <= value < 2**200)
        require(right, f"{where}.flops.{name}", "null or a whole number", value)
    clock = part(training, "clock", dict, where)
    for name in CLOCK:
        require(is_amount(clock.get(name)), f"{where}.clock.{name}", "a number of seconds", clock.get(name))
    cpu = clock.get("training_cpu")
    require(cpu is None or is_amount(cpu), f"{where}.clock.training_cpu", "null or a number of seconds", cpu)
    joules = part(training, "joules", list, where)
    for i, one in enumerate(joules):
        place = f"{where}.joules[{i}]"
        require(type(one) is dict and set(one) == {"value", "reason", "sources"}, place, "a measurement", one)
        require(
            one["value"] is None or is_amount(one["value"]),
            f"{place}.value",
            "null or a number that is not negative",
            one["value"],
        )
        require(
            one["reason"] is None or type(one["reason"]) is str,
            f"{place}.reason",
            "null or text",
            one["reason"],
        )
        texts = type(one["sources"]) is list and all(type(s) is str for s in one["sources"])
        require(texts, f"{place}.sources", "a list of texts", one["sources"])
    costs = training.get("costs", "")
    if costs is not None:
        right = type(costs) is dict and set(costs) == set(FORMS)
        require(right, f"{where}.costs", f"null or a mapping of {' and '.join(FORMS)}", costs)
        for form in FORMS:
            count = len(terms(form, Problem(1, 1, 1, 1, 1)))
            right = isinstance(costs[form], (tuple, list)) and len(costs[form]) == count
            right = right and all(map(is_number, costs[form]))
            require(right, f"{where}.costs.{form}", f"{count} numbers", costs[form])


def _require_budget(saved: dict[str, Any] | None, where: str) -> None:
    """What was spent of a budget that is measured; null where it is counted, or where there is none."""
    if saved is None:
        return
    right = type(saved) is dict and set(saved) == BUDGET
    require(right, where, f"null or a mapping of {', '.join(sorted(BUDGET))}", saved)
    require(saved["unit"] in ("seconds", "joules"), f"{where}.unit", "seconds or joules", saved["unit"])
    for name in ("spent", "total"):
        require(is_amount(saved[name]), f"{where}.{name}", "a number that is not negative", saved[name])
    uncut, sources = saved["uncut"], saved["sources"]
    require(
        uncut is None or (is_number(uncut) and uncut > 0), f"{where}.uncut", "null or a number above 0", uncut
    )
    texts = type(sources) is list and all(type(s) is str for s in sources)
    require(texts, f"{where}.sources", "a list of texts", sources)


def _require_progress(training: dict[str, Any], where: str) -> None:
    """Counters, the best evaluation, windows of times, and the measures of the start."""
    counts = mapping_of(training, "counts", is_count, "a whole number", where)
    missing = {"made", "cut", "rejected"} - set(counts)
    require(not missing, f"{where}.counts", "the counters made, cut and rejected", counts)
    best = part(training, "best", dict, where)
    value = best.get("value")
    require(
        "value" in best and (value is None or is_number(value)),
        f"{where}.best.value",
        "null or a number",
        value,
    )
    require(is_count(best.get("step"), 0, LATEST), f"{where}.best.step", "a whole number", best.get("step"))
    windows = part(training, "windows", dict, where)
    for name in ("start", "final"):
        _require_times(windows.get(name), f"{where}.windows.{name}")
    _require_measures(part(training, "start", dict, where), f"{where}.start")
    _require_evaluated(training.get("evaluated"), f"{where}.evaluated")
    window = part(training, "window", dict, where)
    require(is_count(window.get("step"), 0, LATEST), f"{where}.window.step", "a step", window.get("step"))
    seconds = window.get("seconds")
    require(is_amount(seconds), f"{where}.window.seconds", "a number of seconds", seconds)
    made = training.get("rollbacks", [])
    right = type(made) is list and all(type(one) is dict for one in made)
    require(right, f"{where}.rollbacks", "a list of mappings", made)


def _require_numbers(value: Any, where: str) -> None:
    require(type(value) is list and all(map(is_number, value)), where, "a list of numbers", value)


def _require_times(value: Any, where: str) -> None:
    require(
        type(value) is list and all(map(is_amount, value)), where, "a list of numbers, none negative", value
    )


def _require_measures(start: dict[str, Any], where: str) -> None:
    """What was counted of the model at the start; it goes into the summary as it is."""
    if not start:  # before the first shapes were counted
        return
    for name in ("parameters", "step", "inference"):
        value = start.get(name)
        right = type(value) is int and 0 <= value < 2**200
        require(right, f"{where}.{name}", "a whole number", value)
    mapping_of(start, "orders", is_count, "a whole number", where)
    mapping_of(start, "forms", lambda v: type(v) is str and len(v) <= 200, "text", where)


def _require_evaluated(value: Any, where: str) -> None:
    """null, or a step and what was found there."""
    if value is None:
        return
    right = isinstance(value, (tuple, list)) and len(value) == 2 and is_count(value[0], 0, LATEST)
    require(right, where, "a step and its evaluation", value)
    _require_evaluation(value[1], f"{where}[1]")


def _require_evaluation(value: Any, where: str) -> None:
    require(
        type(value) is dict and set(value) == EVALUATION,
        where,
        f"a mapping of {', '.join(sorted(EVALUATION))}",
        value,
    )
    metrics = mapping_of(
        value, "metrics", lambda v: v is None or type(v) in (int, float), "null or a number", where
    )
    numbers = all(type(value[name]) in (int, float) for name in EVALUATION - {"metrics"})
    require(numbers and len(metrics) <= 100, where, "a mapping of numbers", value)


def _require_trial(trial: dict[str, Any], recipe: Recipe, data: DataSpec, groups: int, where: str) -> None:
    """A cut on trial: what to go back to, with as many groups of the optimizer, and what was done."""
    require(
        getattr(recipe.compression, "safety", None) is not None,
        where,
        "null: the recipe has no safety",
        trial,
    )
    require(is_count(trial.get("until"), 0, LATEST), f"{where}.until", "a step", trial.get("until"))
    _require_evaluation(trial.get("before"), f"{where}.before")
    _require_times(trial.get("windows"), f"{where}.windows")
    method = METHODS[recipe.compression.method]
    for i, record in enumerate(part(trial, "records", list, where)):
        require_record(record, method, f"{where}.records[{i}].")
    saved = part(trial, "saved", dict, where)
    place = f"{where}.saved"
    require(is_count(saved.get("step"), 0, LATEST), f"{place}.step", "a step", saved.get("step"))
    weights, masks = read_tensors(saved, "weights", place), read_tensors(saved, "masks", place)
    try:
        sizes = read_orders(saved, "sizes", place)
        model = skeleton(recipe, data, sizes, weights)
        require_fit(weights, model.state_dict())
    except ValueError as error:
        raise DamagedError(f"{place}: {error}") from error
    require_constraints(model, masks, part(saved, "frozen", list, place), f"{place}.")
    parked = read_parked(saved, model, f"{place}.parked")
    require_modules_fit(parked, recipe, data, sizes, weights)
    own = _own_parameters(saved, place)
    _require_optimizer(part(saved, "optimizer", dict, place), model, own, f"{place}.optimizer", (groups,))
    _require_random(part(saved, "random", dict, place), f"{place}.random")
    _require_method(part(saved, "method", dict, place), model, recipe, f"{place}.method")
    _require_generator(saved.get("generator"), f"{place}.generator")


def require_record(record: Any, method: type[Method], where: str = "") -> None:
    """DamagedError unless the fields of a record of a method are what they must be; ``where`` ends with a dot."""
    require(
        type(record) is dict and set(record) == RECORD,
        where.removesuffix(".") or "it",
        f"a record of {', '.join(sorted(RECORD))}",
        record,
    )
    for name in ("unit", "kind", "reason"):
        require(type(record[name]) is str, f"{where}{name}", "text", record[name])
    for name in ("before", "after"):
        require(is_count(record[name], 0, LATEST), f"{where}{name}", "a whole number", record[name])
    _require_numbers(record["scores"], f"{where}scores")
    require(is_number(record["seconds"]), f"{where}seconds", "a number", record["seconds"])
    require(type(record["details"]) is dict, f"{where}details", "a mapping", record["details"])
    try:
        method.require_details(record["details"])
    except ValueError as error:
        raise DamagedError(f"{where}{error}") from error


BUDGET = {"unit", "spent", "total", "uncut", "sources"}
"""What ``engine.budget.Budget`` gives."""
CLOCK = ("total", "evaluation", "compression", "compile", "checkpoint")
"""What ``measure.clock.Stopwatch`` goes on counting from."""
EVALUATION = {"loss", "metrics", "rows", "labels"}
"""Fields of ``engine.evaluation.Evaluation``, which this part must not import."""
RECORD = {field.name for field in fields(UnitRecord)}
