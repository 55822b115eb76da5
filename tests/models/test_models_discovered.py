"""Axes that were found in a network, as plain data: put back as they were, or refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from strangers import STRANGERS
from torch import nn

from compressm_cli.core.axes import DISCOVERED
from compressm_cli.core.expressions import expression_from
from compressm_cli.models.discovered import FoundAxes
from compressm_cli.structure.discovery import discover
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.surgery import apply_edits


class Nested(nn.Module):
    """Sums within products: heads whose queries and gates one map makes, with numbers that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 3, 8
        self.both, self.down = (
            nn.Linear(5, 2 * self.heads * self.width),
            nn.Linear(self.heads * self.width, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.both(x).view(*x.shape[:-1], self.heads, -1).chunk(2, dim=-1)
        y: torch.Tensor = self.down((one * torch.sigmoid(other)).flatten(-2))
        return y


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "nested": (Nested, (torch.randn(2, 4, 5),)),
    **{name: (STRANGERS[name].build, STRANGERS[name].args) for name in ("halves", "crossed", "unet")},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_found_is_put_back_into_a_network_without_memory(name: str) -> None:
    build, args = NETWORKS[name]
    model = build()
    assert discover(model, args).axes
    found = FoundAxes.model_validate(FoundAxes.of(model).model_dump(mode="json"))
    with torch.device("meta"):
        twin = build()
        found.attach(twin)
    one, other = StructureMap.of(model), StructureMap.of(twin)
    assert dict(one.items()) == dict(other.items())
    edits = [Keep(axis, range(one[axis].size - 1)) for axis in one]
    apply_edits(model, None, list(edits))
    apply_edits(twin, None, list(edits))
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in twin.state_dict().items()} == shapes
    assert [vars(m).get("heads") for m in twin.modules()] == [vars(m).get("heads") for m in model.modules()]


def halves() -> dict[str, Any]:
    model = STRANGERS["halves"].build()
    discover(model, STRANGERS["halves"].args)
    return FoundAxes.of(model).model_dump(mode="json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("axes", 0, "size"), 9),
        (("axes", 0, "size"), 0),
        (("axes", 0, "kind"), "limb"),
        (("axes", 0, "units"), "weight"),
        (("axes", 0, "units"), "both.weight"),
        (("axes", 0, "units"), "none._units_of_axis_0"),
        (("tensors", "both.weight"), ["a0", "10"]),
        (("tensors", "both.weight"), ["a1 + a1", "10"]),
        (("tensors", "both.weight"), ["(a0 + a0)", "10*" * 999]),
        (("tensors", "both.weight"), ["__import__('os').system('true')", "10"]),
        (("tensors", "both.weight"), ["22"]),
        (("tensors", "strange"), ["22"]),
        (("roles", "both.weight"), ["own"]),
        (("attributes", "both"), {"in_features": "a0"}),
        (("attributes", "both"), {"forward": "a0"}),
        (("attributes", "strange"), {"in_features": "10"}),
    ],
)
def test_what_is_not_of_the_network_is_refused(path: tuple[Any, ...], value: object) -> None:
    content = halves()
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    model = STRANGERS["halves"].build()
    with pytest.raises((ValueError, ValidationError)):
        FoundAxes.model_validate(content).attach(model)
    assert DISCOVERED not in model.__dict__


@pytest.mark.parametrize(
    "text", ["", "a", "-1", "0", "a0 - 1", "a0/2", "a1", "1.0", "True", "a0(1)", "(" * 400, "a0.size"]
)
def test_other_texts_are_no_expressions(text: str) -> None:
    with pytest.raises(ValueError, match="is no expression"):
        expression_from(text, ["one"])
