"""Tiny models with every tensor random, ours and transformers', and cuts made by hand."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping

VOCABULARY, WIDTH, ORDER, DEPTH = 29, 16, 6, 3
LAYERS: dict[str, dict[str, Any]] = {
    "mamba": {"kind": "mamba", "state_dim": ORDER, "dt_rank": 2},
    "mamba2-1": {"kind": "mamba2", "state_dim": ORDER, "head_dim": 8, "groups": 1},
    "mamba2-2": {"kind": "mamba2", "state_dim": ORDER, "head_dim": 8, "groups": 2, "conv_width": 3},
}


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter moved at random, so that none is 0 or 1 by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def tokens(rows: int = 2, length: int = 19) -> Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(5))


def logits(checkpoint: Checkpoint, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return checkpoint.build_model().eval()(inputs)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal up to what a change of the weights in their last digit does to the logits of these models."""
    scale = expected.abs().max().item()
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-5 * scale, rtol=0)


def checkpoint(layer: dict[str, Any], cut: Any = None, tied: bool = False, **model: Any) -> Checkpoint:
    """Of a random language model of ours, after ``cut(its layers)``."""
    recipe = recipe_from_mapping(
        {
            "name": "tiny",
            "data": {"task": "tokens", "vocabulary": VOCABULARY, "length": 12},
            "model": {
                "layer": layer,
                "model_dim": WIDTH,
                "depth": DEPTH,
                "norm": "rms",
                "final_norm": True,
                "tie_embeddings": tied,
                **model,
            },
            "train": {"steps": 1},
            "compression": {"method": "none"},
        },
        "test",
    )
    torch.manual_seed(3)
    built = build_model(recipe.model, recipe.data.spec())
    if cut is not None:
        cut(list(state_space_layers(built).values()))
    return Checkpoint.of(randomized(built), recipe, recipe.data.spec(), step=7)


def slice_mamba(layer: Any, order: int) -> None:
    """The first states of a Mamba layer."""
    low, B, C = layer.x_proj.weight.split([layer.rank, layer.state_dim, layer.state_dim])
    layer.set_state_parameters(
        {"A_log": layer.A_log[:, :order], "x_proj.weight": torch.cat([low, B[:order], C[:order]])}
    )


def slice_mamba2(layer: Any, order: int) -> None:
    """The first states of each group of a Mamba-2 layer, by its channels."""
    channels, groups, n = layer.channels, layer.groups, layer.state_dim
    x = torch.arange(channels)
    state = (torch.arange(order) + n * torch.arange(groups)[:, None]).flatten()
    rows = torch.cat([x, channels + state, channels + groups * n + state])
    dt = torch.arange(len(layer.in_proj.weight) - layer.heads, len(layer.in_proj.weight))
    layer.set_state_parameters(
        {
            "in_proj.weight": layer.in_proj.weight[torch.cat([x, channels + rows, dt])],
            "conv1d.weight": layer.conv1d.weight[rows],
            "conv1d.bias": layer.conv1d.bias[rows],
        }
    )


def unequal(layers: list[Any]) -> None:
    """Stock layers of the orders 2, 6, 5."""
    for layer, order in zip(layers, (2, ORDER, 5), strict=True):
        if order != layer.state_dim:
            (slice_mamba2 if hasattr(layer, "heads") else slice_mamba)(layer, order)


def with_maps(layers: list[Any]) -> None:
    """The first layer with maps to 2 states, the second as it was, the third with 4."""
    for layer, order in ((layers[0], 2), (layers[2], 4)):
        if hasattr(layer, "heads"):
            projection = torch.randn(layer.groups, order, ORDER)
            layer.set_state_parameters({"B_proj": projection, "C_proj": 0.5 * projection.flip(1)})
        else:
            maps = torch.randn(len(layer.A_log), order, ORDER)
            layer.set_state_parameters(
                {"A_log": layer.A_log[:, :order], "B_map": maps, "C_map": maps.flip(2)}
            )


def with_orders_by_channel(layers: list[Any]) -> None:
    """Between none and all states in the channels of the first two layers, of at most 4 and 6."""
    slice_mamba(layers[0], 4)
    for layer in layers[:2]:
        layer.set_state_parameters({"kept": torch.arange(len(layer.A_log)) % (layer.state_dim + 1)})


def reload_hf(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options).eval()
