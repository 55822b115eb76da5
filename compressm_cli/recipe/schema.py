"""The recipe: the whole YAML as strict, immutable pydantic models."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from compressm_cli import plugins
from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.registry import OneOf, generation
from compressm_cli.core.text import is_control
from compressm_cli.data import TASKS
from compressm_cli.data.interface import expanded
from compressm_cli.methods import METHODS
from compressm_cli.methods.none import NoCompressionConfig
from compressm_cli.models import MODELS
from compressm_cli.objectives import OBJECTIVES
from compressm_cli.recipe.budget import BudgetConfig

PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class StopConfig(Config):
    """End the run with exit code 1; the last good checkpoint is kept."""

    action: Literal["stop"] = "stop"


class RollBackConfig(Config):
    """Go back to the last good checkpoint, and on from there with a lower learning rate."""

    action: Literal["roll_back"]
    lr_factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Factor on the learning rate for the rest of the run; once more with each time it goes back."""
    max_rollbacks: PositiveInt = 3
    """How often a run may go back; after that it ends as with ``stop``."""


DivergenceConfig = Annotated[StopConfig | RollBackConfig, Field(discriminator="action")]


class TrainConfig(Config):
    """How the model is trained (AdamW)."""

    initial: Annotated[str, Field(min_length=1)] | None = None
    """A trained model to begin with, but for its head, which is a fresh one: a run (``outputs/NAME``), a checkpoint, or
    an exported folder, of the same ``model:`` and of inputs that are encoded alike. Null begins with fresh weights."""
    steps: PositiveInt
    """Optimizer steps of the run; with a ``budget``, of the same recipe without compression."""
    batch_size: PositiveInt = 64
    """Rows a step, of all processes together; rows left over at the end of an epoch are skipped."""
    accumulate: PositiveInt = 1
    """Parts of a process's rows that are passed through the model one after the other, to need less memory; the
    update is that of all rows."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How several processes hold the model: ``ddp``, a copy each; ``fsdp``, a part of each parameter, for models
    that one process has no room for. One process has it whole."""
    learning_rate: Annotated[float, Field(gt=0.0, le=10.0)] = 1e-3
    """Its highest value, at the end of the warm-up."""
    recurrent_lr_factor: Annotated[float, Field(gt=0.0, le=100.0)] = 1.0
    """Factor on the learning rate of the recurrent parameters, which never have weight decay."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW's, of weights of linear maps and convolutions and of read-out matrices C; recurrent parameters, gains of
    norms, biases, feedthroughs D and embeddings (tied ones too) have none."""
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    """``cosine`` falls to zero at the last step, after the warm-up."""
    warmup: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Linear warm-up, as a fraction of the run (with either schedule)."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = None
    """Clip the norm of all gradients together; null does not."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """``tf32`` matters on CUDA only; ``bf16`` is autocast; recurrent parameters and states stay in fp32."""
    compile: bool = False
    """Use torch.compile (needs a C++ compiler); done anew after each cut. On CUDA, where all sequences have one
    length, with CUDA graphs."""
    form: Literal["auto", "convolution", "recurrent"] = "auto"
    """How time-invariant recurrences are computed; ``auto`` takes, for the sizes of the moment, what is faster here."""
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    """CPU threads of a process; ``auto`` takes, of those that PyTorch has (``OMP_NUM_THREADS``, else the cores), as
    many as make this model's steps faster on this machine, and one where more do not. Of several processes each takes
    what PyTorch has. A resumed run takes what it began with."""
    eval_every: PositiveInt | None = None
    """Steps between evaluations on the validation split; null means a twentieth of the run."""
    log_every: PositiveInt | None = None
    """Steps between logged training losses; null means a hundredth of the run."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints; null means a tenth of the run."""
    on_divergence: DivergenceConfig = StopConfig()
    """What is done when a loss, a weight or a moment of the optimizer is infinite or not a number."""

    @field_validator("initial")
    @classmethod
    def _from_the_home_folder(cls, value: str | None) -> str | None:
        return None if value is None else str(expanded(value))

    @model_validator(mode="after")
    def _parts_are_not_compiled(self) -> "TrainConfig":
        if self.compile and self.parallel == "fsdp":
            raise ValueError(
                "compile: true does not go with parallel: fsdp; write parallel: ddp or compile: false"
            )
        return self

    def rows(self, batch_size: int | None = None, processes: int = 1) -> int:
        """Rows that a process passes through the model at once, of batches of this size or of other ones."""
        return -(-(batch_size or self.batch_size) // (processes * self.accumulate))

    def interval(self, name: Literal["eval_every", "log_every", "checkpoint_every"]) -> int:
        """The interval in steps, with its default resolved."""
        parts = {"eval_every": 20, "log_every": 100, "checkpoint_every": 10}
        given: int | None = getattr(self, name)
        return given if given is not None else max(1, self.steps // parts[name])


class OutputConfig(Config):
    """Where the run's folder goes: ``<root>/<name>/v0001``."""

    root: Annotated[str, Field(min_length=1)] = "outputs"
    """A folder; relative ones start at the current folder."""
    keep_last: PositiveInt = 1
    """How many checkpoints with the state of training are kept, the newest, beside the best and the final model."""
    trackers: list[Literal["tensorboard", "wandb"]] = []
    """Experiment trackers that are told the progress as well; they need ``pip install 'compressm[tracking]'``."""

    @field_validator("trackers")
    @classmethod
    def _distinct_trackers(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError(f"trackers repeat in {value}; write each once")
        return value


NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9.,=_-]{0,99}$")
FORM = "letters, digits, '.', '_', '-', ',' and '=', at most 100, a letter or digit first"
"""What the pattern of a name says, in words."""


class Recipe(Config):
    """One experiment: what is trained, on what, how, and how it is compressed meanwhile."""

    name: Annotated[str, Field(pattern=NAME.pattern, json_schema_extra={"form": FORM})]
    """Name of the folder of its runs: letters, digits, '.', '_', '-', ',' and '='."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    """One run a seed; a single number is a list of one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` is CUDA where there is a usable GPU."""
    data: Annotated[Any, OneOf(TASKS)]
    """The task: which sequences, with which labels."""
    model: Annotated[Any, OneOf(MODELS)]
    """The network."""
    objective: Annotated[Any, OneOf(OBJECTIVES)] | None = None
    """What is learned and by what models are judged; null is the task's own."""
    train: TrainConfig
    """The optimization."""
    budget: BudgetConfig | None = None
    """What the run may spend; it then decides, instead of ``train.steps``, how far the run is and when it ends."""
    compression: Annotated[Any, OneOf(METHODS)] = NoCompressionConfig()
    """What is done to the model while it trains; without it, nothing."""
    output: OutputConfig = OutputConfig()
    """Where the results go."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: as plain data, to be validated there, where plug-ins are perhaps not loaded yet."""
        return _received, (self.model_dump(mode="json"), plugins.loaded())

    def located(self) -> "Recipe":
        """The same with absolute paths of its data, network, teacher and the model that it begins with; relative ones
        start at the current folder.

        Raises BadInputError where that folder is called what no recipe may hold.
        """
        found: dict[str, Any] = {}
        for name in ("data", "model", "objective"):
            part = getattr(self, name)
            if part is None:
                continue
            found[name] = located = part.located(Path.cwd())
            strange = [place for place in located.places().values() if any(map(is_control, place))]
            if strange and located != part:
                raise BadInputError(
                    f"{strange[0]}: the folder has a control character in its name, which the run's recipe cannot "
                    f"hold; rename it, or start from another folder and write the whole path in {name}"
                )
        if self.train.initial is not None:
            place = str(Path.cwd() / self.train.initial)
            if any(map(is_control, place)) and place != self.train.initial:
                raise BadInputError(
                    f"{place}: the folder has a control character in its name, which the run's recipe cannot hold; "
                    "rename it, or start from another folder and write the whole path in train.initial"
                )
            found["train"] = self.train.model_copy(update={"initial": place})
        return self.model_copy(update=found)

    @field_validator("seeds", mode="before")
    @classmethod
    def _one_seed(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, value: list[int]) -> list[int]:
        if len(set(value)) != len(value):
            raise ValueError(f"seeds repeat in {value}; write each once")
        return value


def _received(mapping: dict[str, Any], modules: list[str]) -> Recipe:
    """The recipe that another process of ours has sent, with the plug-ins that are loaded there."""
    from compressm_cli.recipe.loading import recipe_from_mapping

    for module in modules:
        plugins.load(module)
    return recipe_from_mapping(mapping, "the recipe of another process")


def settle() -> None:
    """Let recipes name all classes that are registered by now."""
    global _settled
    if _settled != generation():
        for registry in plugins.REGISTRIES:
            for entry in registry.entries().values():
                entry.config.model_rebuild(force=True)
        Recipe.model_rebuild(force=True)
        _settled = generation()


_settled = 0
