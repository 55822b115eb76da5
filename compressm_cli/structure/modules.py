"""Edits that exchange modules: growing by a block that adds nothing yet, and putting another module in one's place."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from compressm_cli.core.axes import whole_number
from compressm_cli.structure.draft import Draft
from compressm_cli.structure.edits import Edit
from compressm_cli.structure.map import tensors_of

BLOCKS = "blocks"
"""Where a model has the list of blocks that it can build one more of."""


@runtime_checkable
class Growing(Protocol):
    """A model that can grow by blocks of its own."""

    blocks: nn.ModuleList

    def grow_as(self, config: Any) -> None:
        """Let further blocks be those of a recipe's ``model:``."""

    def build_block(self) -> nn.Module:
        """A fresh block, from torch's random state; its ``silent`` are the tensors by which it adds to the stream.

        ValueError where the model has as many as it may.
        """


@dataclass(frozen=True)
class Replace(Edit):
    """Put what ``build`` makes of a module in its place.

    Parameters that both have keep their optimizer state; new ones start anew, in the group of the parameter that had
    their name, or of those of their role. ``build`` may read the module, and must not change it.
    """

    module: str
    build: Callable[[nn.Module], nn.Module]

    @property
    def rebuilds(self) -> bool:
        return True

    def prepare(self, draft: Draft) -> None:
        old = _module(draft, self.module, self)
        if not self.module:
            raise ValueError(f"{self}: a model cannot be put in place of itself; name one of its modules")
        new = at_home(_built(self, self.build, old), draft.model)
        for name in self.touched(draft):
            draft.claim(name, self)
            if draft.parked.has(draft.canonical(name)):
                raise ValueError(f"{self}: units of {name} are parked; wake them first")
        draft.exchange({self.module: new}, self)

    def touched(self, draft: Draft) -> list[str]:
        return [name for name in draft.tensors if name.startswith(f"{self.module}.")]

    def __str__(self) -> str:
        return f"Replace({self.module})"


@dataclass(frozen=True)
class Insert(Edit):
    """Put what ``build`` makes into a list of modules, before the one at ``position``, without changing the function.

    The tensors named in ``silent`` are set to zero: those by which the new module adds to the residual stream. Without
    ``build`` it is one more of the model's own blocks (``Growing``), which a run's checkpoints can tell.
    """

    parent: str
    """An ``nn.ModuleList`` or ``nn.Sequential``."""
    position: int
    build: Callable[[], nn.Module] | None = None
    silent: tuple[str, ...] = ()
    """Parameters of the new module, by their names in it; a block of the model's own knows them."""
    seed: int = 0
    """Of the weights of a block of the model's own, so that they are the same in all processes."""

    @property
    def rebuilds(self) -> bool:
        return self.build is not None

    def prepare(self, draft: Draft) -> None:
        parent = _module(draft, self.parent, self)
        if not isinstance(parent, (nn.ModuleList, nn.Sequential)):
            raise ValueError(f"{self}: can only insert into a ModuleList or a Sequential")
        if whole_number(self.position) is None or not 0 <= self.position <= len(parent):
            raise ValueError(
                f"{self}: there are {len(parent)} modules, so the position is a whole number, at least 0 and at most "
                f"{len(parent)}"
            )
        if draft.parked:
            raise ValueError(f"{self}: the modules behind get other names; wake what is parked first")
        new, silent = self._made(draft.model)
        known, live = dict(new.named_parameters()), {id(p): name for name, p in draft.tensors.items()}
        for name in silent:
            if name not in known:
                raise ValueError(f"{self}: the new module has no parameter {name!r} that could be silent")
            if id(known[name]) in live:
                raise ValueError(
                    f"{self}: {name} of the new module is {live[id(known[name])]} of the model, which would be zero, "
                    "too; build a module with parameters of its own"
                )
        with torch.no_grad():
            for name in silent:
                known[name].zero_()
        for name in self.touched(draft):
            draft.claim(name, self)
        modules = list(parent)
        modules.insert(self.position, new)
        places = {f"{self.parent}.{i}".removeprefix("."): module for i, module in enumerate(modules)}
        draft.exchange(places, self, within=self.parent)

    def _made(self, model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
        """The new module, and its tensors that are to be zero."""
        if self.build is not None:
            if not isinstance(self.silent, (list, tuple)):
                raise ValueError(
                    f"{self}: silent are names of parameters, such as ('out.weight',), not {self.silent!r}"
                )
            return at_home(_built(self, self.build), model), tuple(self.silent)
        if not isinstance(model, Growing) or self.parent != BLOCKS:
            raise ValueError(
                f"{self}: only the {BLOCKS} of a model that builds its own grow without build=..."
            )
        if whole_number(self.seed) is None:
            raise ValueError(f"{self}: the seed is a whole number, not {self.seed!r}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            block = at_home(model.build_block(), model)
        silent: tuple[str, ...] = getattr(block, "silent", ())
        return block, silent

    def touched(self, draft: Draft) -> list[str]:
        """Those whose names change."""
        inside = f"{self.parent}." if self.parent else ""
        return [name for name in draft.tensors if name.startswith(inside)]

    def __str__(self) -> str:
        return f"Insert({self.parent}, {self.position})"


def _module(draft: Draft, name: Any, by: Edit) -> nn.Module:
    """The module of a name; ValueError, with those that come near, where there is none."""
    known = dict(draft.model.named_modules(remove_duplicate=False))
    if not isinstance(name, str) or name not in known:
        near = get_close_matches(str(name), known, n=3) or [n for n in known if n][:3]
        raise ValueError(f"{by}: the model has no module of this name; it has {', '.join(near) or 'none'}")
    return known[name]


def _built(by: Edit, build: Any, *arguments: nn.Module) -> nn.Module:
    """What ``build`` makes; ValueError where it is no function, or makes no module."""
    if not callable(build):
        raise ValueError(f"{by}: build is a function that makes an nn.Module, not {build!r}")
    new = build(*arguments)
    if not isinstance(new, nn.Module):
        raise ValueError(f"{by}: build makes an nn.Module, and gave {new!r}")
    return new


def at_home(new: nn.Module, model: nn.Module) -> nn.Module:
    """A new module on the device, in the type and in the mode of the model that it comes into.

    What it has of the model already stays as it is: a plan that is refused changes nothing.
    """
    like = next(model.parameters(), None)
    parts, tensors = {id(part) for part in model.modules()}, {id(t) for t in tensors_of(model).values()}
    for part in new.modules():
        if id(part) in parts:
            continue
        part.training = model.training
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            if like is not None and id(tensor) not in tensors:
                tensor.data = tensor.data.to(like.device, like.dtype if tensor.is_floating_point() else None)
    return new
