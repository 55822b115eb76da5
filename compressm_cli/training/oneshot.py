"""Compression of a model that is trained already, in one shot, and what a reduction needs to see of the data."""

from dataclasses import dataclass

from torch import Tensor, nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.compression import surgery
from compressm_cli.compression.hankel import Hankel, HankelConfig
from compressm_cli.compression.method import CheckContext, LayerRecord
from compressm_cli.compression.schedule import ListedSchedule
from compressm_cli.data.interface import Dataset, DataSpec, Split
from compressm_cli.errors import BadInputError, RunFailedError
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.layers.selective import SelectiveLayer
from compressm_cli.training.batches import Batches, derived_generator
from compressm_cli.training.evaluation import Evaluation, evaluate, layer_inputs

CALIBRATED = HankelConfig(method="hankel", energy_threshold=0.99)
"""The settings with which a model is looked at where nobody has asked for others."""
ONCE = ListedSchedule(kind="listed", at_steps=[1])
LARGEST_BATCH = 16
"""Rows of a calibration batch, at most: some thousand tokens are enough."""


@dataclass(frozen=True)
class OneShot:
    """A compressed model and what became of it."""

    checkpoint: Checkpoint
    records: list[LayerRecord]
    before: Evaluation | None
    """On the validation split; None where it was not asked for."""
    after: Evaluation | None
    parameters_before: int
    parameters_after: int


def has_selective(model: nn.Module) -> bool:
    """Whether a layer's Gramians can only be had from data."""
    return any(isinstance(layer, SelectiveLayer) for layer in state_space_layers(model).values())


def calibration_batches(train: Split, batch_size: int, count: int) -> list[Split]:
    """``count`` batches of the training split, the same ones every time."""
    return Batches(train, min(batch_size, LARGEST_BATCH), seed=0).calibration(0, count)


def calibration_inputs(model: nn.Module, checkpoint: Checkpoint) -> dict[str, list[Tensor]]:
    """What each layer sees on batches of the data that the checkpoint's recipe names."""
    recipe = checkpoint.recipe
    dataset = recipe.data.load()
    require_same_shape(checkpoint, dataset.spec)
    return layer_inputs(
        model, calibration_batches(dataset.train, recipe.train.batch_size, CALIBRATED.calibration_batches)
    )


def compress(
    checkpoint: Checkpoint, config: HankelConfig, dataset: Dataset, evaluated: bool = True
) -> OneShot:
    """Cut the model of a checkpoint once, on the CPU, as ``config`` says; its schedule and safety are not used.

    ``dataset`` gives the calibration batches and, where ``evaluated``, the validation split. Raises BadInputError for
    data of another shape than the model's, and RunFailedError where nothing was cut.
    """
    require_same_shape(checkpoint, dataset.spec)
    model = checkpoint.build_model()
    batch_size = checkpoint.recipe.train.batch_size
    before = evaluate(model, dataset.validation, batch_size) if evaluated else None
    whole = _parameters(model)
    method = Hankel(config.model_copy(update={"schedule": ONCE, "safety": None, "min_reduction": 0.0}))

    def calibrate(count: int) -> dict[str, list[Tensor]]:
        return layer_inputs(model, calibration_batches(dataset.train, batch_size, count))

    context = CheckContext(1, 1, dataset.spec.length, derived_generator(0, "method"), calibrate)
    plan = method.plan(model, context)
    if not plan:
        reasons = "; ".join(f"{r.layer}: {r.reason.removeprefix('nothing cut: ')}" for r in plan.records)
        raise RunFailedError(f"nothing was cut: {reasons}")
    try:
        surgery.apply_plan(model, None, plan)
    except ValueError as error:
        raise RunFailedError(f"nothing was cut: {error}") from error
    after = evaluate(model, dataset.validation, batch_size) if evaluated else None
    small = Checkpoint.of(model, checkpoint.recipe, checkpoint.data, checkpoint.step)
    return OneShot(small, plan.records, before, after, whole, _parameters(model))


def require_same_shape(checkpoint: Checkpoint, spec: DataSpec) -> None:
    """BadInputError where a model cannot read a data set or predict its classes."""
    for name in ("classes", "features", "vocabulary", "per_step"):
        model, data = getattr(checkpoint.data, name), getattr(spec, name)
        if model != data:
            raise BadInputError(
                f"the model was made for data with {name} {model}, this data set has {name} {data}; "
                "give the data it was trained on, or others of that shape, with data.KEY=VALUE"
            )


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
