"""Networks of transformers that were cut, saved so that ``from_pretrained`` loads them, and read back on trial."""

import copy
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Axis, declared
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.core.files import unwritable
from compressm_cli.exchange.folders import example_of, open_folder
from compressm_cli.exchange.names import CONFIG
from compressm_cli.models import of_transformers
from compressm_cli.models.of_transformers import AUTO, CUT, class_of, quiet, said_by, task_of

CODE = "modeling_cut.py"
CLOSE = 1e-5
"""How far scores of what was saved may be from the network's, relative to the largest."""
NEURONS = ("intermediate_size", "n_inner", "ffn_dim")
HEADS, GROUPS = "num_attention_heads", "num_key_value_heads"


def save_folder(
    model: nn.Module,
    folder: Path,
    beside: Sequence[Path] = (),
    dtype: torch.dtype = torch.float32,
    axes: Iterable[Axis] | None = None,
) -> list[Path]:
    """Save a ``PreTrainedModel`` of which units were cut to a new or empty folder; returns the files.

    Where a configuration of the same class tells all sizes, it is that; else code is written beside the weights, which
    makes the network with them. What was saved is read back and must give the same scores. ``beside``: files to be
    copied, as those of a tokenizer; ``axes``: the network's, where it does not have them itself. Raises BadInputError
    where neither can hold it, or it is read back otherwise.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError(f"{folder}: exists and is not an empty folder; choose another place")
    whole = _cast(copy.deepcopy(model).cpu(), dtype)
    changed = _changes(whole, declared(model) if axes is None else axes)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as place, quiet():
            there = Path(place) / "saved"
            saved = _as_stock(whole, changed)
            if saved is None:
                saved = _with_code(whole)
                there.mkdir()
                (there / CODE).write_text(_code(_base(whole)[0].__name__), encoding="utf-8")
            saved.save_pretrained(there)
            for file in beside:
                shutil.copy(file, there / file.name)
            _require_same(whole, there)
            if folder.exists():
                folder.rmdir()
            shutil.move(there, folder)
    except OSError as error:
        raise RunFailedError(unwritable(folder, error, "choose another place")) from error
    return sorted(folder.iterdir())


def _as_stock(model: Any, changed: dict[str, int] | None) -> Any:
    """The network as its class makes it of a changed configuration; None where no such has these sizes."""
    if changed is None:
        return None
    base, plain = _base(model)
    try:
        config = base.config_class.from_dict({**plain, **changed})
        with torch.device("meta"):
            stock = base(config)
    except Exception:  # numbers that a configuration of this class does not allow
        return None
    wanted = {name: value.shape for name, value in stock.state_dict().items()}
    known = model.state_dict()
    if any(name not in known or known[name].shape != shape for name, shape in wanted.items()):
        return None
    saved = _filled(base(config), known)
    return saved if _distance(saved, model) <= CLOSE else None


def _base(model: Any) -> tuple[Any, dict[str, Any]]:
    """The class of transformers of a network, also of one that was saved with its sizes, and its configuration."""
    told = model.config.to_dict()
    if told.get("model_type") != CUT:
        return type(model), {key: value for key, value in told.items() if key != "model_type"}
    left_out = ("model_type", "cut", "auto_map", "architectures")
    return class_of(told, CONFIG), {key: value for key, value in told.items() if key not in left_out}


def _changes(model: Any, axes: Iterable[Axis]) -> dict[str, int] | None:
    """What a configuration would have to say of the sizes now; None where they differ from layer to layer."""
    sizes: dict[str, set[int]] = {}
    for axis in axes:
        sizes.setdefault(axis.kind, set()).add(axis.size)
    if any(len(found) > 1 for found in sizes.values()):
        return None
    one = {kind: next(iter(found)) for kind, found in sizes.items()}
    config = model.config
    found: dict[str, int] = {}
    if "neuron" in one:
        found |= {key: one["neuron"] for key in NEURONS if hasattr(config, key)}
    if "kv_group" in one:
        queries = one.get("query", getattr(config, HEADS) // getattr(config, GROUPS))
        found |= {GROUPS: one["kv_group"], HEADS: one["kv_group"] * queries}
    elif "head" in one:
        found |= {key: one["head"] for key in (HEADS, GROUPS) if hasattr(config, key)}
    return found


def _with_code(model: Any) -> Any:
    """The network as the code beside its weights makes it. BadInputError where that cannot hold it."""
    base, plain = _base(model)
    with torch.device("meta"):
        whole = base(base.config_class.from_dict(plain))
    known, kept = model.state_dict(), whole.state_dict()
    shapes = {n: list(known[n].shape) for n, value in kept.items() if known[n].shape != value.shape}
    own = dict(model.named_buffers())
    for name, value in whole.named_buffers():
        if name not in kept and own[name].shape != value.shape:
            raise BadInputError(f"{type(model).__name__} cannot be saved: {name}, which it computes, was cut")
    modules, numbers = dict(model.named_modules()), {}
    for place, module in whole.named_modules():
        now = vars(modules[place])
        if differing := {n: now[n] for n, v in vars(module).items() if _is_size(v) and now.get(n) != v}:
            numbers[place] = differing
    name = base.__name__
    from compressm_cli.models.modeling_cut import classes  # which needs transformers

    config_class, network = classes(name)
    cut = {"architecture": name, "shapes": shapes, "numbers": numbers}
    task = AUTO.get(task_of({"architectures": [name]}), "AutoModel")
    code = CODE.removesuffix(".py")
    told = {"cut": cut, "auto_map": {"AutoConfig": f"{code}.CutConfig", task: f"{code}.CutNetwork"}}
    try:
        return _filled(network(config_class.from_dict({**plain, **told})), known)
    except Exception as error:  # what another way of writing it raises
        raise BadInputError(f"{name} cannot be saved: {said_by(error)}") from error


def _is_size(value: object) -> bool:
    return type(value) is int or (type(value) is tuple and all(type(one) is int for one in value))


def _filled(network: nn.Module, values: dict[str, Tensor]) -> Any:
    own = network.state_dict()
    network.load_state_dict({name: values[name] for name in own})
    return _cast(network, next(iter(values.values())).dtype)


def _cast(network: nn.Module, dtype: torch.dtype) -> Any:
    """The network with parameters of a type; what it computes for itself keeps its own."""
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    return network.eval()


def _code(architecture: str) -> str:
    return (
        Path(of_transformers.__file__).with_name(CODE).read_text(encoding="utf-8")
        + f'\n\nCutConfig, CutNetwork = classes("{architecture}")\n'
    )


def _require_same(model: nn.Module, folder: Path) -> None:
    found = _distance(open_folder(folder).model, model)
    if not found <= CLOSE:
        raise BadInputError(
            f"{type(model).__name__} cannot be saved: read back, its scores are {found:.2g} off (relative)"
        )


@torch.no_grad()
def _distance(one: nn.Module, other: nn.Module) -> float:
    """How far the scores are apart, relative to the largest."""
    given = example_of(other)
    first, second = (_scores(copy.deepcopy(model).float(), given) for model in (one, other))
    if first.shape != second.shape:
        return float("inf")
    return float((first - second).abs().max() / second.abs().max().clamp(min=1e-30))


def _scores(model: nn.Module, given: dict[str, Any]) -> Tensor:
    result: Tensor = model(**given)[0]
    return result
