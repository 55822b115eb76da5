"""Small selective layers of every family, and cuts of every kind, for the tests of layers, reductions and surgery."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressm_cli.layers import LAYERS
from compressm_cli.layers.selective import (
    ChannelProjection,
    GroupProjection,
    HeadProjection,
    SelectiveProjection,
)
from compressm_cli.methods.calibration import Statistic
from compressm_cli.methods.hankel.config import HankelConfig
from compressm_cli.methods.hankel.selective import selective_reduction
from compressm_cli.methods.method import CheckContext

WIDTH, ORDER = 8, 6

CASES: dict[str, dict[str, Any]] = {
    "mamba": {"kind": "mamba"},
    "mamba2": {"kind": "mamba2", "head_dim": 4},
    "mamba2-groups": {"kind": "mamba2", "head_dim": 4, "groups": 2},
    "gla": {"kind": "gla", "heads": 2, "gate_rank": 3},
    "gla-scalar": {"kind": "gla", "heads": 2, "gate_rank": 3, "decay": "scalar"},
}


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def build(
    case: str, dtype: torch.dtype = torch.float64, order: int = ORDER, model_dim: int = WIDTH, **settings: Any
) -> Any:
    """A layer whose parameters all differ from one another: none is left at one or at zero."""
    torch.manual_seed(5)
    kind = CASES[case]["kind"]
    config = LAYERS[kind].Config(**{**CASES[case], **settings})
    layer = LAYERS[kind](config, model_dim, order)
    with torch.no_grad():
        for i, (name, p) in enumerate(layer.named_parameters()):
            size = 0.05 if name in {"A_log", "dt_proj.bias", "dt_bias"} else 0.2
            p.add_(noise(*p.shape, seed=20 + i).float(), alpha=size)
        # Step sizes of around 0.1, so that the states remember some ten steps.
        for name in ("dt_proj.bias", "dt_bias"):
            if name in dict(layer.named_parameters()):
                layer.get_parameter(name).add_(2.0)
    return layer.to(dtype)


@dataclass(frozen=True)
class Cut:
    """A kind of cut, and the layers that have it."""

    kind: str
    cases: tuple[str, ...]

    def projection(self, layer: Any, order: int) -> SelectiveProjection:
        """One that approximates nothing."""
        n = layer.state_dim
        keep = torch.randperm(n, generator=torch.Generator().manual_seed(2))[:order]
        identity = torch.eye(n, dtype=torch.float64)
        if self.kind == "maps":
            groups = getattr(layer, "groups", layer.heads)
            return GroupProjection(noise(groups, order, n, seed=3), noise(groups, order, n, seed=4))
        if self.kind == "coordinates":
            kept = torch.stack([(keep + g).remainder(n).sort().values for g in range(layer.groups)])
            return GroupProjection(identity[kept], identity[kept], kept)
        if self.kind == "heads":
            kept = torch.stack([(keep + h).remainder(n) for h in range(layer.heads)])
            return HeadProjection(kept, noise(layer.heads, order, n, seed=4))
        A = -torch.exp(layer.A_log.detach().double())[:, keep]
        if self.kind == "orders":
            kept = torch.arange(len(A)).remainder(order + 1)
            return ChannelProjection(identity[keep], identity[keep], A, kept)
        shape = (len(A), order, n) if self.kind == "channels" else (order, n)
        return ChannelProjection(noise(*shape, seed=5), noise(*shape, seed=6), 0.9 * A)


CUTS = [
    Cut("shared", ("mamba",)),
    Cut("orders", ("mamba",)),
    Cut("channels", ("mamba",)),
    Cut("maps", ("mamba2", "mamba2-groups", "gla-scalar")),
    Cut("coordinates", ("mamba2", "mamba2-groups")),
    Cut("heads", ("gla",)),
]
PAIRS = [(case, cut) for cut in CUTS for case in cut.cases]
PAIR_IDS = [f"{case}-{cut.kind}" for case, cut in PAIRS]


def reduction(layer: Any, inputs: list[Tensor], variant: str = "default", **settings: Any) -> Any:
    config = HankelConfig(method="hankel", keep_fraction=0.5, variant=variant, **settings)
    found = selective_reduction(layer, config)
    assert found.statistic is not None
    show({"": found.statistic}, {"": inputs})
    found.measure()
    return found


def projection(layer: Any, inputs: list[Tensor], order: int, variant: str = "default") -> Any:
    """What a variant makes of a layer; its random choices have one seed."""
    reduced = reduction(layer, inputs, variant)
    return reduced.variants[reduced.variant](reduced, order, torch.Generator().manual_seed(0))


def output_errors(layer: Any, inputs: list[Tensor], projected: SelectiveProjection) -> float:
    """Relative error of the layer's output after the cut; the layer stays as it is."""
    smaller = copy.deepcopy(layer)
    smaller.set_state_parameters(layer.reduced_parameters(projected))
    with torch.no_grad():
        wrong = sum(float((smaller(u) - layer(u)).square().sum()) for u in inputs)
        return float((wrong / sum(float(layer(u).square().sum()) for u in inputs)) ** 0.5)


def context(inputs: dict[str, list[Tensor]]) -> CheckContext:
    """A check at which the layers see ``inputs``."""
    return CheckContext(1, 1, 8, torch.Generator().manual_seed(0), lambda wanted, _: show(wanted, inputs))


def show(statistics: Mapping[str, Statistic], inputs: dict[str, list[Tensor]]) -> None:
    """Each statistic sees the inputs (batch, length, H) of its layer."""
    for name, statistic in statistics.items():
        for u in inputs[name]:
            statistic.update(u, None)
            statistic.end_batch()
