"""What docs/decoding.md says to type works."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import compressm_cli
from compressm_cli.data.interface import DataSpec
from compressm_cli.layers import LAYERS
from compressm_cli.models import SequenceModel
from compressm_cli.models.sequence import SequenceConfig

PAGE = (Path(__file__).parent.parent / "docs" / "decoding.md").read_text(encoding="utf-8")


def test_the_example_decodes_as_whole_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = LAYERS["mamba"].Config(kind="mamba", state_dim=4)
    data = DataSpec(classes=11, length=8, vocabulary=11, per_step=True)
    model = SequenceModel.build(SequenceConfig(layer=layer, model_dim=8), data).eval()
    places: list[str] = []

    def load(place: str) -> nn.Module:
        places.append(place)
        return model

    monkeypatch.setattr(compressm_cli, "load", load)
    example, _ = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "decoding.md", "exec"), names)
    assert places == ["outputs/text_lm/v0001"]
    for row, prompt in enumerate(([5, 2, 9, 4], [7, 3])):
        tokens = list(prompt)
        for _ in range(100):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
        torch.testing.assert_close(
            names["scores"][row], model(torch.tensor([tokens]))[0, -1], rtol=1e-5, atol=1e-5
        )
