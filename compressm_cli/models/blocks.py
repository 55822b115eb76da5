"""What models have in common that have blocks one after the other: they grow by them, and are stepped through them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.layers.interface import state_space_layers
from compressm_cli.layers.state import State
from compressm_cli.models.interface import Model
from compressm_cli.models.norms import has_batch_statistics

MOST_BLOCKS = 256
"""That a model may have."""


class PartsBlock(nn.Module, ABC):
    """A block of parts one after the other, which is stepped through them."""

    @abstractmethod
    def _parts(self) -> Iterator[tuple[str, Any]]:
        """The parts by name, in their order, each with ``initial_state``, ``step`` and ``prefill``."""

    def initial_state(self, batch: int) -> State:
        """The states of its parts before the first time step."""
        return State({name: part.initial_state(batch) for name, part in self._parts()})

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (batch, H) at one time step, and the state of the step before, which is used up."""
        parts = dict(self._parts())
        before, after = state.take_parts(list(parts)), {}
        for (name, part), own in zip(parts.items(), before, strict=True):
            x, after[name] = part.step(x, own)
        return x, State(after)


class BlockModel(Model):
    """A model whose ``blocks`` a recipe describes, so that it can have more of them.

    It has a step by step form where the blocks have ``initial_state``, ``step`` and ``prefill``.
    """

    blocks: nn.ModuleList
    _config: Any = None

    def grow_as(self, config: Any) -> None:
        """Let further blocks be those of a recipe's ``model:``."""
        self._config = config

    def build_block(self) -> nn.Module:
        """A fresh block like the recipe's last; ValueError where there are ``MOST_BLOCKS``, or no recipe is known."""
        if len(self.blocks) >= MOST_BLOCKS:
            raise ValueError(f"the model has {len(self.blocks)} blocks, and may have no more")
        if self._config is None:
            raise ValueError("nothing is known of how blocks of this model are built; give build=...")
        return self.last_block(self._config)

    @classmethod
    @abstractmethod
    def last_block(cls, config: Any) -> nn.Module:
        """A fresh block like the last one of a recipe's ``model:``."""

    @property
    def step_obstacle(self) -> str | None:
        for name, layer in state_space_layers(self).items():
            if not layer.is_steppable:
                return f"{name}, of the kind {type(layer).__name__}, has no step by step form"
        for name, block in self._blocks().items():
            if not _has_steps(block):
                return f"{name}, of the kind {type(block).__name__}, has no step by step form"
        for name, module in self.named_modules():
            hooked = module._forward_hooks or module._forward_pre_hooks
            if hooked and module is not self and _has_steps(module):
                return f"{name} has forward hooks, which a step would pass by; remove them first"
        return None

    def _blocks(self) -> dict[str, Any]:
        return {f"blocks.{i}": block for i, block in enumerate(self.blocks)}

    def _require_steps(self) -> None:
        """ValueError where it cannot be stepped, or not now."""
        if self.step_obstacle is not None:
            raise ValueError(self.step_obstacle)
        self._require_evaluation()

    def _require_evaluation(self) -> None:
        """ValueError in training mode, where that gives other scores."""
        if self.training and (has_batch_statistics(self) or any(map(_drops, self.modules()))):
            raise ValueError(
                "the model is in training mode, with dropout or batch normalization; call eval()"
            )


def _has_steps(module: nn.Module) -> bool:
    return all(callable(getattr(module, name, None)) for name in ("initial_state", "step", "prefill"))


def _drops(module: nn.Module) -> bool:
    """Whether a module has a share of dropout of its own."""
    return isinstance(share := getattr(module, "dropout", 0.0), float) and share > 0
