"""Entries of parameters that are held at zero: masks, which are buffers beside the parameters that they mask."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PREFIX = "_keep_"
"""A mask of ``weight`` is the buffer ``_keep_weight`` of its module, which no state dictionary has."""


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """The masks in force, by parameter name: true where entries are kept."""
    return {name: mask for name, _, mask in _masked(model)}


def set_mask(model: nn.Module, name: str, keep: Tensor | None) -> None:
    """Hold the entries of a parameter outside ``keep``, of its shape and on its device, at zero; None lifts the mask.

    Nothing becomes zero before ``enforce_masks``.
    """
    place, _, leaf = name.rpartition(".")
    module = model.get_submodule(place)
    if keep is not None:
        module.register_buffer(PREFIX + leaf, keep, persistent=False)
    elif PREFIX + leaf in module._buffers:
        delattr(module, PREFIX + leaf)


def set_masks(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Have these masks, on the devices of their parameters, and no others."""
    for name in masks_of(model):
        set_mask(model, name, None)
    for name, keep in kept.items():
        set_mask(model, name, keep.to(model.get_parameter(name).device))


@dataclass
class Held:
    """The parameters of a model, in their order, and those of them that have a mask: all that a step asks for.

    One walk through the modules finds both; it holds until a module or a mask comes or goes.
    """

    parameters: list[nn.Parameter]
    masked: list[tuple[nn.Parameter, Tensor]]

    @classmethod
    def of(cls, model: nn.Module) -> "Held":
        # A step of a small network is short: this takes half as long as ``parameters`` alone.
        parameters: dict[int, nn.Parameter] = {}
        masked, modules = [], [model]
        while modules:
            module = modules.pop()
            for parameter in module._parameters.values():
                if parameter is not None:
                    parameters[id(parameter)] = parameter
            for leaf, mask in module._buffers.items():
                if leaf.startswith(PREFIX) and mask is not None:
                    masked.append((module._parameters[leaf.removeprefix(PREFIX)], mask))
            if module._modules:
                modules += [m for m in reversed(module._modules.values()) if m is not None]
        return cls(list(parameters.values()), masked)  # type: ignore[arg-type]

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Take the gradients of masked entries out, which must not count where gradients are clipped."""
        for parameter, keep in self.masked:
            if parameter.grad is not None:
                parameter.grad.mul_(keep)

    @torch.no_grad()
    def enforce_masks(self) -> None:
        """Set what is masked to zero again; the loop calls it after each optimizer step."""
        for parameter, keep in self.masked:
            parameter.mul_(keep)


def enforce_masks(model: nn.Module) -> None:
    """``Held.enforce_masks`` of a model."""
    Held.of(model).enforce_masks()


def mask_gradients(model: nn.Module) -> None:
    """``Held.mask_gradients`` of a model."""
    Held.of(model).mask_gradients()


def own_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers of a model that are no masks, by name."""
    return {n: b for n, b in model.named_buffers() if not n.rpartition(".")[2].startswith(PREFIX)}


def _masked(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, parameter and mask of each parameter that has one."""
    for place, module in model.named_modules():
        for leaf, mask in module._buffers.items():
            if leaf.startswith(PREFIX) and mask is not None:
                name = leaf.removeprefix(PREFIX)
                parameter = module._parameters[name]
                assert parameter is not None
                yield f"{place}.{name}" if place else name, parameter, mask
