"""Small models of every kind that ``MODELS`` names, for tests that all of them go through."""

import json
from typing import Any

from layer_kinds import SMALL
from plugin_package import examples

TEXT = {"task": "text_lm", "max_bytes": 4000, "length": 16}
ELSEWHERE = {"from": "elsewhere", "weights": "fresh"}
"""Of networks of folders that are not there any more."""
EXAMPLES: dict[str, dict[str, Any]] = {
    "sequence": {"layer": {"kind": "mamba2", "state_dim": 6, **SMALL["mamba2"]}, "model_dim": 8, "depth": 2},
    "decoder": {
        "layers": [{"kind": "attention", "heads": 4, "kv_heads": 2}],
        "model_dim": 8,
        "depth": 2,
        "dropout": 0.1,
        "tie_embeddings": True,
    },
    "decoder: gpt2": {
        "layers": ["attention"],
        "feed_forward": "gelu_tanh",
        "norm": "layer",
        "positions": "learned",
        "bias": True,
        "model_dim": 8,
        "depth": 2,
    },
    "decoder: hybrid": {
        "layers": [
            {"kind": "mamba2", "state_dim": 6, **SMALL["mamba2"]},
            {"kind": "attention", "heads": 2},
            {"kind": "lru", "state_dim": 5},
        ],
        "model_dim": 8,
    },
    "encoder": {"heads": 2, "model_dim": 8, "feed_forward": "gelu", "norm": "layer", "positions": "learned"},
    "encoder: bert": {
        "heads": 2,
        "model_dim": 8,
        "feed_forward": "gelu",
        "norm": "layer",
        "norm_first": False,
        "bias": True,
        "dropout": 0.1,
    },
    "external": {
        "network": json.dumps(
            {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "vocab_size": 300,
                "hidden_size": 16,
                "intermediate_size": 12,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
            }
        ),
        **ELSEWHERE,
    },
    "resnet": {"depth": 8, "width": 6},
    "vit": {"heads": 2, "model_dim": 8, "depth": 1},
    "encoder_decoder": {"heads": 4, "kv_heads": 2, "model_dim": 8, "tie_embeddings": True, "dropout": 0.1},
    "encoder_decoder: vaswani": {
        "heads": 2,
        "model_dim": 8,
        "feed_forward": "gelu",
        "norm": "layer",
        "positions": "learned",
        "bias": True,
    },
    **examples("model"),
}
"""Settings of small models: each model, and those kinds of it that are built otherwise."""

PAIRS = {"task": "translation", "train_rows": 64, "validation_rows": 8, "test_rows": 8}
IMAGES = {"task": "digits", "as_images": True, "augment": {"crop": 1}}
DATA = {
    "encoder": {"task": "digits"},
    "pooled": {"task": "digits"},
    "resnet": IMAGES,
    "vit": IMAGES,
    "encoder_decoder": PAIRS,
    "encoder_decoder: vaswani": PAIRS,
}
"""Of models that do not learn language."""
OBJECTIVE = {"encoder: bert": {"kind": "masked_language"}}
"""Of models that learn something else than the task says."""
