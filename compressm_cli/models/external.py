"""Networks that are not ours: of a folder of transformers, or a class of a plug-in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, create_model, model_validator
from torch import Tensor, nn

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.json_files import read_json
from compressm_cli.core.modes import in_evaluation_mode
from compressm_cli.core.registry import Registry
from compressm_cli.core.text import error_line, shorten
from compressm_cli.layers.state import State, check_lengths
from compressm_cli.models.config import ModelConfig
from compressm_cli.models.discovered import FoundAxes
from compressm_cli.models.interface import Model
from compressm_cli.models.of_transformers import configured, network_of, positions_of, quiet, takes, task_of
from compressm_cli.models.past import Past, Together

CONFIG = "config.json"
PAST = "past_key_values"
TRIED, CLOSE = 5, 1e-4
"""Steps with which the step by step form is tried out, and how far its scores may be off, relative to the largest."""
LONGEST_NETWORK = 500_000

NETWORKS: Registry[nn.Module] = Registry("network", "class", nn.Module, Config, {})
"""Classes of plug-ins, by ``package.module:Class``."""


class _ExternalConfig(ModelConfig):
    reads: ClassVar[None] = None

    kind: Literal["external"] = "external"
    arguments: dict[str, Any] = {}
    """What the ``class`` is called with, by keyword."""
    weights: Literal["folder", "fresh"] | None = None
    """Where training begins: with the weights of the folder, or with random ones. Null is the folder's where there is a
    folder."""
    network: Annotated[str, Field(max_length=LONGEST_NETWORK)] | None = None
    """The folder's ``config.json``, which a run keeps; not to be written by hand."""
    axes: FoundAxes | None = None
    """What was found in the network that can be cut, which a run keeps; not to be written by hand."""

    @property
    def folder(self) -> str | None:
        """``from``."""
        found: str | None = getattr(self, "from")
        return found

    @property
    def network_class(self) -> str | None:
        """``class``."""
        found: str | None = getattr(self, "class")
        return found

    @property
    def begins_with_folder(self) -> bool:
        """Whether training begins with the weights of the folder."""
        return self.folder is not None and self.weights != "fresh"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.folder is None) == (self.network_class is None):
            raise ValueError("write either from: FOLDER, of transformers, or class: package.module:Class")
        if self.folder is not None and self.arguments:
            raise ValueError(
                "arguments are those of a class; what a folder's network is, its config.json says"
            )
        if self.network_class is not None and (self.weights == "folder" or self.network is not None):
            raise ValueError("a class has no folder of weights; leave weights and network out")
        return self

    def located(self, folder: Path) -> Self:
        if self.folder is None:
            return self
        place = folder / Path(self.folder).expanduser()
        text = self.network or json.dumps(configuration(place), sort_keys=True)
        return self.model_copy(update={"from": str(place), "network": text})

    def places(self) -> dict[str, str]:
        return {} if self.folder is None else {"from": self.folder}

    def configuration(self) -> dict[str, Any]:
        """What ``config.json`` of the folder says; BadInputError where it is none."""
        if self.network is None:
            return configuration(Path(str(self.folder)).expanduser())
        try:
            found = json.loads(self.network)
        except (ValueError, RecursionError) as error:
            raise BadInputError("model.network: not JSON") from error
        if not isinstance(found, dict):
            raise BadInputError("model.network: not a mapping in JSON")
        return found

    def tied_weights(self) -> dict[str, str]:
        first: dict[int, str] = {}
        with torch.device("meta"):
            network = _network(self)
        named = network.named_parameters(prefix="network", remove_duplicate=False)
        found = {name: first.setdefault(id(parameter), name) for name, parameter in named}
        return {name: other for name, other in found.items() if name != other}


