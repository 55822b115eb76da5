"""A model of ours as the stock model of transformers or mamba-ssm, which has one state dimension for all layers."""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.exchange.names import ENCODER, HEAD, foreign_name, own_name
from compressm_cli.layers.interface import STATES
from compressm_cli.models import build_model
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.structure.map import StructureMap

KINDS = ("mamba", "mamba2")
NOT_STOCK = ("B_proj", "C_proj", "B_map", "C_map", "kept")
"""Parameters and buffers of a layer that no stock layer has."""
MAMBA_SSM_EPSILON = 1e-5
"""Of every normalization there: its configuration has no other."""


@dataclass(frozen=True)
class StockModel:
    """What a stock language model is made of."""

    layer: Any
    """``MambaConfig`` or ``Mamba2Config`` of the recipe."""
    width: int
    depth: int
    vocabulary: int
    tied: bool
    state_dim: int
    """The largest of all layers."""
    weights: dict[str, Tensor]
    """By our names, on one floating point type."""
    dtype_name: str
    epsilon: float
    """Of every normalization."""

    @property
    def channels(self) -> int:
        """Of the recurrence."""
        return int(self.layer.expand * self.width)

    def renamed(self, embedding: str, with_tied_head: bool) -> dict[str, Tensor]:
        """The weights by their foreign names, without a head that is the embedding unless it is wanted."""
        kept = {n: t for n, t in self.weights.items() if with_tied_head or not (self.tied and n == HEAD)}
        if self.tied and with_tied_head:
            kept[HEAD] = kept[ENCODER]
        return {foreign_name(name, embedding): tensor for name, tensor in kept.items()}


def require_language_model(checkpoint: Checkpoint, target: str) -> None:
    """Refuse what is not a stack of Mamba or Mamba-2 layers that predicts the next token, as theirs are."""
    model, data = checkpoint.recipe.model, checkpoint.data
    if not isinstance(model, SequenceConfig):
        raise BadInputError(
            f"--to {target} cannot hold this model: its kind is {model.kind}, not sequence; use --to safetensors"
        )
    reasons = [
        (model.layer.kind not in KINDS, f"its layers are {model.layer.kind}, not mamba or mamba2"),
        (
            not data.per_step or data.vocabulary is None,
            "it classifies sequences, and does not predict tokens",
        ),
        (data.vocabulary != data.classes, f"it has {data.classes} classes for {data.vocabulary} tokens"),
        (model.norm != "rms" or not model.final_norm, "it needs model.norm: rms and model.final_norm: true"),
    ]
    for wrong, reason in reasons:
        if wrong:
            raise BadInputError(f"--to {target} cannot hold this model: {reason}; use --to safetensors")
    with torch.device("meta"):
        whole = build_model(model, data)
    sizes = StructureMap.of(whole).sizes()
    grown = [name for name in checkpoint.sizes if name not in sizes and name.endswith(STATES)]
    if grown:
        raise BadInputError(
            f"--to {target} cannot hold this model: it has grown by {len(grown)} blocks; use --to safetensors"
        )
    for name, size in sizes.items():
        now = checkpoint.sizes.get(name, size)
        if now != size and not name.endswith(STATES):
            raise BadInputError(
                f"--to {target} cannot hold this model: of {name} {now} of {size} are left, and its layers have all "
                "of them; use --to safetensors"
            )


def stock_model(checkpoint: Checkpoint, target: str, dtype: torch.dtype) -> StockModel:
    """The model with every layer padded to the largest order, which changes nothing that it computes.

    Raises BadInputError where a stock model cannot compute the same.
    """
    require_language_model(checkpoint, target)
    _require_stock_layers(checkpoint, target)
    _require_stock_epsilon(checkpoint, target)
    config = checkpoint.recipe.model
    largest = max(checkpoint.orders.values())
    weights = dict(checkpoint.weights)
    for prefix, order in checkpoint.orders.items():
        weights |= _padded(weights, prefix, config, order, largest)
    return StockModel(
        layer=config.layer,
        width=config.model_dim,
        depth=config.depth,
        vocabulary=checkpoint.data.classes,
        tied=config.tie_embeddings,
        state_dim=largest,
        weights=cast(weights, dtype),
        dtype_name=str(dtype).removeprefix("torch."),
        epsilon=config.norm_epsilon,
    )


