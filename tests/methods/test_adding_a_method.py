"""The examples of docs/adding-a-method.md work as they stand there."""

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_kinds import TIME_INVARIANT
from torch import nn

from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.engine.evaluation import calibrate
from compressm_cli.layers import LAYERS
from compressm_cli.methods.method import CheckContext
from compressm_cli.models import build_model
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.structure import surgery

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
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
        step=1, total_steps=10, length=20, generator=torch.Generator(), calibrate=lambda *_: None
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


def test_the_example_of_a_statistic_adds_up_what_a_layer_sees(example: dict[str, Any]) -> None:
    config = SequenceConfig(layer={"kind": "lru", "state_dim": 4}, model_dim=6, depth=2)
    model = build_model(config, DataSpec(classes=3, length=12, features=2))
    lengths = torch.tensor([12, 3, 5, 7, 2])
    split = Split(torch.randn(5, 12, 2), torch.zeros(5, dtype=torch.int64), lengths)
    statistic = example["MeanSquare"]()
    with pytest.raises(ValueError, match="no calibration batches"):
        statistic.result()
    calibrate(model, {"blocks.0.layer": statistic}, [split], 2)
    with torch.no_grad():
        seen = model.blocks[0].norm(model.encoder(split.inputs))
    rows = torch.cat([row[:length] for row, length in zip(seen, lengths, strict=True)])
    torch.testing.assert_close(statistic.result(), rows.double().square().mean(0), rtol=1e-5, atol=1e-6)
