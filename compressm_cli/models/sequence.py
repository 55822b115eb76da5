"""The stack of state space blocks that classifies sequences or their steps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressm_cli.core.axes import Axis
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.registry import OneOf
from compressm_cli.layers import LAYERS
from compressm_cli.layers.channel_norm import ChannelNorm
from compressm_cli.layers.interface import StateSpaceLayer, state_space_layers
from compressm_cli.layers.residual import sublayer_axis
from compressm_cli.layers.state import State, check_lengths
from compressm_cli.models.config import ModelConfig
from compressm_cli.models.interface import Model
from compressm_cli.ops.batch_norm import batch_norm
from compressm_cli.ops.decoding import ends_of, last_real
from compressm_cli.ops.gated import gated_residual

MOMENTUM = 0.1
"""What the statistics of a batch weigh in the running ones."""
MOST_BLOCKS = 256
"""That a model may have."""


class SequenceConfig(ModelConfig):
    """A stack of blocks: normalization, layer, GELU, GLU, dropout, residual; then mean pooling and a head.

    Layers with a gate of their own (Mamba, gated linear attention) go without GELU and GLU; tasks with a label
    a step, such as language modelling, without pooling.
    """

    kind: Literal["sequence"] = "sequence"
    layer: Annotated[Any, OneOf(LAYERS)]
    """The state space layer of each block."""
    model_dim: Annotated[int, Field(ge=1, le=65536)] = 64
    """Width H of the residual stream."""
    depth: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] = 1
    """Number of blocks."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability, after the activation and after the gate."""
    norm: Literal["layer", "rms", "batch", "none"] = "layer"
    """Normalization before each layer. ``batch`` has no affine parameters, as in the paper's code; its statistics are
    those of the steps, without padding, that all processes pass through the model at once."""
    norm_epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-5
    """What is added to the variance, or the mean square, before its root is taken."""
    final_norm: bool = False
    """The same normalization once more, after the last block."""
    tie_embeddings: bool = False
    """Use the embedding as the head as well; only of tasks that predict a token at each step."""

    @model_validator(mode="after")
    def _a_state_dim_a_block(self) -> "SequenceConfig":
        dims = self.layer.state_dim
        if isinstance(dims, list) and len(dims) != self.depth:
            raise ValueError(
                f"layer.state_dim lists {len(dims)} numbers for {self.depth} blocks; "
                f"write one number, or {self.depth}"
            )
        return self

    @model_validator(mode="after")
    def _a_fitting_width(self) -> "SequenceConfig":
        self.layer.check_width(self.model_dim)
        return self

    def state_dims(self) -> list[int]:
        """The number of states of each block."""
        dims = self.layer.state_dim
        return list(dims) if isinstance(dims, list) else [dims] * self.depth

    def with_state_dims(self, dims: Sequence[int]) -> Self:
        if len(dims) != self.depth:
            raise ValueError(f"orders are given for {len(dims)} layers, and the recipe has {self.depth}")
        return self.model_copy(update={"layer": self.layer.model_copy(update={"state_dim": list(dims)})})

    def with_blocks(self, count: int) -> Self:
        """Those that it grew are like the last one."""
        if count <= self.depth:
            return self
        if count > MOST_BLOCKS:
            raise ValueError(f"there are {count} blocks; at most {MOST_BLOCKS}")
        dims = self.state_dims()
        layer = self.layer.model_copy(update={"state_dim": dims + dims[-1:] * (count - self.depth)})
        return self.model_copy(update={"depth": count, "layer": layer})

    def check_device(self, device: torch.device) -> None:
        self.layer.check_device(device)

    def least_parameters(self, ends: int) -> int:
        """Each block has two square matrices of its width at least, and one of its width by its states."""
        dims = self.state_dims()
        return self.model_dim * (2 * self.model_dim * len(dims) + sum(dims) + ends)


