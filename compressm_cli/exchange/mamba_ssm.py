"""Folders of mamba-ssm: what ``MambaLMHeadModel.save_pretrained`` writes."""

from pathlib import Path
from typing import Any

from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.exchange.foreign import SUPPORTED, Settings, language_model, shown
from compressm_cli.exchange.names import CONFIG, MAMBA_SSM
from compressm_cli.exchange.stock import StockModel, add_convolution_biases
from compressm_cli.exchange.tensors import read_weights

KINDS = {"Mamba1": "mamba", "Mamba2": "mamba2"}

TOP = {
    "d_model", "d_intermediate", "n_layer", "vocab_size", "ssm_cfg", "attn_layer_idx", "attn_cfg", "rms_norm",
    "residual_in_fp32", "fused_add_norm", "pad_vocab_size_multiple", "tie_embeddings",
}  # fmt: skip
SHARED = {"layer", "d_state", "d_conv", "expand", "bias", "conv_bias", "dt_min", "dt_max", "dt_init_floor"}
OWN = {
    "mamba": SHARED | {"dt_rank", "dt_init", "dt_scale", "use_fast_path"},
    "mamba2": SHARED
    | {
        "headdim",
        "ngroups",
        "d_ssm",
        "A_init_range",
        "conv_init",
        "D_has_hdim",
        "rmsnorm",
        "norm_before_gate",
    }
    | {"dt_limit", "chunk_size", "use_mem_eff_path", "sequence_parallel"},
}
"""Every key that is understood, also where it only says how a model starts, or how fast it is computed."""


def load(folder: Path, config: dict[str, Any], file: Path | None = None) -> Checkpoint:
    """The checkpoint of a folder whose ``config.json`` has ``d_model`` and ``n_layer``; ``file`` as in huggingface."""
    where = str(folder / CONFIG)
    top = Settings(config, where)
    inner = config.get("ssm_cfg") or {}
    if not isinstance(inner, dict):
        raise top.refuse("ssm_cfg", inner, "a mapping")
    ssm = Settings(inner, where, "ssm_cfg.")
    name = inner.get("layer", "Mamba1")
    if name not in list(KINDS):
        raise ssm.refuse("layer", name, " or ".join(map(shown, KINDS)))
    kind = KINDS[name]
    _refuse_unknown(top, TOP)
    _refuse_unknown(ssm, OWN[kind])
    top.require("d_intermediate", 0)
    top.require("attn_layer_idx", [])
    top.require("rms_norm", True)
    ssm.require("bias", False)
    weights = read_weights(folder, file)
    if not ssm.flag("conv_bias", True):
        add_convolution_biases(weights)
    model = {
        "layer": _layer(kind, ssm, top),
        "model_dim": top.number("d_model"),
        "depth": top.number("n_layer"),
        "tie_embeddings": top.flag("tie_embeddings", True),
    }
    return language_model(folder, _padded_vocabulary(top), model, weights, MAMBA_SSM)


def _refuse_unknown(settings: Settings, known: set[str]) -> None:
    for key, value in settings.content.items():
        if key not in known:
            raise BadInputError(
                f"{settings.where}: {settings.prefix}{key} is {shown(value)}; it is not known what it means for the "
                f"model; known are {', '.join(sorted(known))}; {SUPPORTED}"
            )


def _layer(kind: str, ssm: Settings, top: Settings) -> dict[str, Any]:
    channels = ssm.number("expand", 2) * top.number("d_model")
    layer: dict[str, Any] = {
        "kind": kind,
        "state_dim": ssm.number("d_state", 16 if kind == "mamba" else 128),
        "expand": ssm.number("expand", 2),
        "conv_width": ssm.number("d_conv", 4),
    }
    if kind == "mamba":
        if ssm.content.get("dt_rank") not in (None, "auto"):
            layer["dt_rank"] = ssm.number("dt_rank")
        return layer
    ssm.require("d_ssm", None, channels)
    ssm.require("D_has_hdim", False)
    ssm.require("rmsnorm", True)
    ssm.require("norm_before_gate", False)
    ssm.require_no_limit("dt_limit")
    groups = ssm.number("ngroups", 1)
    return {**layer, "head_dim": ssm.number("headdim", 64), "groups": groups, "norm_groups": groups}


def _padded_vocabulary(top: Settings) -> int:
    """Rows of the embedding: the vocabulary, rounded up as mamba-ssm does."""
    multiple = top.number("pad_vocab_size_multiple", 8)
    return -(-top.number("vocab_size") // multiple) * multiple


def config_of(model: StockModel) -> dict[str, Any]:
    """The ``config.json`` that mamba-ssm reads."""
    layer = model.layer
    ssm: dict[str, Any] = {
        "layer": "Mamba1" if layer.kind == "mamba" else "Mamba2",
        "d_state": model.state_dim,
        "d_conv": layer.conv_width,
        "expand": layer.expand,
    }
    if layer.kind == "mamba":
        ssm["dt_rank"] = layer.rank(model.width)
    else:
        ssm |= {"headdim": layer.head_dim, "ngroups": layer.groups}
    return {
        "d_model": model.width,
        "d_intermediate": 0,
        "n_layer": model.depth,
        "vocab_size": model.vocabulary,
        "ssm_cfg": ssm,
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": model.tied,
    }


def weights_of(model: StockModel) -> dict[str, Tensor]:
    """The tensors of ``pytorch_model.bin``; a tied head is there, as the same tensor."""
    return model.renamed(MAMBA_SSM, with_tied_head=True)
