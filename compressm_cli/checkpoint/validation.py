"""What a checkpoint's content must be, before a model is built of it. Everything wrong is one clause with its place."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from compressm_cli import plugins
from compressm_cli.core.axes import declared
from compressm_cli.core.registry import Origin
from compressm_cli.core.text import shorten
from compressm_cli.core.validation import (
    LARGEST,
    DamagedError,
    described,
    is_count,
    mapping_of,
    part,
    require,
)
from compressm_cli.data.encodings import Encoding
from compressm_cli.data.interface import CLASSES, MOST_NAMES, SPLITS, DataSpec, Fingerprint
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.recipe import Recipe, RecipeError, recipe_from_mapping
from compressm_cli.recipe.bounds import known_spec

MISFIT = "weights do not fit the shapes in the checkpoint"
LONGEST = 10_000_000
"""Steps of a sequence."""
LARGEST_RECIPE = 100_000
"""Values in a recipe."""

ORIGIN = {field.name for field in fields(Origin)}


def read_recipe(content: Mapping[str, Any], where: str) -> Recipe:
    """The recipe in a checkpoint, validated as any other."""
    mapping = part(content, "recipe", dict)
    _require_small(mapping)
    try:
        return recipe_from_mapping(mapping, where)
    except RecipeError as error:
        more = len(error.problems) - 1
        raise DamagedError(
            f"its recipe: {error.problems[0].removeprefix(f'{where}: ')}"
            + (f" (and {more} more)" if more else "")
        ) from error


def _require_small(mapping: dict[str, Any]) -> None:
    waiting: list[Any] = [mapping]
    seen = 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > LARGEST_RECIPE:
            raise DamagedError(f"its recipe has more than {LARGEST_RECIPE} values")
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value


def read_plugins(content: Mapping[str, Any]) -> list[Origin]:
    """The plug-ins that a checkpoint or a run was made with; none where an older version wrote it."""
    if "plugins" not in content:
        return []
    listed = part(content, "plugins", list)
    # Older versions did not write the sources.
    whole = [{"sources": {}, **given} if type(given) is dict else given for given in listed]
    for i, given in enumerate(whole):
        where = f"plugins[{i}]"
        require(
            type(given) is dict and set(given) == ORIGIN,
            where,
            f"a mapping of {', '.join(sorted(ORIGIN))}",
            given,
        )
        module = given["module"]
        require(plugins.is_module(module), f"{where}.module", "the name of a module", module)
        for name in ("distribution", "version"):
            right = given[name] is None or (type(given[name]) is str and len(given[name]) <= 200)
            require(right, f"{where}.{name}", "null or text of at most 200 characters", given[name])
        for name in mapping_of(given, "sources", _is_checksum, "a checksum in hexadecimal", where):
            require(plugins.is_module(name), f"{where}.sources: a name", "the name of a module", name)
    return [Origin(**given) for given in whole]


def read_spec(content: Mapping[str, Any], recipe: Recipe) -> DataSpec:
    """The description of the data that the model is for, which must be that of the recipe's task where it is known."""
    spec = _spec(part(content, "data", dict), "data")
    _require_task(spec, recipe)
    return spec


def _spec(given: dict[str, Any], where: str) -> DataSpec:
    # What older versions did not write.
    given = {"targets": None, "separator": None, "mask": None, "image": None, "source": None, **given}
    names = [field.name for field in fields(DataSpec)]
    require(
        sorted(map(str, given)) == sorted(names), where, f"a mapping with the keys {', '.join(names)}", given
    )
    for name in ("separator", "mask"):
        value = given[name]
        right = value is None or (
            is_count(given["vocabulary"], 1) and is_count(value, 0, given["vocabulary"] - 1)
        )
        require(right, f"{where}.{name}", "null or a token of the vocabulary", value)
    rows = given["rows"]
    targets, classes = given["targets"], given["classes"]
    right = targets is None or is_count(targets, 1)
    require(right, f"{where}.targets", "null or a positive whole number", targets)
    right = is_count(classes, 1) if targets is None else is_count(classes, 0, 0)
    wanted = "a positive whole number" if targets is None else "0, beside targets"
    require(right, f"{where}.classes", wanted, classes)
    require(is_count(given["length"], 1, LONGEST), f"{where}.length", f"from 1 to {LONGEST}", given["length"])
    require(
        (given["features"] is None) != (given["vocabulary"] is None),
        where,
        "features or a vocabulary",
        given,
    )
    for name in ("features", "vocabulary"):
        value = given[name]
        right = value is None or is_count(value, 1)
        require(right, f"{where}.{name}", "null or a positive whole number", value)
    right = isinstance(rows, (list, tuple)) and len(rows) == 3 and all(map(is_count, rows))
    require(right, f"{where}.rows", "three whole numbers", rows)
    require(type(given["per_step"]) is bool, f"{where}.per_step", "true or false", given["per_step"])
    source = given["source"]
    right = source is None or (is_count(source, 1, given["length"] - 1) and given["vocabulary"] is not None)
    require(right, f"{where}.source", "null, or of tokens a number below the length", source)
    return DataSpec(**{**given, "rows": tuple(rows), "image": _image(given, where)})