def cast(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Floating point tensors in another type; BadInputError where a number is too large for it."""
    result = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights.items()}
    for name, tensor in result.items():
        if not torch.isfinite(tensor).all():
            raise BadInputError(
                f"{name} has values that are not finite in {str(dtype).removeprefix('torch.')}"
            )
    return result


def add_convolution_biases(weights: dict[str, Tensor]) -> None:
    """Biases of zero beside convolutions without, which compute the same."""
    for name in [
        n for n in weights if re.fullmatch(r"blocks\.\d+\.layer\.conv1d\.weight", own_name(n) or "")
    ]:
        channels = weights[name].shape[:1]
        weights.setdefault(name.removesuffix("weight") + "bias", weights[name].new_zeros(channels))


def _require_stock_layers(checkpoint: Checkpoint, target: str) -> None:
    layer = checkpoint.recipe.model.layer
    for prefix in checkpoint.orders:
        found = [name for name in NOT_STOCK if f"{prefix}.{name}" in checkpoint.weights]
        if found:
            raise BadInputError(
                f"--to {target} cannot hold this model: {prefix} has {' and '.join(found)} since it was cut, which "
                "no stock layer has; use --to hf-ragged or --to safetensors"
            )
    if layer.kind == "mamba2" and (layer.norm_groups or layer.groups) != layer.groups:
        raise BadInputError(
            f"--to {target} cannot hold this model: layer.norm_groups is {layer.norm_groups}, and stock layers scale "
            f"each of the {layer.groups} groups of channels apart; use --to hf-ragged or --to safetensors"
        )


def _require_stock_epsilon(checkpoint: Checkpoint, target: str) -> None:
    model = checkpoint.recipe.model
    gated = getattr(model.layer, "norm_epsilon", model.norm_epsilon)
    wanted = MAMBA_SSM_EPSILON if target == "mamba-ssm" else model.norm_epsilon
    if (model.norm_epsilon, gated) != (wanted, wanted):
        raise BadInputError(
            f"--to {target} cannot hold this model: model.norm_epsilon is {model.norm_epsilon:g}, of the gated norms "
            f"{gated:g}, and there it is {wanted:g} of all; use --to hf-ragged or --to safetensors"
        )


def _padded(
    weights: dict[str, Tensor], prefix: str, config: Any, order: int, largest: int
) -> dict[str, Tensor]:
    """The tensors of one layer that states of no effect are added to."""
    own = {n.removeprefix(f"{prefix}."): t for n, t in weights.items() if n.startswith(f"{prefix}.")}
    layer, width = config.layer, config.model_dim
    if layer.kind == "mamba":
        low, B, C = own["x_proj.weight"].split([layer.rank(width), order, order])
        # Nothing enters these states and nothing is read of them; their poles are -1.
        values = {
            "x_proj.weight": torch.cat([low, _rows(B, 1, largest), _rows(C, 1, largest)]),
            "A_log": functional.pad(own["A_log"], (0, largest - order)),
        }
    else:
        channels, shared = layer.expand * width, layer.groups * order
        z, x, B, C, dt = own["in_proj.weight"].split(
            [channels, channels, shared, shared, channels // layer.head_dim]
        )
        values = {"in_proj.weight": torch.cat([z, x, *(_rows(v, layer.groups, largest) for v in (B, C)), dt])}
        for name in ("conv1d.weight", "conv1d.bias"):
            x, B, C = own[name].split([channels, shared, shared])
            values[name] = torch.cat([x, *(_rows(v, layer.groups, largest) for v in (B, C))])
    return {f"{prefix}.{name}": tensor for name, tensor in values.items()}


def _rows(tensor: Tensor, groups: int, largest: int) -> Tensor:
    """(groups * order, ...) with rows of zeros at the end of each group: (groups * largest, ...)."""
    by_group = tensor.unflatten(0, (groups, -1))
    zeros = by_group.new_zeros(groups, largest - by_group.shape[1], *tensor.shape[1:])
    return torch.cat([by_group, zeros], dim=1).flatten(0, 1)
