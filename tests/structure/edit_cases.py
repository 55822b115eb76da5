"""Optimizers that edits must follow, and all that decides how training goes on."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop

from compressm_cli.structure.map import tensors_of
from compressm_cli.structure.store import parked
from compressm_cli.structure.surgery import frozen


class Lion(Optimizer):
    """Chen et al. 2023: the sign of a momentum; one moment a parameter, and no count of steps."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                    p.add_(torch.sign(0.9 * m + 0.1 * p.grad), alpha=-group["lr"])
                    m.lerp_(p.grad, 0.01)


OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": lambda p: AdamW(p, lr=1e-2, weight_decay=0.1),
    "adamw amsgrad": lambda p: AdamW(p, lr=1e-2, amsgrad=True),
    "adamw fused": lambda p: AdamW(p, lr=1e-2, fused=True),
    "adam": lambda p: Adam(p, lr=1e-2),
    "nadam": lambda p: NAdam(p, lr=1e-2),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: RMSprop(p, lr=1e-3, centered=True, momentum=0.5),
    "adagrad": lambda p: Adagrad(p, lr=1e-2),
    "lion": lambda p: Lion(p),
}


def everything(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """All that decides how training goes on, as bits."""
    named = dict(model.named_parameters())
    state = {
        f"{n} {k}": v.clone() if isinstance(v, Tensor) else v
        for n, p in named.items()
        for k, v in optimizer.state.get(p, {}).items()
    }
    order = [[n for p in g["params"] for n, q in named.items() if p is q] for g in optimizer.param_groups]
    tensors = {n: t.detach().clone() for n, t in tensors_of(model).items()}
    return {**tensors, **state, "order": order, "frozen": frozen(model), "parked": parked(model)}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(v, other[k]) if isinstance(v, Tensor) else v == other[k] for k, v in one.items()
    )