_PLACES: dict[str, Any] = {
    "from": (
        str | None,
        Field(
            default=None,
            min_length=1,
            description="A folder of transformers: ``config.json``, and weights beside it. Relative ones start at the "
            "current folder.",
        ),
    ),
    "class": (
        str | None,
        Field(
            default=None, description="A class of a plug-in, any ``nn.Module``, as ``package.module:Class``."
        ),
    ),
}
# Words of Python, which cannot be written as names of fields.
ExternalConfig = create_model("ExternalConfig", __base__=_ExternalConfig, __module__=__name__, **_PLACES)
ExternalConfig.__doc__ = """A network that is not ours: ``model: {from: FOLDER}``, or ``{class: package.module:Class}``.

    What can be cut of it is found when a run begins, and proved on a few rows.
    """


class External(Model):
    """Gives scores of whatever network there is within it.

    It is called with the inputs alone; where rows are padded also with ``attention_mask`` (batch, length), 1 where a
    step is none, or with ``lengths``, whichever it takes. What it gives back is the scores, or has them as ``logits``.
    """

    Config = ExternalConfig

    def __init__(self, network: Any, data: Any, is_of_transformers: bool) -> None:
        super().__init__()
        self.network = network
        self.outputs, self.per_step = data.outputs, data.per_step
        self._names = takes(network)
        self._keywords = {"use_cache": False} if is_of_transformers and "use_cache" in self._names else {}
        self._steps = is_of_transformers and data.per_step and {PAST, "use_cache"} <= self._names
        self._last = {"use_cache": True} | ({"logits_to_keep": 1} if "logits_to_keep" in self._names else {})
        """That it keeps what a step goes on from, and that scores of the last step are enough."""
        self._text = network.config.get_text_config() if is_of_transformers else None
        self._is_tried: bool | None = None
        """Whether steps were seen to give what the whole sequence gives; None where that was not tried yet."""
        self._is_pooled = is_of_transformers and not data.per_step and isinstance(_score(network), nn.Linear)

    @classmethod
    def build(cls, config: Any, data: Any, orders: Mapping[str, int] | None = None) -> "External":
        """Raises BadInputError where the network is not for such data, and ValueError where ``axes`` are not its."""
        if config.network_class is None:
            _require_for(config.configuration(), config.folder, data)
        model = cls(_network(config), data, config.network_class is None)
        _own_all_tensors(model)
        if config.axes is not None:
            config.axes.attach(model)
        return model

    @classmethod
    def of(cls, network: nn.Module, data: Any) -> "External":
        """Around a network of transformers that is there already."""
        model = cls(network, data, True)
        _own_all_tensors(model)
        return model

    @property
    def sees_padding(self) -> bool:
        """Whether it is told which steps are padding."""
        return bool({"attention_mask", "lengths"} & self._names)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        given = self._keywords | self._padding(inputs, lengths)
        if self._is_pooled:
            return self._of_last(inputs, lengths, given)
        result = self.network(inputs, **given)
        scores = result if isinstance(result, Tensor) else getattr(result, "logits", None)
        if not isinstance(scores, Tensor):
            raise BadInputError(
                f"{type(self.network).__name__}: gives back a {type(result).__name__}; scores are wanted, as a tensor "
                "or as its logits"
            )
        wide = (*inputs.shape[: 2 if self.per_step else 1], self.outputs)
        if scores.shape[:-1] != wide[:-1] or scores.shape[-1] < self.outputs:
            raise BadInputError(
                f"{type(self.network).__name__}: gives back scores {tuple(scores.shape)} of inputs "
                f"{tuple(inputs.shape)}; these data want {wide}"
            )
        return scores[..., : self.outputs]  # tokens that the data do not have

    @property
    def longest(self) -> int | None:
        return None if self._text is None else positions_of(self._text)

    @property
    def step_obstacle(self) -> str | None:
        name = type(self.network).__name__
        if not self._steps:
            return f"{name} takes no {PAST} and use_cache, by which language models of transformers go on"
        if self._is_tried is None:
            self._is_tried = self._try_steps()
        return (
            None if self._is_tried else f"{name} does not say step by step what it says of the whole sequence"
        )

    def initial_state(self, batch: int) -> State:
        self._require_steps()
        return Past.none(batch, self._device)

    @torch.no_grad()
    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        self._require_steps()
        if inputs.ndim != 1 or inputs.is_floating_point():
            raise ValueError(f"a step takes tokens (batch,), not {inputs.dtype} {tuple(inputs.shape)}")
        if not isinstance(state, Past):
            raise ValueError(f"the state is of another model than {type(self.network).__name__}")
        return self._gone_on(inputs[:, None], state)

    @torch.no_grad()
    def prefill(self, inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Rows of equal length together, so that there is no padding."""
        self._require_steps()
        if inputs.ndim != 2 or inputs.is_floating_point():
            raise ValueError(
                f"prefill takes tokens (batch, length), not {inputs.dtype} {tuple(inputs.shape)}"
            )
        check_lengths(inputs, lengths)
        if lengths is None:
            return self._gone_on(inputs, Past.none(len(inputs), inputs.device))
        said: list[tuple[Tensor, Tensor]] = []
        together = []
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            scores, past = self._gone_on(inputs[rows, :length], Past.none(len(rows), inputs.device))
            said.append((rows, scores))
            together += [Together(rows, part.cache) for part in past.take_together(len(rows))]
        return _by_row(said), Past(len(inputs), together)

    def _gone_on(self, tokens: Tensor, past: Past) -> tuple[Tensor, Past]:
        """Scores (batch, outputs) after more tokens (batch, steps), and what is kept then."""
        said, together = [], []
        for part in past.take_together(len(tokens)):
            found = self.network(tokens[part.rows], **self._last, **{PAST: part.cache})
            said.append((part.rows, found.logits[:, -1, : self.outputs]))
            together.append(Together(part.rows, getattr(found, PAST)))
        return _by_row(said), Past(len(tokens), together)

    @torch.no_grad()
    def _try_steps(self) -> bool:
        """Whether a prompt and steps after it give what the whole sequence gives: caches are the network's own code."""
        tokens = torch.arange(2 * TRIED, device=self._device).view(2, TRIED) % self.outputs
        padding = getattr(self._text, "pad_token_id", None)
        if isinstance(padding, int) and 0 <= padding < self.outputs:
            tokens[:, 0] = padding  # transformers warns of it once; here it is a token like any other
        with in_evaluation_mode(self), quiet():
            whole = self(tokens)
            try:
                said, past = self._gone_on(tokens[:, :-2], Past.none(2, self._device))
                steps = [said]
                for place in (TRIED - 2, TRIED - 1):
                    said, past = self._gone_on(tokens[:, place : place + 1], past)
                    steps.append(said)
            except (AttributeError, TypeError, ValueError, RuntimeError, IndexError, NotImplementedError):
                return False
        off = (torch.stack(steps, dim=1) - whole[:, -3:]).abs().max()
        return bool(off <= CLOSE * whole.abs().max())

    def _require_steps(self) -> None:
        """ValueError where there is no step by step form, or dropout would make another one of it."""
        if (why := self.step_obstacle) is not None:
            raise ValueError(why)
        if self.training:
            raise ValueError("steps are those of a model in evaluation mode; call eval() first")

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _padding(self, inputs: Tensor, lengths: Tensor | None) -> dict[str, Tensor]:
        if lengths is None:
            return {}
        if "attention_mask" in self._names:
            real = torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]
            return {"attention_mask": real.long()}
        if "lengths" in self._names:
            return {"lengths": lengths}
        if self.per_step:  # causal, as was made sure of: what comes behind changes nothing
            return {}
        raise BadInputError(
            f"{type(self.network).__name__}: these rows are padded, and its forward takes neither attention_mask nor "
            "lengths to know it"
        )

    def _of_last(self, inputs: Tensor, lengths: Tensor | None, given: dict[str, Any]) -> Tensor:
        """Scores of the last real step, which transformers looks for by a token that texts may have themselves."""
        network: Any = self.network
        hidden = network.get_submodule(network.base_model_prefix)(inputs, **given)[0]
        if lengths is None:
            last = hidden[:, -1]
        else:
            last = hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
        scores: Tensor = _score(network)(last)
        return scores


