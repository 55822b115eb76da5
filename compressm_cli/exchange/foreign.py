"""From a foreign configuration and its tensors to a checkpoint of ours; all that does not fit is told in one line."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Encoding, Ids, Tokenizer, Tokens
from compressm_cli.data.tokenizer import TOKENIZER, tokenizer_text
from compressm_cli.exchange.names import ENCODER, HEAD, foreign_name, own_name
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, RecipeError, recipe_from_mapping
from compressm_cli.structure import surgery

SUPPORTED = (
    "supported are transformers' model_type mamba and mamba2, and mamba-ssm's layers Mamba1 and Mamba2, "
    "with RMSNorm, SiLU, and nothing but these layers"
)

_MISSING = object()
EPSILON = 1e-5
"""Of normalizations, where a configuration says nothing."""
LARGEST = 10_000_000
"""Of a number in a foreign configuration; the largest is that of a vocabulary."""


def shown(value: object) -> str:
    """A value as it stands in JSON, in its beginning."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:96]} ..."


class Settings:
    """A foreign ``config.json``, read key by key; everything unusable is a BadInputError with key and value."""

    def __init__(self, content: dict[str, Any], where: str, prefix: str = "") -> None:
        self.content, self.where, self.prefix = content, where, prefix

    def unusable(self, key: str, value: object, wanted: str) -> BadInputError:
        """The error for a value that is none, whatever the model is."""
        return BadInputError(f"{self.where}: {self.prefix}{key} is {shown(value)}; only {wanted} can be read")

    def refuse(self, key: str, value: object, wanted: str) -> BadInputError:
        """The error for a value of models that are not supported."""
        return BadInputError(f"{self.unusable(key, value, wanted)}; {SUPPORTED}")

    def number(self, key: str, default: int | None = None) -> int:
        """A positive integer; required where there is no default."""
        value = self.content.get(key)
        value = default if value is None else value
        if value is None:
            raise BadInputError(f"{self.where}: {self.prefix}{key} is missing; write the model's")
        whole = type(value) is int or (type(value) is float and value.is_integer())
        if not whole or not 1 <= value <= LARGEST:
            raise self.unusable(key, value, f"a positive whole number up to {LARGEST}")
        return int(value)

    def epsilon(self, key: str) -> float:
        """What a normalization adds, positive and small."""
        value = self.content.get(key, EPSILON)
        if type(value) not in (int, float) or not 0 < value <= 1:
            raise self.unusable(key, value, "a number above 0, up to 1")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self.content.get(key, default)
        if not isinstance(value, bool):
            raise self.unusable(key, value, "true or false")
        return value

    def require(self, key: str, *wanted: Any) -> None:
        """Refuse a key whose value is not among those wanted; a missing key has the first of them."""
        value = self.content.get(key, _MISSING)
        if value is not _MISSING and not any(type(value) is type(w) and value == w for w in wanted):
            raise self.refuse(key, value, " or ".join(map(shown, wanted)))

    def require_no_limit(self, key: str) -> None:
        """Refuse a range of step sizes other than from 0 to infinity."""
        value = self.content.get(key)
        plain = (
            [v.get("__float__") if isinstance(v, dict) else v for v in value]
            if isinstance(value, list)
            else value
        )
        if plain is not None and plain not in ([0, float("inf")], [0, "Infinity"]):
            raise self.refuse(key, plain, "the range from 0 to infinity")


def language_model(
    folder: Path,
    vocabulary: int,
    model: dict[str, Any],
    weights: dict[str, Tensor],
    embedding: str,
    adjust: Callable[[nn.Module], None] | None = None,
) -> Checkpoint:
    """The checkpoint of a foreign language model.

    ``model`` is the mapping of a recipe's ``model:``, ``weights`` the tensors by their foreign names. ``adjust``
    gives a model of the recipe, on the meta device, the shapes that the weights must have. Raises BadInputError for
    what is missing, too much, of another shape, or not finite.
    """
    recipe = recipe_of(folder, {"vocabulary": vocabulary}, {"norm": "rms", "final_norm": True, **model})
    data = recipe.data.spec()
    with torch.device("meta"):
        skeleton = build_model(recipe.model, data)
        if adjust is not None:
            adjust(skeleton)
    expected = skeleton.state_dict()
    own = _renamed(folder, weights)
    if recipe.model.tie_embeddings:
        _tie(folder, own)
    _check(folder, own, expected, embedding)
    values = {name: own[name].contiguous().to(like.dtype) for name, like in expected.items()}
    _check_finite(folder, values, embedding)
    encoding = Encoding(inputs=inputs_of(folder, vocabulary), outputs=Tokens())
    return Checkpoint(
        recipe=recipe, data=data, sizes=surgery.sizes(skeleton), weights=values, encoding=encoding
    )


