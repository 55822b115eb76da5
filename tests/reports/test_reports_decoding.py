"""Decoding measured side by side."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from made_runs import tiny_recipe
from torch import Tensor, nn

from compressm_cli.data.interface import DataSpec
from compressm_cli.layers.state import State
from compressm_cli.models import build_model
from compressm_cli.models.encoder_decoder import EncoderDecoderConfig
from compressm_cli.models.interface import Model
from compressm_cli.reports import decoding
from compressm_cli.reports.decoding import decoding_speed, obstacle

CPU = torch.device("cpu")
DATA = DataSpec(classes=2, length=4, features=1)
PAIRS = DataSpec(classes=7, length=8, vocabulary=7, per_step=True, source=4)


CLOCK: list[float] = []
"""Seconds that went by."""


class Sleeper(Model):
    """A model whose step takes a known time, and that knows the shapes of its prompts."""

    step_obstacle = None

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.prompts = seconds, set[tuple[int, ...]]()

    @classmethod
    def build(cls, config: Any, data: Any, orders: Any = None) -> "Sleeper":
        raise NotImplementedError

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def initial_state(self, batch: int) -> State:
        return State({"h": torch.zeros(batch, 3)})

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        (h,) = state.take(h=(len(inputs), 3))
        CLOCK.append(self.seconds)
        return inputs, State({"h": h})

    def prefill(self, inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        self.prompts.add(tuple(inputs.shape))
        CLOCK.append(3 * self.seconds)
        return inputs[:, -1], self.initial_state(len(inputs))


def mean_seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    began = sum(CLOCK)
    for _ in range(repeats):
        call()
    return (sum(CLOCK) - began) / repeats


def test_ratios_of_known_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "mean_seconds", mean_seconds)
    CLOCK.clear()
    models = [Sleeper(0.25), Sleeper(0.0625)]
    report = decoding_speed(models, DATA, CPU, rounds=5)
    assert models[0].prompts == {(1, 4, 1)}
    assert (report.prompt, report.rounds, report.state_bytes) == (4, 5, [12, 12])
    assert report.first_token_seconds == pytest.approx([0.75, 0.1875])
    assert [ratio.value for ratio in report.first_token_ratios] == pytest.approx([1, 0.25])
    assert [speed.batch for speed in report.batches] == [1, 64]
    for speed in report.batches:
        assert speed.tokens_per_second == pytest.approx([4 * speed.batch, 16 * speed.batch])
        assert [ratio.value for ratio in speed.ratios] == pytest.approx([1, 4])
    # In alternation: the same number of steps of each model in turn.
    steps = [seconds for seconds in CLOCK if seconds in (0.25, 0.0625)]
    changes = sum(a != b for a, b in zip(steps[1:], steps, strict=False))
    assert changes >= 4 * report.rounds


def test_real_models_have_states_by_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SECONDS", 0.1)
    recipe = tiny_recipe("baseline", 0)
    data = recipe.data.spec()
    models = [build_model(recipe.model, data), build_model(recipe.model, data, {"blocks.0.layer": 1})]
    order = models[0].get_submodule("blocks.0.layer").state_dim
    models[0].train()
    report = decoding_speed(models, data, CPU, rounds=3)
    assert models[0].training
    # Real and imaginary parts in float32.
    assert report.state_bytes[0] - report.state_bytes[1] == 8 * (int(order) - 1)
    assert all(speed > 0 for batch in report.batches for speed in batch.tokens_per_second)


def test_what_cannot_be_stepped_is_said() -> None:
    assert obstacle([Sleeper(0.0)]) is None
    assert obstacle([Sleeper(0.0), nn.Linear(1, 1)]) == "Linear has no step by step form"
    told = obstacle([build_model(EncoderDecoderConfig(model_dim=8, depth=1, heads=2), PAIRS)])
    assert told == "a translation has no first step without its source; begin with prefill"
