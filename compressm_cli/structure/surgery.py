"""Carrying out plans, and putting shapes, masks and what is trained back: the only code that changes them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from compressm_cli.core.axes import declared
from compressm_cli.core.outlines import outline_of
from compressm_cli.core.text import shorten
from compressm_cli.core.validation import require
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.structure.arguments import (
    listed_copies,
    require_module,
    require_optimizer,
    require_sizes,
    require_weights,
    tensors_by_name,
)
from compressm_cli.structure.draft import Draft, commit
from compressm_cli.structure.edits import Edit
from compressm_cli.structure.map import StructureMap, tensors_of
from compressm_cli.structure.masks import set_masks
from compressm_cli.structure.modules import BLOCKS, Growing, at_home
from compressm_cli.structure.optimizers import exchange_modules
from compressm_cli.structure.plan import Plan
from compressm_cli.structure.store import ParkedUnits
from compressm_cli.structure.sublayers import holds, inside, revived

T = TypeVar("T")


def orders(model: nn.Module) -> dict[str, int]:
    """State dimension of each state space layer, by module name."""
    return {name: layer.state_dim for name, layer in state_space_layers(model).items()}


def sizes(model: nn.Module) -> dict[str, int]:
    """How many units each axis of a model has."""
    return StructureMap.of(model).sizes()


def frozen(model: nn.Module) -> list[str]:
    """Names of the parameters that are not trained now."""
    return [name for name, p in outline_of(model).named_parameters() if not p.requires_grad]


def apply_plan(model: nn.Module, optimizer: Optimizer | None, plan: Plan) -> None:
    """Carry out a plan's edits on the model and on the optimizer's state of what they touch, whole or not at all.

    Everything else keeps its moments and its place in the optimizer's groups. Belongs between two steps: gradients of
    what changes its shape are gone. Raises what an edit raises, ValueError where it cannot be made or two of them meet
    in one entry, and nothing is changed then.
    """
    apply_edits(model, optimizer, plan.edits)


def apply_edits(
    model: nn.Module, optimizer: Optimizer | None, edits: Iterable[Edit], copies: Sequence[nn.Module] = ()
) -> None:
    """As ``apply_plan``, without records; to ``copies`` of the model, such as averages of its weights, too, or to none.

    Modules that edits build come with the same random numbers in each. Raises TypeError for what is no model, optimizer
    or list of copies.
    """
    require_module("apply_edits", model)
    require_optimizer("apply_edits", optimizer)
    copies = listed_copies("apply_edits", copies)
    if isinstance(edits, (Edit, Plan)) or not isinstance(edits, Iterable):
        raise ValueError(
            f"edits are a list, such as [Keep(axis, units)] or the edits of a plan, not {shorten(edits)}"
        )
    edits = list(edits)
    drafts = [Draft(model, optimizer), *(Draft(twin, None) for twin in copies)]
    random = torch.get_rng_state()
    drafts[0].prepare(edits)
    for i, draft in enumerate(drafts[1:]):
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(random)
            try:
                draft.prepare(edits)
            except ValueError as error:
                raise ValueError(f"copies[{i}]: {error}") from error
    _require_apart(drafts)
    commit(drafts)


def _require_apart(drafts: Sequence[Draft]) -> None:
    """ValueError where what is built for a copy is in another model, too: their weights would be the same ones."""
    known: set[int] = set()
    for draft in drafts:
        own = {id(tensor) for tensor in draft.tensors.values()}
        modules = [module for module in draft.modules.values() if module is not None]
        built = {id(tensor) for module in modules for tensor in tensors_of(module).values()} - own
        if built & known:
            raise ValueError(
                "an edit builds the same module for the model and for a copy of it; let it make a new one at each call"
            )
        known |= own | built


def resize(
    model: nn.Module,
    optimizer: Optimizer | None,
    weights: Mapping[str, Tensor],
    sizes: Mapping[str, int] | None = None,
) -> None:
    """Give all parameters and buffers the shapes that they have in ``weights``, a state of the model to be loaded.

    Only shapes and types of ``weights`` count. Sub-layers and blocks leave the model, or come back to it, as the
    ``sizes`` of its axes say, by default where there are weights of them. Raises ValueError, with nothing changed,
    where there is no weight of a parameter that cannot leave, and TypeError for what is no model, optimizer, weights or
    sizes.
    """
    require_module("resize", model)
    require_optimizer("resize", optimizer)
    require_weights("resize", weights)
    require_sizes("resize", sizes)
    blocks = _blocks(model, weights, sizes)
    _require_whole(model, weights, blocks)
    weights = tensors_by_name("resize", weights)
    _resize_blocks(model, optimizer, blocks)
    _resize_sublayers(model, optimizer, weights, sizes)
    draft = Draft(model, optimizer)
    draft.parked = ParkedUnits()
    now = tensors_of(model)
    for name in _may_change(model):
        old, wanted = now.get(name), weights.get(name)
        if (None if old is None else old.shape) != (None if wanted is None else wanted.shape):
            draft.put(name, None if wanted is None else torch.empty_like(wanted, device="cpu"), {}, "resize")
    draft.commit()


def _blocks(model: nn.Module, weights: Mapping[str, Tensor], sizes: Mapping[str, int] | None) -> int | None:
    """As many blocks as the names of axes say, or at least those that there are weights of; None: it stays as it is."""
    if not isinstance(model, Growing):
        return None
    found = (re.match(rf"{BLOCKS}\.(\d+)[.:]", name) for name in (weights if sizes is None else sizes))
    wanted = max((int(match[1]) + 1 for match in found if match), default=0)
    return (max(wanted, len(model.blocks)) if sizes is None else wanted) or None


def _require_whole(model: nn.Module, weights: Mapping[str, Tensor], blocks: int | None) -> None:
    """ValueError where ``weights`` are not those of such a model: a parameter that always is there has none."""
    leaving = [axis for axis in declared(model) if axis.modules]
    optional = {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, layer in state_space_layers(model).items()
        for name in layer.state_parameters
    }
    for name, _ in model.named_parameters():
        block = re.match(rf"{BLOCKS}\.(\d+)\.", name)
        if blocks is not None and block is not None and int(block[1]) >= blocks:
            continue
        if name in weights or name in optional or any(inside(axis, name) for axis in leaving):
            continue
        has = ", ".join(shorten(n) for n in list(weights)[:2]) or "nothing"
        raise ValueError(
            f"resize: the weights are not those of the model: there is no {name}; they have {has}, ...; give what "
            "state_dict() of the model itself gave"
        )


def _resize_blocks(model: nn.Module, optimizer: Optimizer | None, wanted: int | None) -> None:
    if wanted is None or not isinstance(model, Growing):
        return
    now = len(model.blocks)
    modules: dict[str, nn.Module | None] = {f"{BLOCKS}.{i}": None for i in range(wanted, now)}
    modules |= {f"{BLOCKS}.{i}": at_home(model.build_block(), model) for i in range(now, wanted)}
    if modules:
        exchange_modules(model, optimizer, modules)


def _resize_sublayers(
    model: nn.Module,
    optimizer: Optimizer | None,
    weights: Mapping[str, Tensor],
    sizes: Mapping[str, int] | None,
) -> None:
    modules: dict[str, nn.Module | None] = {}
    for axis in declared(model):
        if not axis.modules:
            continue
        own = {name: weight for name, weight in weights.items() if inside(axis, name)}
        wanted = sizes.get(axis.name, 1) if sizes is not None else int(bool(own))
        if wanted > axis.size:
            modules |= revived(model, axis, {n: torch.empty_like(w, device="cpu") for n, w in own.items()})
        elif wanted < axis.size:
            modules |= {name: None for name in axis.modules if holds(model, name)}
    if modules:
        exchange_modules(model, optimizer, modules)


def _may_change(model: nn.Module) -> list[str]:
    """Names of all that is saved of a model, or may be after a cut."""
    found = list(model.state_dict())
    for prefix, layer in state_space_layers(model).items():
        names = sorted(layer.state_parameters | layer.state_buffers)
        found += [f"{prefix}.{name}" if prefix else name for name in names]
    return list(dict.fromkeys(found))


def outlined(state: T) -> T:
    """A state of a model or an optimizer without its values: tensors on the meta device, single numbers as copies."""
    return tree_map_only(Tensor, lambda t: t.to("meta") if t.ndim else t.clone(), state)


def require_constraints(
    model: nn.Module, masks: Mapping[str, Tensor], frozen: list[Any], where: str = ""
) -> None:
    """DamagedError unless masks and frozen parameters are those of parameters that the model has."""
    known = dict(model.named_parameters())
    for name, mask in masks.items():
        right = name in known and mask.dtype is torch.bool and mask.shape == known[name].shape
        require(
            right,
            f"{where}masks[{shorten(name)}]",
            "a mask of a parameter, true or false for each entry",
            mask,
        )
    for name in frozen:
        require(type(name) is str and name in known, f"{where}frozen", "names of parameters", name)


def restore_constraints(
    model: nn.Module, saved_masks: Mapping[str, Tensor], frozen_names: Sequence[str]
) -> None:
    """Put masks and frozen parameters back as ``masks`` and ``frozen`` gave them."""
    set_masks(model, saved_masks)
    names: set[str] = set(frozen_names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)
