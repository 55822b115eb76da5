"""What parameters are called in transformers and in mamba-ssm, which agree up to the embedding's name."""

import re

HUGGING_FACE, MAMBA_SSM = "embeddings", "embedding"
"""The module of the embedding, in which the two differ."""
HEAD, ENCODER = "head.weight", "encoder.weight"


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
    """Our name for a parameter of theirs; None where there is no such parameter."""
    fixed = {
        "backbone.embeddings.weight": ENCODER,
        "backbone.embedding.weight": ENCODER,
        "backbone.norm_f.weight": "norm.weight",
        "lm_head.weight": HEAD,
    }
    if name in fixed:
        return fixed[name]
    found = re.fullmatch(r"backbone\.layers\.(\d+)\.(norm|mixer)\.(.+)", name)
    if found is None:
        return None
    number, part, rest = found.groups()
    return f"blocks.{number}.{'layer' if part == 'mixer' else part}.{rest}"