def _image(given: dict[str, Any], where: str) -> tuple[int, int, int] | None:
    image, features, length = given["image"], given["features"], given["length"]
    if image is None:
        return None
    right = isinstance(image, (list, tuple)) and len(image) == 3 and all(is_count(size, 1) for size in image)
    right = right and (features, length) == (image[0], image[1] * image[2])
    wanted = f"null, or three numbers: {features} channels, height and width, of {length} pixels"
    require(right, f"{where}.image", wanted, image)
    return image[0], image[1], image[2]


def read_encoding(content: Mapping[str, Any], data: DataSpec) -> Encoding | None:
    """What makes inputs of files, which must be that of the data's description; None where it is not known."""
    if content.get("encoding") is None:
        return None
    where = "encoding"
    try:
        encoding = Encoding.model_validate(part(content, where, dict))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, (where, *first["loc"])))
        raise DamagedError(f"{place}: {shorten(first['msg'])}") from error
    if problem := encoding.misfit(data):
        raise DamagedError(f"{where}: {problem}")
    return encoding


def read_fingerprint(content: Mapping[str, Any]) -> Fingerprint | None:
    """What the data are known again by, of a checkpoint or of ``run.json``; None where an older version wrote it."""
    if content.get("fingerprint") is None:
        return None
    where = "fingerprint"
    given = part(content, where, dict)
    keys = [field.name for field in fields(Fingerprint)]
    require(
        sorted(map(str, given)) == sorted(keys), where, f"a mapping with the keys {', '.join(keys)}", given
    )
    spec = _spec(part(given, "spec", dict, where), f"{where}.spec")
    hexadecimal = "a checksum in hexadecimal"
    sums = mapping_of(given, "checksums", _is_checksum, hexadecimal, where)
    right = set(SPLITS) <= set(sums) <= {*SPLITS, CLASSES}
    require(right, f"{where}.checksums", f"of {', '.join(SPLITS)} and perhaps {CLASSES}", sums)
    names = given["class_names"]
    right = names is None or (CLASSES in sums and type(names) is list and len(names) <= MOST_NAMES)
    right = right and all(type(name) is str and len(name) <= MOST_NAMES for name in names or [])
    require(right, f"{where}.class_names", f"null, or at most {MOST_NAMES} short texts", names)
    return Fingerprint(spec, sums, names)


def _is_checksum(value: object) -> bool:
    return type(value) is str and re.fullmatch(r"[0-9a-f]{32}", value) is not None


def _require_task(spec: DataSpec, recipe: Recipe) -> None:
    known = known_spec(recipe)
    if known is None:
        return
    for name in ("classes", "targets", "features", "vocabulary", "per_step", "image", "source"):
        wanted, value = getattr(known, name), getattr(spec, name)
        require(value == wanted, f"data.{name}", f"{wanted}, as of the task {recipe.data.task}", value)


def read_orders(content: Mapping[str, Any], key: str = "orders", where: str = "") -> dict[str, int]:
    """The orders of the layers, or the sizes of all axes."""
    least = 0 if key == "sizes" else 1  # a sub-layer may be gone
    wanted = f"a whole number from {least} to 65536"
    return mapping_of(content, key, lambda v: is_count(v, least, 65536), wanted, where)


def read_tensors(content: Mapping[str, Any], key: str, where: str = "") -> dict[str, Tensor]:
    """Dense tensors on the CPU by name."""
    return mapping_of(content, key, is_dense, "a dense tensor on the CPU", where)


def is_dense(value: object) -> bool:
    """Whether it is a plain tensor with values of its own in the CPU's memory."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.layout is torch.strided  # type: ignore[attr-defined]
        and value.device.type == "cpu"  # type: ignore[attr-defined]
    )


def require_fit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Names, shapes and types of weights are those of the model, and they are finite."""
    missing, strange = [n for n in expected if n not in weights], [n for n in weights if n not in expected]
    if missing or strange:
        told = f"{missing[0]} is missing" if missing else f"there is no place for {shorten(strange[0])}"
        raise DamagedError(f"{MISFIT}: {told}")
    for name, like in expected.items():
        wanted = f"{str(like.dtype).removeprefix('torch.')} of the shape {tuple(like.shape)}"
        if weights[name].shape != like.shape or weights[name].dtype != like.dtype:
            raise DamagedError(f"{MISFIT}: {name} must be {wanted}, found {described(weights[name])}")
    require_finite(weights, "weights")


def require_finite(tensors: Mapping[Any, Tensor], where: str) -> None:
    """No NaN and no infinity among the tensors; takes no memory of their size."""
    for name, value in tensors.items():
        numbers = torch.view_as_real(value) if value.is_complex() else value
        if value.numel() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(numbers)):
            raise DamagedError(f"{where}[{shorten(name)}] has values that are not finite")


def require_orders_kept(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Where channels have orders of their own, these are within the layer's; what sums are divided by is no less than
    what is summed.
    """
    for name, layer in state_space_layers(model).items():
        kept = weights.get(f"{name}.kept")
        if kept is not None and not ((kept >= 0) & (kept <= layer.state_dim)).all():
            raise DamagedError(f"{name}.kept must be from 0 to {layer.state_dim}")
    for axis in declared(model):
        for name, least in axis.divisors:
            if name in weights and not least <= int(weights[name]) <= LARGEST:
                raise DamagedError(f"{name} must be from {least} to {LARGEST}, found {int(weights[name])}")
