"""Models whose units can leave: a decoder of ours, and a folder of transformers with a text."""

from pathlib import Path
from typing import Any

import pytest
import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping


def tiny_decoder(folder: Path) -> Path:
    """A decoder with fresh weights and a state space layer, whose axes are not all to be cut."""
    recipe = recipe_from_mapping(
        {
            "name": "tiny",
            "data": {"task": "text_lm", "max_bytes": 20000, "length": 16},
            "model": {
                "kind": "decoder",
                "layers": [{"kind": "attention", "heads": 4, "kv_heads": 2}, {"kind": "lru", "state_dim": 6}],
                "model_dim": 16,
                "neurons": 24,
                "bias": True,
            },
            "train": {"steps": 2, "batch_size": 4},
            "compression": {"method": "none"},
        },
        "test",
    )
    torch.manual_seed(0)
    spec, path = recipe.data.spec(), folder / "decoder.pt"
    Checkpoint.of(build_model(recipe.model, spec), recipe, spec, 2).save(path)
    return path


def llama(folder: Path) -> tuple[Path, Path]:
    """A tiny Llama with fresh weights and a tokenizer of bytes, in a folder, and a text; skips without transformers."""
    pytest.importorskip("transformers")
    from strangers import of_transformers

    from compressm_cli.data.byte_tokenizer import byte_tokenizer

    whole: Any = of_transformers(
        "LlamaForCausalLM",
        "LlamaConfig",
        vocab_size=260,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )()
    place, text = folder / "llama", folder / "text.txt"
    whole.save_pretrained(place)
    (place / "tokenizer.json").write_text(byte_tokenizer(), encoding="utf-8")
    text.write_text("seven times seven is forty-nine. " * 40, encoding="utf-8")
    return place, text
