"""Folders for transformers with a modeling file of their own: each layer keeps the order and the maps it was cut to.

The code beside the weights is ``modeling_compressm.py``, as it stands in this package. Reading such a folder back
takes the weights and the configuration only; the code is not run.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.checkpoint.skeleton import added_shapes
from compressm_cli.core.errors import BadInputError
from compressm_cli.exchange.foreign import Settings, language_model, shown
from compressm_cli.exchange.names import CONFIG, HEAD, HUGGING_FACE, foreign_name
from compressm_cli.exchange.stock import cast, require_language_model
from compressm_cli.exchange.tensors import read_weights
from compressm_cli.layers.interface import state_space_layers

MODEL_TYPE = "compressm_ragged"
CODE = "modeling_compressm.py"
LARGEST_ORDER = 65536
VARIANTS = ("stock", "mapped", "kept")
"""Of a layer: as it was, with maps behind the projections of B and C, or with orders by channel."""


def code() -> bytes:
    """The modeling file that is written beside the weights."""
    return Path(__file__).with_name(CODE).read_bytes()


def config_of(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Any]:
    """The ``config.json``; BadInputError where the model is no language model of Mamba or Mamba-2 layers."""
    require_language_model(checkpoint, "hf-ragged")
    model = checkpoint.recipe.model
    layer, width = model.layer, model.model_dim
    names = list(checkpoint.orders)
    variants = [_variant(checkpoint.weights, name) for name in names]
    projected = [_projected(checkpoint.weights, name, model) for name in names]
    config = {
        "architectures": ["RaggedMambaForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_compressm.RaggedMambaConfig",
            "AutoModelForCausalLM": "modeling_compressm.RaggedMambaForCausalLM",
        },
        "model_type": MODEL_TYPE,
        "layer": layer.kind,
        "vocab_size": checkpoint.data.classes,
        "hidden_size": width,
        "num_hidden_layers": model.depth,
        "state_sizes": list(checkpoint.orders.values()),
        "projected_sizes": projected,
        "variants": variants,
        "expand": layer.expand,
        "conv_kernel": layer.conv_width,
        "layer_norm_epsilon": model.norm_epsilon,
        "tie_word_embeddings": model.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    if layer.kind == "mamba":
        return {**config, "time_step_rank": layer.rank(width)}
    norm = {"norm_groups": layer.norm_groups or layer.groups, "gated_norm_epsilon": layer.norm_epsilon}
    return {**config, "head_dim": layer.head_dim, "n_groups": layer.groups, **norm}


def weights_of(checkpoint: Checkpoint, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors``, a tied head left out."""
    tied = checkpoint.recipe.model.tie_embeddings
    own = {name: tensor for name, tensor in checkpoint.weights.items() if not (tied and name == HEAD)}
    return {foreign_name(name, HUGGING_FACE): tensor for name, tensor in cast(own, dtype).items()}


def load(folder: Path, config: dict[str, Any], file: Path | None = None) -> Checkpoint:
    """The checkpoint of a folder that ``--to hf-ragged`` wrote; its code is not run. ``file`` as in huggingface."""
    settings = Settings(config, str(folder / CONFIG))
    settings.require("layer", "mamba", "mamba2")
    kind, depth = config.get("layer", "mamba"), settings.number("num_hidden_layers")
    sizes, projected = (_sizes(settings, key, depth) for key in ("state_sizes", "projected_sizes"))
    variants = config.get("variants")
    if not isinstance(variants, list) or len(variants) != depth or not all(v in VARIANTS for v in variants):
        raise settings.refuse("variants", variants, f"a list of {depth} of {', '.join(map(shown, VARIANTS))}")
    layer: dict[str, Any] = {
        "kind": kind,
        "state_dim": projected,
        "expand": settings.number("expand"),
        "conv_width": settings.number("conv_kernel"),
    }
    if kind == "mamba":
        layer["dt_rank"] = settings.number("time_step_rank")
    else:
        layer |= {
            "head_dim": settings.number("head_dim"),
            "groups": settings.number("n_groups"),
            "norm_groups": settings.number("norm_groups"),
            "norm_epsilon": settings.epsilon("gated_norm_epsilon"),
        }
    model = {
        "layer": layer,
        "model_dim": settings.number("hidden_size"),
        "depth": depth,
        "norm_epsilon": settings.epsilon("layer_norm_epsilon"),
        "tie_embeddings": settings.flag("tie_word_embeddings", False),
    }

    def adjust(skeleton: nn.Module) -> None:
        layers = state_space_layers(skeleton).values()
        for layer, size, inner, variant in zip(layers, sizes, projected, variants, strict=True):
            layer.set_state_parameters(_shapes(layer, kind, variant, size, inner))

    vocabulary, weights = settings.number("vocab_size"), read_weights(folder, file)
    checkpoint = language_model(folder, vocabulary, model, weights, HUGGING_FACE, adjust)
    for name, order in checkpoint.orders.items():
        kept = checkpoint.weights.get(f"{name}.kept")
        if kept is not None and not ((kept >= 0) & (kept <= order)).all():
            raise BadInputError(f"{folder}: {name}.kept must be from 0 to {order}")
    return checkpoint


def _variant(weights: dict[str, Tensor], name: str) -> str:
    if f"{name}.kept" in weights:
        return "kept"
    return "mapped" if f"{name}.B_map" in weights or f"{name}.B_proj" in weights else "stock"


def _projected(weights: dict[str, Tensor], name: str, model: Any) -> int:
    """Length of B and C as the layer's projections make them."""
    layer = model.layer
    if layer.kind == "mamba":
        return int(weights[f"{name}.x_proj.weight"].shape[0] - layer.rank(model.model_dim)) // 2
    rows = int(weights[f"{name}.conv1d.weight"].shape[0] - layer.expand * model.model_dim)
    return rows // (2 * layer.groups)


def _sizes(settings: Settings, key: str, depth: int) -> list[int]:
    value = settings.content.get(key)
    whole = isinstance(value, list) and all(type(v) is int and 0 < v <= LARGEST_ORDER for v in value)
    if isinstance(value, list) and whole and len(value) == depth:
        return value
    raise settings.refuse(key, value, f"a list of {depth} positive whole numbers up to {LARGEST_ORDER}")


def _shapes(layer: Any, kind: str, variant: str, size: int, inner: int) -> dict[str, Tensor | None]:
    """Tensors, without content, that a layer with ``inner`` states has after its cut."""
    shapes = added_shapes(layer, size, inner)
    if variant == "mapped":
        names = ("B_proj", "C_proj") if kind == "mamba2" else ("B_map", "C_map")
        maps: dict[str, Tensor | None] = {name: torch.empty(shapes[name], device="meta") for name in names}
        return (
            maps
            if kind == "mamba2"
            else {"A_log": torch.empty(layer.D.shape[0], size, device="meta"), **maps}
        )
    if variant == "kept" and kind == "mamba":
        return {"kept": torch.empty(shapes["kept"], dtype=torch.int64, device="meta")}
    return {}
