"""A trained model that a recipe begins with (``train.initial``): its body, which must fit, and a fresh head."""

from pathlib import Path
from typing import Any

import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.checksum import checksum
from compressm_cli.data.encodings import Encoding, Ids, Tokenizer
from compressm_cli.data.interface import Dataset
from compressm_cli.engine.distributed.group import Group
from compressm_cli.exchange.loading import load
from compressm_cli.exchange.places import is_model_folder
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe
from compressm_cli.runs.folder import Run

KEY = "initial"
"""Of run.json: the checksum of the weights that a run began with."""
HEAD = "head."
"""How the names of the tensors begin that are fresh."""
FREE = ("context", "dropout", "tie_embeddings")
"""Settings of a model that may differ: of them shapes, if anything, tell what matters."""


def finished(place: Path) -> Path:
    """The model that a place means: itself, or of a run, or a folder of runs, the final one of the newest that is done.

    BadInputError where no run there is done.
    """
    if is_model_folder(place) or not place.is_dir():
        return place
    runs = Run.find(place)
    done = [run for run in runs if run.is_done and run.final_checkpoint.is_file()]
    if not done:
        raise BadInputError(
            f"{place}: {'the run is not' if len(runs) == 1 else 'none of its runs is'} done; train it to its end, or "
            "name a checkpoint of it"
        )
    return done[-1].final_checkpoint


def pinned(recipe: Recipe) -> Recipe:
    """The recipe with the file that ``train.initial`` means now; one that is not there stays as it is."""
    if recipe.train.initial is None:
        return recipe
    try:
        file = finished(Path(recipe.train.initial))
    except BadInputError:
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"initial": str(file)})})


def inherited(recipe: Recipe, seed: int, dataset: Dataset) -> Checkpoint | None:
    """A model to begin with: the body of the named one, and the head that a run of this seed has; None without one.

    BadInputError where it cannot be read, or is no model of such a recipe and such inputs.
    """
    if recipe.train.initial is None:
        return None
    try:
        given = load(finished(Path(recipe.train.initial)))
        _require_alike(given, recipe, dataset)
        return _with_fresh_head(given, recipe, seed, dataset)
    except BadInputError as error:
        raise BadInputError(f"train.initial: {error}") from error


def shared(recipe: Recipe, seed: int, dataset: Dataset, group: Group) -> Checkpoint | None:
    """``inherited`` in every process; BadInputError where not all begin with the same weights. Collective."""
    if recipe.train.initial is None:
        return None
    own = group.together(lambda: inherited(recipe, seed, dataset))
    assert own is not None
    mains = group.broadcast(weights_of(own))

    def check() -> None:
        if mains != weights_of(own):
            raise BadInputError(
                f"process {group.rank} of {group.size} has another model in {recipe.train.initial} than process 0; "
                "give all machines the same files"
            )

    group.together(check)
    return own


def require_same(info: dict[str, Any], now: Checkpoint | None, recipe: Recipe) -> None:
    """BadInputError where a run would begin anew with other weights than those that its run.json tells of."""
    if now is not None and info.get(KEY) not in (None, weights_of(now)):
        raise BadInputError(
            f"train.initial: {recipe.train.initial}: not the weights that this run began with; put them back, or begin "
            "a new run"
        )


def weights_of(checkpoint: Checkpoint) -> str:
    """A checksum of all its weights."""
    return checksum(*(torch.atleast_1d(tensor) for _, tensor in sorted(checkpoint.weights.items())))


def _require_alike(given: Checkpoint, recipe: Recipe, dataset: Dataset) -> None:
    """BadInputError where the model computes something else than the recipe's, or of other inputs."""
    place = f"{recipe.train.initial}"
    if given.sizes != given.start_sizes or given.masks:
        raise BadInputError(f"{place}: has been compressed; name a model of full size")
    theirs, ours = (one.model.model_dump(mode="json") for one in (given.recipe, recipe))
    for key in {**ours, **theirs}:
        if key not in FREE and theirs.get(key) != ours.get(key):
            raise BadInputError(
                f"{place}: has model.{key} {theirs.get(key)}, and the recipe has {ours.get(key)}; write the same"
            )
    if (given.data.separator is None) != (dataset.spec.separator is None):
        one, other = ("no pairs", "pairs") if given.data.separator is None else ("pairs", "no pairs")
        raise BadInputError(f"{place}: was trained on rows that are {one} of texts, and these are {other}")
    same = given.recipe.data.task == recipe.data.task
    if given.encoding is not None and dataset.encoding is not None:
        same = _read_alike(given.encoding, dataset.encoding)
    if not same:
        raise BadInputError(
            f"{place}: reads its inputs otherwise: by another tokenizer, size or standardization; name one that was "
            "trained on such data"
        )


def _read_alike(one: Encoding, other: Encoding) -> bool:
    """Whether inputs mean the same to two models, but for how long they are."""
    pair = (one.inputs, other.inputs)
    if all(isinstance(inputs, Ids | Tokenizer) for inputs in pair) and any(isinstance(i, Ids) for i in pair):
        return pair[0].vocabulary == pair[1].vocabulary
    known, ours = (inputs.model_dump(exclude={"max_length"}) for inputs in pair)
    return known == ours


def _with_fresh_head(given: Checkpoint, recipe: Recipe, seed: int, dataset: Dataset) -> Checkpoint:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(recipe.model, dataset.spec)
    state = model.state_dict()
    body = {name: tensor for name, tensor in given.weights.items() if not name.startswith(HEAD)}
    for name in {**body, **state}:
        ours, theirs = state.get(name), body.get(name)
        if name.startswith(HEAD) or (ours is not None and theirs is not None and ours.shape == theirs.shape):
            continue
        told = [None if tensor is None else tuple(tensor.shape) for tensor in (theirs, ours)]
        advice = "; write model.context, the same for both" if "positions" in name else ""
        raise BadInputError(
            f"{recipe.train.initial}: {name} has the shape {told[0]} there and {told[1]} in the recipe{advice}"
        )
    model.load_state_dict({**state, **body})
    return Checkpoint.of(model, recipe, dataset.spec, step=0)
