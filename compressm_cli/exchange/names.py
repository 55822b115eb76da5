"""What files and parameters are called in transformers and in mamba-ssm, which agree up to the embedding's name."""

import re

CONFIG = "config.json"
SAFETENSORS = "model.safetensors"
PICKLED = "pytorch_model.bin"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
"""How names of files of weights end."""
HUGGING_FACE, MAMBA_SSM = "embeddings", "embedding"
"""The module of the embedding, in which the two differ."""
HEAD, ENCODER = "head.weight", "encoder.weight"
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module", "model"}
"""Parts of names that say how a model was trained: compiled, in several processes, with activation checkpointing, as
a part of another module. No parameter has one of its own of such a name."""


def foreign_name(name: str, embedding: str) -> str:
    """Their name for a parameter of ours: ``blocks.3.layer.A_log`` is ``backbone.layers.3.mixer.A_log``."""
    fixed = {
        ENCODER: f"backbone.{embedding}.weight",
        "norm.weight": "backbone.norm_f.weight",
        HEAD: "lm_head.weight",
    }
    if name in fixed:
        return fixed[name]
    return re.sub(r"^blocks\.(\d+)\.", r"backbone.layers.\1.", name).replace(".layer.", ".mixer.", 1)


def own_name(name: str) -> str | None:
    """Our name for a parameter of theirs; None where there is no such parameter.

    A model without its head, as ``MambaModel`` is, has no ``backbone.`` in its names.
    """
    bare = ".".join(part for part in name.split(".") if part not in WRAPPERS).removeprefix("backbone.")
    fixed = {
        "embeddings.weight": ENCODER,
        "embedding.weight": ENCODER,
        "norm_f.weight": "norm.weight",
        "lm_head.weight": HEAD,
    }
    if bare in fixed:
        return fixed[bare]
    found = re.fullmatch(r"layers\.(\d+)\.(norm|mixer)\.(.+)", bare)
    if found is None:
        return None
    number, part, rest = found.groups()
    return f"blocks.{number}.{'layer' if part == 'mixer' else part}.{rest}"
