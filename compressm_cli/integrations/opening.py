"""From a path to a language model that can be asked."""

from pathlib import Path

import torch

from compressm_cli.engine.precision import prepare, resolve_device
from compressm_cli.exchange import ragged
from compressm_cli.exchange.names import CONFIG
from compressm_cli.exchange.tensors import read_config
from compressm_cli.integrations.language_model import LanguageModel
from compressm_cli.reports import open_model

OWN = ("mamba", "mamba2", ragged.MODEL_TYPE)
"""Kinds of models of transformers that this package builds itself."""
FOREIGN_CONTEXT = 2048
"""Tokens that a foreign Mamba is shown at once: as many as the published ones were trained on."""


def open_language_model(path: Path, context: int | None = None, device: str = "auto") -> LanguageModel:
    """The language model of a checkpoint, a run, or a folder of transformers or mamba-ssm.

    ``context`` is how many tokens it is shown at once; by default what it was trained on, as far as that is known.
    Raises BadInputError where there is none, it is not causal, or it cannot be shown so many.
    """
    where = resolve_device(device)
    prepare(where, "fp32")
    model = _opened(path, context, where)
    model.require_causal()
    return model


def _opened(path: Path, context: int | None, where: torch.device) -> LanguageModel:
    foreign = path.is_dir() and (path / CONFIG).is_file()
    if foreign and read_config(path).get("model_type", OWN[0]) not in OWN:
        from compressm_cli.integrations.transformers_model import TransformersModel

        return TransformersModel(path, context, where)
    from compressm_cli.integrations.own_model import OwnModel

    checkpoint, chosen = open_model(path)
    return OwnModel(str(path), chosen, checkpoint, context or (FOREIGN_CONTEXT if foreign else None), where)
