"""Edits that exchange modules: growing by a block that adds nothing yet, and putting another module in one's place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from compressm_cli.structure.draft import Draft
from compressm_cli.structure.edits import Edit


@dataclass(frozen=True)
class Replace(Edit):
    """Put what ``build`` makes of a module in its place.

    Parameters that both have keep their optimizer state; new ones start anew, in the group of the parameter that had
    their name, or of those of their role. ``build`` may read the module, and must not change it.
    """

    rebuilds: ClassVar[bool] = True
    module: str
    build: Callable[[nn.Module], nn.Module]

    def prepare(self, draft: Draft) -> None:
        try:
            old = draft.model.get_submodule(self.module)
        except AttributeError as error:
            raise ValueError(f"{self}: the model has no module of this name") from error
        if not self.module:
            raise ValueError(f"{self}: a model cannot be put in place of itself; name one of its modules")
        new = _at_home(self.build(old), draft.model)
        for name in self.touched(draft):
            draft.claim(name, self)
            if draft.parked.has(draft.canonical(name)):
                raise ValueError(f"{self}: units of {name} are parked; wake them first")
        draft.exchange({self.module: new})

    def touched(self, draft: Draft) -> list[str]:
        return [name for name in draft.tensors if name.startswith(f"{self.module}.")]

    def __str__(self) -> str:
        return f"Replace({self.module})"


@dataclass(frozen=True)
class Insert(Edit):
    """Put what ``build`` makes into a list of modules, before the one at ``position``, without changing the function.

    The tensors named in ``silent`` are set to zero: those by which the new module adds to the residual stream.
    """

    rebuilds: ClassVar[bool] = True
    parent: str
    """An ``nn.ModuleList`` or ``nn.Sequential``."""
    position: int
    build: Callable[[], nn.Module]
    silent: tuple[str, ...] = ()
    """Parameters of the new module, by their names in it."""

    def prepare(self, draft: Draft) -> None:
        parent = draft.model.get_submodule(self.parent)
        if not isinstance(parent, (nn.ModuleList, nn.Sequential)):
            raise ValueError(f"{self}: can only insert into a ModuleList or a Sequential")
        if not 0 <= self.position <= len(parent):
            raise ValueError(
                f"{self}: there are {len(parent)} modules, so the position is at most {len(parent)}"
            )
        if draft.parked:
            raise ValueError(f"{self}: the modules behind get other names; wake what is parked first")
        new = _at_home(self.build(), draft.model)
        with torch.no_grad():
            for name in self.silent:
                new.get_parameter(name).zero_()
        for name in self.touched(draft):
            draft.claim(name, self)
        modules = list(parent)
        modules.insert(self.position, new)
        draft.exchange({f"{self.parent}.{i}".removeprefix("."): module for i, module in enumerate(modules)})

    def touched(self, draft: Draft) -> list[str]:
        """Those whose names change."""
        inside = f"{self.parent}." if self.parent else ""
        return [name for name in draft.tensors if name.startswith(inside)]

    def __str__(self) -> str:
        return f"Insert({self.parent}, {self.position})"


def _at_home(new: nn.Module, model: nn.Module) -> nn.Module:
    """A new module on the device, in the type and in the mode of the model that it comes into."""
    like = next(model.parameters(), None)
    return (
        new.train(model.training) if like is None else new.to(like.device, like.dtype).train(model.training)
    )