def _by_row(said: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Scores (batch, outputs) of the rows of a batch, of which each part has some, by their numbers."""
    rows, scores = (torch.cat(parts) for parts in zip(*said, strict=True))
    return scores[rows.argsort()]


def configuration(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder of transformers; BadInputError where there is none."""
    if not folder.is_dir():
        raise BadInputError(f"model.from: {folder}: no such folder; give one that has a {CONFIG}")
    found = read_json(folder / CONFIG)
    if not isinstance(found, dict):
        raise BadInputError(f"{folder / CONFIG}: not a mapping")
    return found


def _network(config: Any) -> nn.Module:
    if config.network_class is None:
        return network_of(config.configuration(), f"{config.folder}: {CONFIG}")
    built = NETWORKS[config.network_class]
    try:
        return built(**config.arguments)
    except Exception as error:  # whatever its code does
        raise BadInputError(
            f"model.class: {config.network_class}(**arguments): {error_line(error, lambda _: False)}"
        ) from error


def _score(network: nn.Module) -> Any:
    """The head of a network of transformers that judges one step of each row; None where it has no such."""
    return getattr(network, "score", None) if getattr(network, "base_model_prefix", "") else None


def _own_all_tensors(model: nn.Module) -> None:
    """Let a saved state have all buffers: a model of a checkpoint has no other values.

    BadInputError for tensors that are neither parameters nor buffers, which it could not have.
    """
    for name, module in model.named_modules():
        module._non_persistent_buffers_set.clear()
        loose = [key for key, value in vars(module).items() if isinstance(value, Tensor)]
        if loose:
            raise BadInputError(
                f"{name}.{loose[0]} is a tensor, which no saved state has; write self.register_buffer for it"
            )


def _require_for(config: dict[str, Any], where: str | None, data: Any) -> None:
    """BadInputError where a folder's network is not for such data."""
    task, told = task_of(config), f"model.from: {where}"
    name = shorten(next(iter(config.get("architectures") or []), "nothing"))
    if data.vocabulary is None:
        raise BadInputError(
            f"{told}: networks of folders take tokens, and these data have {data.features} features"
        )
    wanted = "language" if data.per_step else "classification"
    if task != wanted:
        kinds = {"language": "...ForCausalLM", "classification": "...ForSequenceClassification"}
        raise BadInputError(
            f"{told}: is a {name}; data with {'a label a step' if data.per_step else 'one label a sequence'} want "
            f"a {kinds[wanted]} (architectures in {CONFIG})"
        )
    _, settings = configured(config, where)
    text = settings.get_text_config()
    size, longest = text.vocab_size, positions_of(text)
    if size < data.vocabulary:
        raise BadInputError(
            f"{told}: knows {size} tokens, and the data have {data.vocabulary}; take the folder's tokenizer "
            "for them"
        )
    if wanted == "language" and size < data.classes:
        raise BadInputError(f"{told}: knows {size} tokens, and the data have labels of {data.classes}")
    if wanted == "classification" and settings.num_labels != data.outputs:
        raise BadInputError(
            f"{told}: says {settings.num_labels} classes, and the data have {data.outputs}; write num_labels: "
            f"{data.outputs} in {CONFIG}, without id2label and label2id"
        )
    if longest is not None and longest < data.length:
        raise BadInputError(
            f"{told}: takes {longest} steps at most (max_position_embeddings), and sequences of the data have up to "
            f"{data.length}"
        )