def inputs_of(folder: Path, vocabulary: int) -> Ids | Tokenizer:
    """The tokenizer beside the weights; without one, the numbers of tokens."""
    file = folder / TOKENIZER
    if not file.is_file():
        return Ids(size=vocabulary)
    return Tokenizer(size=vocabulary, json_text=tokenizer_text(file))


def recipe_of(folder: Path, data: dict[str, Any], model: dict[str, Any]) -> Recipe:
    """A recipe for a folder's model: random tokens, one training step, no compression.

    ``data`` and ``model`` are mappings of a recipe. Raises BadInputError where they are none.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-")[:100] or "model"
    mapping = {
        "name": name,
        "data": {"task": "tokens", **data},
        "model": model,
        "train": {"steps": 1},
        "compression": {"method": "none"},
    }
    try:
        return recipe_from_mapping(mapping, str(folder))
    except RecipeError as error:
        raise BadInputError(
            f"{folder}: no model can be built as config.json says: {error.problems[0]}"
        ) from error


def _renamed(folder: Path, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    strange = [name for name in weights if own_name(name) is None]
    if strange:
        raise BadInputError(f"{folder}: no place for the tensor {strange[0]}{_more(strange)}; {SUPPORTED}")
    first: dict[str, str] = {}
    for name, tensor in weights.items():
        other = first.setdefault(str(own_name(name)), name)
        if other != name and not torch.equal(weights[other], tensor):
            raise BadInputError(
                f"{folder}: {other} and {name} are the same parameter, with other values; leave one in the file"
            )
    return {own: weights[name] for own, name in first.items()}


def _tie(folder: Path, weights: dict[str, Tensor]) -> None:
    """Give both the one that is there; a head of another value contradicts the configuration."""
    embedding, head = weights.get(ENCODER), weights.get(HEAD)
    if embedding is None:
        if head is not None:
            weights[ENCODER] = head
        return
    if head is not None and (
        head.shape != embedding.shape or not torch.equal(head.float(), embedding.float())
    ):
        raise BadInputError(
            f"{folder}: the embedding and lm_head.weight differ, but config.json ties them; "
            "write false for tie_word_embeddings (tie_embeddings in mamba-ssm) if both are meant"
        )
    weights[HEAD] = embedding


def _check(folder: Path, weights: dict[str, Tensor], expected: dict[str, Tensor], embedding: str) -> None:
    missing = [foreign_name(name, embedding) for name in expected if name not in weights]
    if missing == [foreign_name(HEAD, embedding)]:
        raise BadInputError(
            f"{folder}: the weights lack {missing[0]}: a model without its head, as MambaModel is; "
            "if its embedding is the head, write true for tie_word_embeddings (tie_embeddings in mamba-ssm), else save "
            "the model with its head"
        )
    if missing:
        raise BadInputError(f"{folder}: the weights lack {missing[0]}{_more(missing)}")
    strange = [foreign_name(name, embedding) for name in weights if name not in expected]
    if strange:
        raise BadInputError(f"{folder}: no place for the tensor {strange[0]}{_more(strange)}; {SUPPORTED}")
    for name, like in expected.items():
        if weights[name].shape != like.shape:
            raise BadInputError(
                f"{folder}: {foreign_name(name, embedding)} has the shape {tuple(weights[name].shape)}; "
                f"as config.json says it must be {tuple(like.shape)}"
            )
        found = weights[name].dtype
        if found.is_complex or found.is_floating_point != like.dtype.is_floating_point or found is torch.bool:
            raise BadInputError(
                f"{folder}: {foreign_name(name, embedding)} has the type {str(found).removeprefix('torch.')}"
            )


def _check_finite(folder: Path, weights: dict[str, Tensor], embedding: str) -> None:
    bad = [
        foreign_name(name, embedding) for name, value in weights.items() if not torch.isfinite(value).all()
    ]
    if bad:
        raise BadInputError(f"{folder}: not finite: {bad[0]}{_more(bad)}")


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
