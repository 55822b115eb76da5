"""Tiny language models of every kind that can be asked, with fresh weights."""

import json
from pathlib import Path
from typing import Any

import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.data.byte_tokenizer import byte_tokenizer
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping

ATTENTION = {"kind": "attention", "heads": 2, "kv_heads": 1}
MAMBA = {"kind": "mamba", "state_dim": 4}
MODELS: dict[str, dict[str, Any]] = {
    "decoder": {"kind": "decoder", "layers": [ATTENTION], "model_dim": 8, "depth": 2},
    "hybrid": {"kind": "decoder", "layers": [MAMBA, ATTENTION], "model_dim": 8, "positions": "learned"},
    "sequence": {"layer": {"kind": "lru", "state_dim": 4}, "model_dim": 8, "depth": 2, "norm": "batch"},
}
LENGTH = 24
"""Of the texts that they were trained on."""


def save_own(path: Path, kind: str = "decoder", sharpness: float = 20.0) -> None:
    """A model of bytes, whose most probable token is far more probable than others."""
    mapping = {
        "name": "tiny",
        "data": {"task": "text_lm", "max_bytes": 5000, "length": LENGTH},
        "model": MODELS[kind],
        "train": {"steps": 2, "batch_size": 2},
    }
    recipe = recipe_from_mapping(mapping, "test")
    dataset = recipe.data.dataset()
    torch.manual_seed(0)
    made = build_model(recipe.model, dataset.spec)
    with torch.no_grad():
        made.head.weight.mul_(sharpness)  # type: ignore[union-attr]
    Checkpoint.of(made, recipe, dataset.spec, 2, encoding=dataset.encoding).save(path)


def save_llama(folder: Path, **settings: Any) -> None:
    """A folder of transformers of a kind that only transformers builds, with a tokenizer of bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=257,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        initializer_range=0.5,
        bos_token_id=11,
        eos_token_id=None,
        pad_token_id=None,
        **settings,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(byte_tokenizer(), encoding="utf-8")


def save_model(folder: Path, kind: str) -> Path:
    """A model of one of ``MODELS``, or of ``llama``; returns its path."""
    path = folder / (kind if kind == "llama" else f"{kind}.pt")
    if kind == "llama":
        save_llama(path)
    else:
        save_own(path, kind)
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A file of JSON lines."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
