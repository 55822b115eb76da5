"""The example of docs/adding-a-method.md works as it stands there."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_kinds import TIME_INVARIANT
from torch import nn

from compressm_cli.compression import surgery
from compressm_cli.compression.method import CheckContext
from compressm_cli.layers import LAYERS

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(textwrap.dedent(code), str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("kind", TIME_INVARIANT)
def test_the_example_keeps_the_slowest_states(example: dict[str, Any], kind: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind](LAYERS[kind].Config(kind=kind), 3, 6).double()
    model = nn.ModuleList([layer])
    sizes = [system.A.abs().sort(descending=True).values for system in layer.systems()]
    method = example["Slowest"](example["SlowestConfig"]())
    context = CheckContext(
        step=1, total_steps=10, length=20, generator=torch.Generator(), calibrate=lambda _: {}
    )
    for order in (3, 2, 1):
        plan = method.plan(model, context)
        surgery.apply_plan(model, None, plan)
        assert surgery.orders(model) == {"0": order}
        for system, size in zip(layer.systems(), sizes, strict=True):
            torch.testing.assert_close(system.A.abs().sort(descending=True).values, size[:order])
    last = method.plan(model, context)
    assert not last
    assert last.records[0].reason == "nothing cut: a single state is left"
