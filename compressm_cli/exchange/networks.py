"""Folders of transformers with language models that are not ours, as checkpoints of a recipe made up for them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Encoding, Tokens
from compressm_cli.exchange.folders import open_folder
from compressm_cli.exchange.foreign import inputs_of, recipe_of
from compressm_cli.exchange.names import CONFIG
from compressm_cli.models import External
from compressm_cli.models.of_transformers import configured, positions_of

LENGTH = 256
"""Steps of a sequence, where the network takes so many: those of random tokens by default."""


def with_length(checkpoint: Checkpoint, length: int) -> Checkpoint:
    """The model of a folder with sequences of another length, of as many steps as it takes where these are fewer."""
    recipe = checkpoint.recipe
    if isinstance(recipe.model, External.Config):
        _, settings = configured(recipe.model.configuration(), CONFIG)
        longest = positions_of(settings.get_text_config())
        length = length if longest is None else min(length, longest)
    data = recipe.data.model_copy(update={"length": length})
    return replace(
        checkpoint,
        recipe=recipe.model_copy(update={"data": data}),
        data=replace(checkpoint.data, length=length),
    )


def load(folder: Path, config: dict[str, Any]) -> Checkpoint:
    """The checkpoint of a folder with a ``...ForCausalLM``, also with one that was saved with its sizes.

    Raises BadInputError where it has another network, or its weights are not those of it.
    """
    opened = open_folder(folder)
    network: Any = opened.model
    if opened.task != "language":
        raise BadInputError(
            f"{folder}: a {type(network).__name__}; of networks that are not ours only language models are read alone "
            f"(...ForCausalLM, architectures in {CONFIG}); train it on data of its kind: model: {{from: {folder}}}"
        )
    settings = network.config.get_text_config()
    vocabulary, longest = int(settings.vocab_size), positions_of(settings)
    length = LENGTH if longest is None else min(LENGTH, longest)
    recipe = recipe_of(
        folder,
        {"vocabulary": vocabulary, "length": length},
        {"from": str(folder), "network": json.dumps(config, sort_keys=True)},
    )
    spec = recipe.data.spec()
    encoding = Encoding(inputs=inputs_of(folder, vocabulary), outputs=Tokens())
    return Checkpoint.of(External.of(network, spec), recipe, spec, step=0, encoding=encoding)
