"""What a run has to find out of a network that is not ours before it begins, and keeps in its recipe."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.axes import declared
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import error_line
from compressm_cli.data.interface import Dataset, DataSpec
from compressm_cli.exchange.folders import open_folder
from compressm_cli.models import External, build_model
from compressm_cli.models.discovered import FoundAxes
from compressm_cli.recipe import Recipe
from compressm_cli.structure.discovery import TraceError, discover
from compressm_cli.structure.map import tensors_of

ROWS, STEPS = 2, 64
"""Of the training data, with which axes are found and proved; steps of texts."""
CAUSAL = 1e-4
"""How far scores may move, relative to the largest, by what comes later: by rounding alone."""


def settled(recipe: Recipe, dataset: Dataset, known: Checkpoint | None = None) -> Recipe:
    """The recipe with the axes of its network, of which a run's checkpoints can be read without anything else.

    Those of a checkpoint that is gone on from; else what is found now, also for a model that is trained uncut, and may
    be cut later. Any other recipe is itself. Raises BadInputError
    for a network that does not fit the data, and where a method has nothing to cut.
    """
    config = recipe.model
    if not isinstance(config, External.Config):
        return recipe
    _require_own_beginning(recipe)
    if known is not None:
        return recipe.model_copy(update={"model": known.recipe.model})
    if config.axes is not None:
        return recipe
    model, inputs, lengths = tried_out(recipe, dataset)
    if any(True for _ in declared(model)):
        return recipe
    try:
        axes = _found(model, (inputs, lengths))
    except TraceError as error:
        if (method := recipe.compression.method) == "none":
            return recipe
        raise BadInputError(
            f"compression.method: {method}: nothing to cut of this network, because {error}; write method: none"
        ) from error
    return recipe.model_copy(update={"model": config.model_copy(update={"axes": axes})})


def tried_out(recipe: Recipe, dataset: Dataset) -> tuple[External, Tensor, Tensor | None]:
    """A network that is not ours, as training begins with it, in evaluation mode, and with what it was called.

    Raises BadInputError for a network that does not fit the data, or that sees what it is to predict.
    """
    _require_own_beginning(recipe)
    model = begun(recipe.model, dataset.spec).eval()
    assert isinstance(model, External)
    inputs, lengths = _few(dataset, recipe.model, model.sees_padding)
    _try_out(model, inputs, lengths, dataset.spec)
    return model, inputs, lengths


def _require_own_beginning(recipe: Recipe) -> None:
    if recipe.train.initial is not None:
        raise BadInputError(
            "train.initial: a network that is not ours begins with the weights of its folder (model.from), or fresh"
        )


def begun(config: Any, spec: DataSpec) -> nn.Module:
    """A model as training begins with it: fresh, or with the weights that the recipe names."""
    model = build_model(config, spec)
    if isinstance(model, External) and config.begins_with_folder:
        own = model.network.state_dict()
        taken = open_folder(Path(config.folder).expanduser()).model
        values = tensors_of(taken)
        added = [name for name in own if name not in values]  # units of axes
        model.network.load_state_dict({**values, **{name: own[name] for name in added}})
    return model


def _few(dataset: Dataset, config: Any, sees_padding: bool) -> tuple[Tensor, Tensor | None]:
    """A few rows of the training data, of texts for a folder's network their beginnings.

    The last one is padded for a network that sees it, so that what it does then is gone through, too.
    """
    batch = dataset.train.rows(torch.arange(min(ROWS, len(dataset.train))))
    inputs = batch.inputs if config.network_class is not None else batch.inputs[:, :STEPS]
    length = inputs.shape[1]
    if not sees_padding:
        return inputs, None if batch.lengths is None else batch.lengths.clamp(max=length)
    lengths = torch.full((len(inputs),), length)
    lengths[-1] = max(1, length - 1)
    return inputs, lengths


@torch.no_grad()
def _try_out(model: nn.Module, inputs: Tensor, lengths: Tensor | None, spec: DataSpec) -> None:
    """BadInputError for a network that cannot be called with the data, or that sees what it is to predict."""
    try:
        scores = model(inputs, lengths)
        if not spec.per_step or inputs.shape[1] < 2:
            return
        other = inputs.clone()
        other[:, -1] = inputs[:, -1] + 1 if spec.vocabulary is None else (inputs[:, -1] + 1) % spec.vocabulary
        moved = (model(other, lengths) - scores)[:, :-1].abs().max()
    except (BadInputError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a network's code does
        raise BadInputError(
            f"model: the network fails with rows of the data {tuple(inputs.shape)}: "
            f"{error_line(error, lambda _: False)}"
        ) from error
    if float(moved) > CAUSAL * float(scores.abs().max()):
        raise BadInputError(
            "model: the network looks ahead: what comes later changes its scores of earlier steps, which are to "
            "predict it; take a causal one (of BERT's kind: is_decoder: true in config.json)"
        )


def _found(model: nn.Module, given: tuple[Tensor, Tensor | None]) -> FoundAxes:
    """The axes of a network, proved; TraceError where there are none, or they cannot be found."""
    found = discover(model, given)
    if not found.axes:
        reasons = [f"{name} ({size}): {why}" for name, (size, why) in found.pinned.items()]
        more = f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        raise TraceError(
            f"no axis was proved; {'; '.join(reasons[:5]) or 'it has no dimension of its own'}{more}"
        )
    return FoundAxes.of(model)