class SequenceNorm(nn.Module):
    """Normalization of (batch, length, H) over batch and time, without affine parameters."""

    processes: int = 1
    """How many processes pass the rows of a batch: their statistics are one. Set by the trainer, not saved."""

    def __init__(self, model_dim: int, epsilon: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(model_dim, eps=epsilon, momentum=MOMENTUM, affine=False)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """real (batch, length), the steps that count, where rows are padded."""
        norm = self.norm
        if not self.training or (real is None and self.processes == 1):
            return norm(x.flatten(0, 1)).view_as(x)
        y, mean, variance = batch_norm(x, real, norm.eps, self.processes)
        with torch.no_grad():
            norm.get_buffer("num_batches_tracked").add_(1)
            norm.get_buffer("running_mean").lerp_(mean, MOMENTUM)
            norm.get_buffer("running_var").lerp_(variance, MOMENTUM)
        return y


def pool_statistics(model: nn.Module, processes: int) -> None:
    """Let batch normalization count the rows that so many processes pass through the model at once, in training."""
    for module in model.modules():
        if isinstance(module, SequenceNorm | ChannelNorm):
            module.processes = processes


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether what the model does to a row in training depends on the rows beside it."""
    return any(
        isinstance(module, ChannelNorm | nn.modules.batchnorm._BatchNorm) for module in model.modules()
    )


def build_norm(kind: str, model_dim: int, epsilon: float) -> nn.Module:
    """The normalization that a recipe names: layer, rms, batch or none."""
    norms: dict[str, Callable[[], nn.Module]] = {
        "layer": lambda: nn.LayerNorm(model_dim, eps=epsilon),
        "rms": lambda: nn.RMSNorm(model_dim, eps=epsilon),
        "batch": lambda: SequenceNorm(model_dim, epsilon),
        "none": nn.Identity,
    }
    return norms[kind]()


def _normalized(norm: nn.Module, x: Tensor, real: Tensor | None) -> Tensor:
    """All but batch normalization look at each step by itself."""
    y: Tensor = norm(x, real) if isinstance(norm, SequenceNorm) else norm(x)
    return y


def _pool_state(sums: Tensor, count: Tensor) -> State:
    """Sum (batch, H) and number (batch,) of the steps so far; in float64, for over many steps roundings add up."""
    return State({"sum": sums.double(), "count": count.double()})


def _real(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """(batch, length), the steps that are not padding; None where none is."""
    return None if lengths is None else torch.arange(x.shape[1], device=x.device) < lengths[:, None]


class Block(nn.Module):
    """x + dropout(GLU(dropout(GELU(layer(norm(x)))))), as in Orvieto et al. 2023, figure 1.

    Of a layer that is gated itself, as Mamba is, it is x + dropout(layer(norm(x))). A removed block is x: it stays
    where it is, without its modules, so that the others keep their names.
    """

    norm: nn.Module | None
    layer: StateSpaceLayer | None

    def __init__(self, layer: StateSpaceLayer, norm: nn.Module, model_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = norm
        self.layer = layer
        self.mix = None if layer.gated else nn.Linear(model_dim, 2 * model_dim)
        self.dropout = dropout

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x (batch, length, H); real (batch, length), where rows are padded, the steps that are not padding."""
        if self.layer is None or self.norm is None:
            return x
        return self._added(x, self.layer(_normalized(self.norm, x, real)))

    def initial_state(self, batch: int) -> State:
        """Its layer's, before the first time step; that of a removed block is empty."""
        return State({}) if self.layer is None else self.layer.initial_state(batch)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (batch, H) at one time step, and the state of the step before, which is used up."""
        if self.layer is None or self.norm is None:
            state.take()
            return x, State({})
        y, after = self.layer.step(_normalized(self.norm, x[:, None], None)[:, 0], state)
        return self._added(x, y), after

    def prefill(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, State]:
        """``forward`` of x (batch, length, H), and the state after the last real step of each row."""
        if self.layer is None or self.norm is None:
            return x, State({})
        y, after = self.layer.prefill(_normalized(self.norm, x, None), lengths)
        return self._added(x, y), after

    def _added(self, x: Tensor, y: Tensor) -> Tensor:
        """The residual stream (..., H) with what the layer's output y makes of it."""
        if self.mix is None:
            return x + nn.functional.dropout(y, self.dropout, self.training)
        return gated_residual(x, y, self.mix.weight, self.mix.bias, self.dropout, self.training)

    def axes(self) -> Iterator[Axis]:
        """Itself: one unit, which leaves with its modules; its size is 0 then."""
        yield sublayer_axis(self.layer is not None, "norm", "layer", "mix")

    @property
    def silent(self) -> tuple[str, ...]:
        """The tensors by which it adds to the residual stream: with zeros there it adds nothing."""
        if self.layer is None:
            return ()
        return (
            ("mix.weight", "mix.bias") if self.mix is not None else (f"layer.{self.layer.output_parameter}",)
        )


class SequenceModel(Model):
    """Encoder or embedding, blocks, final normalization, head.

    Classifies sequences, ``(batch, length, ...) -> (batch, classes)`` by their mean over time, or steps,
    ``-> (batch, length, classes)``: a language model, where the classes are the next tokens.
    """

    Config = SequenceConfig

    def __init__(
        self, encoder: nn.Module, blocks: list[Block], norm: nn.Module, head: nn.Linear, per_step: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head
        self.per_step = per_step
        self._config: Any = None

    def grow_as(self, config: Any) -> None:
        """Let further blocks be those of a recipe's ``model:``."""
        self._config = config

    def build_block(self) -> Block:
        """A fresh block like the recipe's last; ValueError where there are ``MOST_BLOCKS``, or no recipe is known."""
        if len(self.blocks) >= MOST_BLOCKS:
            raise ValueError(f"the model has {len(self.blocks)} blocks, and may have no more")
        if self._config is None:
            raise ValueError("nothing is known of how blocks of this model are built; give build=...")
        start = self._config.state_dims()[-1]
        return _block(self._config, start, start)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """inputs (batch, length, features) or tokens (batch, length); lengths (batch,) where rows are padded.

        The layers are causal, so padding at the end changes nothing but means over time: those of batch normalization
        and the last one, which leave it out.
        """
        return self.from_hidden(self.hidden(inputs, lengths, 0), lengths, 0)

    def hidden(self, inputs: Tensor, lengths: Tensor | None, blocks: int) -> Tensor:
        """What the encoder and so many of the first blocks put out: (batch, length, H)."""
        x: Tensor = self.encoder(inputs)
        real = _real(x, lengths)
        for block in islice(self.blocks, blocks):
            x = block(x, real)
        return x

    def from_hidden(self, x: Tensor, lengths: Tensor | None, blocks: int) -> Tensor:
        """What the model puts out, from ``hidden``."""
        real = _real(x, lengths)
        for block in islice(self.blocks, blocks, None):
            x = block(x, real)
        x = _normalized(self.norm, x, real)
        if self.per_step:
            return self.head(x)
        if real is None:
            return self.head(x.mean(dim=1))
        # In float32 at least: in bfloat16 a length above 256 is rounded.
        wide = torch.promote_types(x.dtype, torch.float32)
        total = x.where(real[..., None], 0.0).sum(dim=1, dtype=wide)
        return self.head((total / real.sum(dim=1, keepdim=True)).to(x.dtype))

    @property
    def step_obstacle(self) -> str | None:
        for name, layer in state_space_layers(self).items():
            if not layer.is_steppable:
                return f"{name}, of the kind {type(layer).__name__}, has no step by step form"
        for name, module in self.named_modules():
            hooked = module._forward_hooks or module._forward_pre_hooks
            if hooked and isinstance(module, Block | StateSpaceLayer):
                return f"{name} has forward hooks, which a step would pass by; remove them first"
        return None

    def initial_state(self, batch: int) -> State:
        """The states of its blocks, and where it is pooled, the sum and the number of the steps so far."""
        self._require_steps()
        parts = {name: block.initial_state(batch) for name, block in self._blocks().items()}
        if not self.per_step:
            sums = torch.zeros(batch, self.head.in_features, device=self.head.weight.device)
            parts["pool"] = _pool_state(sums, torch.zeros_like(sums[:, 0]))
        return State(parts)

    @torch.no_grad()
    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        self._require_evaluation()
        self._check_inputs(inputs, "a step takes", "batch")
        blocks = self._blocks()
        names = [*blocks] if self.per_step else [*blocks, "pool"]
        parts = dict(zip(names, state.take_parts(names), strict=True))
        x: Tensor = self.encoder(inputs)
        for name, block in blocks.items():
            x, parts[name] = block.step(x, parts[name])
        x = _normalized(self.norm, x[:, None], None)[:, 0]
        if not self.per_step:
            sums, count = parts["pool"].take(sum=x.shape, count=x.shape[:1])
            parts["pool"] = _pool_state(sums + x, count + 1)
            x = ((sums + x) / (count + 1)[:, None]).to(x.dtype)
        return self.head(x), State(parts)

    @torch.no_grad()
    def prefill(self, inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        self._require_steps()
        self._check_inputs(inputs, "prefill takes", "batch, length")
        check_lengths(inputs, lengths)
        x: Tensor = self.encoder(inputs)
        parts: dict[str, State] = {}
        for name, block in self._blocks().items():
            x, parts[name] = block.prefill(x, lengths)
        x, ends = _normalized(self.norm, x, None), ends_of(x, lengths)
        if self.per_step:
            return self.head(last_real(x, ends)), State(parts)
        real = torch.arange(x.shape[1], device=x.device) < ends[:, None]
        sums = x.where(real[..., None], 0.0).sum(dim=1, dtype=torch.float64)
        parts["pool"] = _pool_state(sums, ends)
        return self.head((sums / ends[:, None]).to(x.dtype)), State(parts)

    def _blocks(self) -> dict[str, Block]:
        return {f"blocks.{i}": block for i, block in enumerate(self.blocks) if isinstance(block, Block)}

    def _require_steps(self) -> None:
        """ValueError where it cannot be stepped, or not now."""
        if self.step_obstacle is not None:
            raise ValueError(self.step_obstacle)
        self._require_evaluation()

    def _require_evaluation(self) -> None:
        """ValueError in training mode, where that gives other scores."""
        if self.training and (has_batch_statistics(self) or any(b.dropout for b in self._blocks().values())):
            raise ValueError(
                "the model is in training mode, with dropout or batch normalization; call eval()"
            )

    def _check_inputs(self, inputs: Tensor, what: str, axes: str) -> None:
        """ValueError for inputs that are no tokens of these axes, or features with one axis more."""
        tokens = isinstance(self.encoder, nn.Embedding)
        wanted = f"tokens ({axes})" if tokens else f"inputs ({axes}, {self.encoder.in_features})"
        sizes = inputs.shape if tokens else inputs.shape[:-1]
        if len(sizes) != len(axes.split(",")) or not (tokens or inputs.shape[-1] == self.encoder.in_features):
            raise ValueError(f"{what} {wanted}, not {tuple(inputs.shape)}")

    @classmethod
    def build(cls, config: Any, data: Any, orders: Mapping[str, int] | None = None) -> "SequenceModel":
        """Raises BadInputError for tied embeddings where inputs and classes are not the same tokens."""
        width = config.model_dim
        tokens = data.vocabulary is not None
        encoder = nn.Embedding(data.vocabulary, width) if tokens else nn.Linear(data.features, width)
        known, starts = orders or {}, config.state_dims()
        blocks = [_block(config, n, known.get(f"blocks.{i}.layer", n)) for i, n in enumerate(starts)]
        norm = build_norm(config.norm if config.final_norm else "none", width, config.norm_epsilon)
        head = nn.Linear(width, data.outputs, bias=not data.per_step)
        if config.tie_embeddings:
            if not data.per_step or data.vocabulary != data.classes:
                raise BadInputError(
                    "model.tie_embeddings is true, but the task does not predict the tokens it reads; write false"
                )
            head.weight = encoder.weight
        model = cls(encoder, blocks, norm, head, data.per_step)
        model.grow_as(config)
        return model


def _block(config: Any, start: int, order: int) -> Block:
    """A block of a recipe's ``model:``, of the shapes that one of ``start`` states has after a cut to ``order``."""
    layer = LAYERS[config.layer.kind].of_order(config.layer, config.model_dim, start, order)
    norm = build_norm(config.norm, config.model_dim, config.norm_epsilon)
    return Block(layer, norm, config.model_dim, config.dropout)
