"""Speed measured side by side."""

import time

import pytest
import torch
from made_runs import tiny_recipe
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.trainee import random_batch
from compressm_cli.models import build_model
from compressm_cli.reports import inference
from compressm_cli.reports.inference import inference_speed, resolve_device

CPU = torch.device("cpu")


class Sleeper(nn.Module):
    """A model that takes a known time, and counts its calls."""

    def __init__(self, seconds: float, calls: list[float]) -> None:
        super().__init__()
        self.seconds, self.calls = seconds, calls

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        time.sleep(self.seconds)
        self.calls.append(self.seconds)
        return inputs


def test_ratio_of_known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "SECONDS", 0.5)
    calls: list[float] = []
    models = [Sleeper(0.008, calls), Sleeper(0.002, calls)]
    report = inference_speed(models, DataSpec(classes=2, length=4, features=1), CPU)
    assert report.batches[0].batch == 1
    assert report.rounds >= 15
    first, second = report.batches[0].ratios
    assert first.value == 1
    assert second.value < 0.6
    assert second.low is not None
    assert second.high is not None
    assert second.low <= second.value <= second.high
    # The measured rounds alternate: runs of the same model are of one length throughout.
    changes = [i for i in range(1, len(calls)) if calls[i] != calls[i - 1]]
    assert len(changes) >= 2 * report.rounds


def test_real_models_within_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "SECONDS", 0.4)
    recipe = tiny_recipe("baseline", 0)
    data = recipe.data.spec()
    models = [build_model(recipe.model, data), build_model(recipe.model, data, {"blocks.0.layer": 1})]
    report = inference_speed(models, data, CPU)
    assert (report.device, report.length) == ("cpu", 64)
    assert all(seconds > 0 for batch in report.batches for seconds in batch.seconds)


def test_tokens_stay_in_the_vocabulary() -> None:
    data = DataSpec(classes=2, length=50, vocabulary=3)
    tokens = random_batch(data, 4, CPU).inputs
    assert tokens.shape == (4, 50)
    assert set(tokens.unique().tolist()) == {1, 2}


def test_device() -> None:
    assert resolve_device("cpu") == CPU
    if not torch.cuda.is_available():
        assert resolve_device("auto") == CPU
        with pytest.raises(BadInputError, match="write --device cpu"):
            resolve_device("cuda")
