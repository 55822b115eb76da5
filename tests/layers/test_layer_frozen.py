"""A layer with some of its parameters frozen: the other gradients are the same to the bit, and there are no more."""

from typing import Any

import pytest
import torch
from layer_kinds import SMALL
from torch import Tensor, nn

from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import StateSpaceLayer, parameter_roles

WIDTH, ORDER = 16, 6
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, SMALL.get(kind, {})) for kind in LAYERS},
    "gla, scalar decay": ("gla", {**SMALL["gla"], "decay": "scalar"}),
}
FORMS = [(case, form) for case, (kind, _) in CASES.items() for form in LAYERS[kind].forms or (None,)]


def build(case: str, form: Any) -> StateSpaceLayer:
    kind, settings = CASES[case]
    torch.manual_seed(5)
    layer = LAYERS[kind](LAYERS[kind].Config(**settings), WIDTH, ORDER)
    layer.form = form
    return layer


def gradients(layer: nn.Module, input_too: bool) -> dict[str, Tensor | None]:
    u = torch.randn(3, 150, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_(input_too)
    layer.zero_grad()
    layer(u).square().sum().backward()
    return {"u": u.grad} | {name: p.grad for name, p in layer.named_parameters()}


@pytest.mark.parametrize("input_too", [True, False])
@pytest.mark.parametrize(
    "frozen",
    [{"recurrent"}, {"matrix"}, {"other"}, {"recurrent", "matrix", "other"}],
    ids=lambda roles: " ".join(sorted(roles)),
)
@pytest.mark.parametrize(("case", "form"), FORMS)
def test_gradients_of_what_is_not_frozen_are_the_same(
    case: str, frozen: set[str], input_too: bool, form: Any
) -> None:
    layer = build(case, form)
    expected, roles = gradients(layer, True), parameter_roles(layer)
    for name, p in layer.named_parameters():
        p.requires_grad_(roles[name] not in frozen)
    asked = {name for name, role in roles.items() if role not in frozen} | ({"u"} if input_too else set())
    if not asked:
        assert layer(torch.zeros(1, 2, WIDTH)).grad_fn is None
        return
    for name, gradient in gradients(layer, input_too).items():
        assert (gradient is not None) == (name in asked), name
        assert gradient is None or torch.equal(gradient, expected[name]), name  # type: ignore[arg-type]
