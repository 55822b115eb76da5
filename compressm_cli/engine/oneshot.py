"""Compression of a model that is trained already, in one shot, and what a reduction needs to see of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.data.interface import Dataset, DataSpec
from compressm_cli.engine.batches import Batches, derived_generator
from compressm_cli.engine.evaluation import Evaluation, calibrate, evaluate
from compressm_cli.engine.same_data import as_before, relation
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.methods.calibration import Statistic
from compressm_cli.methods.hankel.config import MEASURES, TARGETS
from compressm_cli.methods.hankel.method import Hankel, HankelConfig, Measured
from compressm_cli.methods.method import CheckContext
from compressm_cli.methods.schedule import ListedSchedule
from compressm_cli.objectives import objective_of
from compressm_cli.recipe import Recipe, recipe_from_mapping, recipe_to_mapping
from compressm_cli.structure import surgery
from compressm_cli.structure.plan import Plan, UnitRecord

ONCE = ListedSchedule(kind="listed", at_steps=[1])
LARGEST_BATCH = 16
"""Rows of a calibration batch, at most: some thousand tokens are enough."""


@dataclass(frozen=True)
class OneShot:
    """A compressed model and what became of it."""

    checkpoint: Checkpoint
    records: list[UnitRecord]
    before: Evaluation | None
    """On the validation split; None where it was not asked for, or where the data do not judge a model."""
    after: Evaluation | None
    parameters_before: int
    parameters_after: int
    data: str
    """Which data were used, and whether the model was trained on them."""


@dataclass(frozen=True)
class Outlook:
    """What one cut would make of a model at several energy thresholds; the model is not changed."""

    measured: Measured
    plans: list[Plan]
    """One a threshold, in their order."""


def asked(recipe: Recipe, settings: dict[str, Any], source: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of a model with the compression that is asked for in one shot, and with overrides.

    How layers are measured and reduced (``MEASURES``) is what the recipe itself says where it compresses, else the
    default; ``settings`` come before that, and ``overrides`` before all. Raises RecipeError.
    """
    own = recipe.compression
    measures = {key: getattr(own, key) for key in MEASURES} if isinstance(own, HankelConfig) else {}
    compression = {"method": "hankel", **measures, **settings}
    return recipe_from_mapping({**recipe_to_mapping(recipe), "compression": compression}, source, overrides)


def needs_data(model: nn.Module, config: HankelConfig) -> bool:
    """Whether layers are measured on calibration batches."""
    return Hankel(config).needs_inputs(state_space_layers(model))


def outlook(
    checkpoint: Checkpoint,
    model: nn.Module,
    config: HankelConfig,
    thresholds: Sequence[float],
    dataset: Dataset | None,
) -> Outlook:
    """The plans that ``compress`` would carry out, at each threshold in the place of the order that ``config`` wants.

    ``model`` is that of the checkpoint; ``dataset`` may be None where ``needs_data`` says so. Raises BadInputError for
    data of another shape than the model's.
    """
    if dataset is not None:
        require_same_shape(checkpoint, dataset.spec)
    layers = state_space_layers(model)
    measured = _method(config).measure(layers, _context(checkpoint, model, dataset))
    target: dict[str, Any] = dict.fromkeys(TARGETS)
    plans = []
    for threshold in thresholds:
        method = _method(config.model_copy(update={**target, "energy_threshold": threshold}))
        plans.append(method.decide(layers, measured, _context(checkpoint, model, dataset)))
    return Outlook(measured, plans)


def compress(
    checkpoint: Checkpoint,
    config: HankelConfig,
    dataset: Dataset,
    evaluated: bool = True,
    wanted: bool = False,
) -> OneShot:
    """Cut the model of a checkpoint once, on the CPU, as ``config`` says; its schedule and safety are not used.

    ``dataset``, that of the checkpoint's recipe, gives the calibration batches and, where ``evaluated`` and the data
    judge a model, the validation split. Raises BadInputError for data of another shape than the model's,
    OtherDataError for others than it was trained on, unless they are ``wanted``, and RunFailedError where nothing
    was cut.
    """
    dataset, told = matching(checkpoint, dataset, wanted)
    evaluated = evaluated and checkpoint.recipe.data.unjudged() is None
    model = checkpoint.build_model()
    rows = checkpoint.recipe.train.rows()
    objective = objective_of(checkpoint.recipe, dataset.spec)
    before = evaluate(model, dataset.validation, rows, objective=objective) if evaluated else None
    whole = _parameters(model)
    plan = _method(config).plan(model, _context(checkpoint, model, dataset))
    if not plan.records:
        raise BadInputError("the model has no state space layers, and compress cuts nothing but their states")
    if not plan:
        reasons = "; ".join(f"{r.title}: {r.reason.removeprefix('nothing cut: ')}" for r in plan.records)
        raise RunFailedError(f"nothing was cut: {reasons}")
    try:
        surgery.apply_plan(model, None, plan)
    except ValueError as error:
        raise RunFailedError(f"nothing was cut: {error}") from error
    after = evaluate(model, dataset.validation, rows, objective=objective) if evaluated else None
    small = Checkpoint.of(
        model,
        checkpoint.recipe,
        checkpoint.data,
        checkpoint.step,
        fingerprint=dataset.fingerprint,
        encoding=checkpoint.encoding,
    )
    return OneShot(small, plan.records, before, after, whole, _parameters(model), told)


def _method(config: HankelConfig) -> Hankel:
    return Hankel(config.model_copy(update={"schedule": ONCE, "safety": None, "min_reduction": 0.0}))


def _context(checkpoint: Checkpoint, model: nn.Module, dataset: Dataset | None) -> CheckContext:
    """The only check of one shot: the same batches and random numbers each time."""

    def calibrated(statistics: Mapping[str, Statistic], batches: int) -> None:
        assert dataset is not None, "layers are measured on data, and there are none"
        train = checkpoint.recipe.train
        objective = objective_of(checkpoint.recipe, dataset.spec)
        few = Batches(dataset.train, min(train.batch_size, LARGEST_BATCH), 0, objective)
        calibrate(model, statistics, few.calibration(0, batches), train.rows())

    length = checkpoint.data.length if dataset is None else dataset.spec.length
    return CheckContext(1, 1, length, derived_generator(0, "method"), calibrated)


def matching(checkpoint: Checkpoint, dataset: Dataset, wanted: bool) -> tuple[Dataset, str]:
    """The data as a model of a checkpoint knows them, and whether it was trained on them, in words.

    Raises BadInputError for data of another shape than the model's, and OtherDataError for others than it was trained
    on, unless they are ``wanted``.
    """
    dataset = as_before(checkpoint.fingerprint, dataset)
    told = relation(checkpoint, dataset, checkpoint.recipe.data, wanted)
    require_same_shape(checkpoint, dataset.spec)
    return dataset, told


def require_same_shape(checkpoint: Checkpoint, spec: DataSpec) -> None:
    """BadInputError where a model cannot read a data set or predict its classes."""
    for name in ("classes", "targets", "features", "vocabulary", "per_step", "image"):
        model, data = getattr(checkpoint.data, name), getattr(spec, name)
        if model != data:
            raise BadInputError(
                f"the model was made for data with {name} {model}, this data set has {name} {data}; "
                "give the data it was trained on, or others of that shape, with data.KEY=VALUE"
            )


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
