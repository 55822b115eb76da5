"""Folders of transformers: MambaForCausalLM and Mamba2ForCausalLM."""

from pathlib import Path
from typing import Any

from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.exchange.foreign import Settings, language_model, shown
from compressm_cli.exchange.names import CONFIG, HUGGING_FACE
from compressm_cli.exchange.stock import StockModel, add_convolution_biases
from compressm_cli.exchange.tensors import read_weights

MODEL_TYPES = ("mamba", "mamba2")
ACTIVATIONS = ("silu", "swish")


def load(folder: Path, config: dict[str, Any], file: Path | None = None) -> Checkpoint:
    """The checkpoint of a folder whose ``model_type`` is mamba or mamba2; with the weights of ``file``, if given."""
    settings = Settings(config, str(folder / CONFIG))
    kind = config["model_type"]
    if kind not in MODEL_TYPES:
        raise settings.refuse("model_type", kind, f"{shown('mamba')} or {shown('mamba2')}")
    settings.require("use_bias", False)
    settings.require("hidden_act", *ACTIVATIONS)
    settings.require("quantization_config", None)
    epsilon = settings.epsilon("layer_norm_epsilon")
    layer: dict[str, Any] = {
        "kind": kind,
        "state_dim": settings.number("state_size"),
        "expand": settings.number("expand", 2),
        "conv_width": settings.number("conv_kernel", 4),
    }
    if kind == "mamba":
        if config.get("time_step_rank") not in (None, "auto"):
            layer["dt_rank"] = settings.number("time_step_rank")
    else:
        settings.require_no_limit("time_step_limit")
        layer |= {**_heads(settings), "norm_epsilon": epsilon}
    model = {
        "layer": layer,
        "model_dim": settings.number("hidden_size"),
        "depth": settings.number("num_hidden_layers"),
        "norm_epsilon": epsilon,
        "tie_embeddings": settings.flag("tie_word_embeddings", kind == "mamba"),
    }
    weights = read_weights(folder, file)
    if not settings.flag("use_conv_bias", True):
        add_convolution_biases(weights)
    return language_model(folder, settings.number("vocab_size"), model, weights, HUGGING_FACE)


def _heads(settings: Settings) -> dict[str, int]:
    """Heads and groups of Mamba-2, which scales each group of channels apart, as mamba-ssm does."""
    channels = settings.number("expand", 2) * settings.number("hidden_size")
    head_dim, heads = settings.number("head_dim", 64), settings.number("num_heads", 128)
    if heads * head_dim != channels:
        raise settings.unusable(
            "num_heads", heads, f"expand * hidden_size / head_dim = {channels / head_dim:g}"
        )
    groups = settings.number("n_groups", 8)
    return {"head_dim": head_dim, "groups": groups, "norm_groups": groups}


def config_of(model: StockModel) -> dict[str, Any]:
    """The ``config.json`` that transformers reads."""
    layer, width = model.layer, model.width
    config = {
        "architectures": ["MambaForCausalLM" if layer.kind == "mamba" else "Mamba2ForCausalLM"],
        "model_type": layer.kind,
        "vocab_size": model.vocabulary,
        "hidden_size": width,
        "state_size": model.state_dim,
        "num_hidden_layers": model.depth,
        "expand": layer.expand,
        "conv_kernel": layer.conv_width,
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "layer_norm_epsilon": model.epsilon,
        "residual_in_fp32": True,
        "tie_word_embeddings": model.tied,
        # The tokenizer's; without it nothing is known of special tokens, and transformers' defaults would stop early.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "torch_dtype": model.dtype_name,
    }
    if layer.kind == "mamba":
        return {**config, "intermediate_size": model.channels, "time_step_rank": layer.rank(width)}
    return {
        **config,
        "num_heads": model.channels // layer.head_dim,
        "head_dim": layer.head_dim,
        "n_groups": layer.groups,
    }


def weights_of(model: StockModel) -> dict[str, Tensor]:
    """The tensors of ``model.safetensors``; a tied head is left out, as transformers wants it."""
    return model.renamed(HUGGING_FACE, with_tied_head=False)
