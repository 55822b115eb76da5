"""The delay task: labels are inputs of before, and the noise has the frequencies and the variance that it says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_runs import recipe_in, trained

from compressm_cli.data.delay import Delay

FEW: dict[str, Any] = {"train_rows": 40, "validation_rows": 7, "test_rows": 13}


@pytest.mark.parametrize(
    "options",
    [{}, {"length": 2, "delay": 1}, {"length": 33, "delay": 32}, {"length": 40, "delay": 7, "cutoff": 0.2}],
)
def test_every_label_is_the_input_of_before(options: dict[str, Any]) -> None:
    task = Delay(**FEW, **options)
    data = task.load()
    assert data.spec == task.spec()
    for split, rows in zip((data.train, data.validation, data.test), (40, 7, 13), strict=True):
        assert split.inputs.shape == split.labels.shape == (rows, task.length, 1)
        assert split.labels[:, : task.delay].isnan().all()
        for step in range(task.delay, task.length):
            assert torch.equal(split.labels[:, step], split.inputs[:, step - task.delay])


@pytest.mark.parametrize("length", [64, 65])
@pytest.mark.parametrize("cutoff", [0.5, 0.25, 0.1, 1 / 64])
def test_the_noise_has_variance_one_and_nothing_beyond_the_cutoff(length: int, cutoff: float) -> None:
    noise = Delay(length=length, delay=8, cutoff=cutoff, train_rows=4000).load().train.inputs[..., 0].double()
    # Four standard deviations of the variance of a row, of which the frequencies below the cutoff are independent.
    independent = 4000 * max(1, 2 * int(cutoff * length))
    assert float(noise.square().mean()) == pytest.approx(1.0, abs=4 * (2 / independent) ** 0.5)
    power = np.abs(np.fft.rfft(noise.numpy())) ** 2
    beyond = np.fft.rfftfreq(length) > cutoff
    assert power[:, beyond].sum() <= 1e-10 * power.sum()


def test_rows_depend_on_the_seed_alone_and_fewer_are_the_first() -> None:
    first, again = Delay(**FEW).load(), Delay(**FEW | {"train_rows": 5}).load()
    assert torch.equal(first.train.inputs[:5], again.train.inputs)
    other = Delay(**FEW, split_seed=1).load()
    rows = torch.cat([split.inputs[..., 0] for split in (first.train, first.test, other.train, other.test)])
    assert len(rows.unique(dim=0)) == len(rows)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"length": 8, "delay": 8}, "write a length above 8, or a smaller delay"),
        ({"length": 8, "delay": 2, "cutoff": 0.1}, "write 0.125 or more"),
        ({"cutoff": 0.6}, "less than or equal to 0.5"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Delay(**options)


def test_a_linear_system_of_as_many_states_recalls_it() -> None:
    """A shift register, by least squares on the past values themselves; one state fewer loses one value in them."""
    task = Delay(length=24, delay=6, **FEW)
    data = task.load().train
    noise = data.inputs[..., 0].double().numpy()
    target = data.labels[:, 12:, 0].double().numpy().reshape(-1)
    past = np.stack([noise[:, 12 - back : 24 - back].reshape(-1) for back in range(7)], axis=1)
    for states, error in ((7, 0.0), (6, 1.0)):
        found = np.linalg.lstsq(past[:, :states], target, rcond=None)[0]
        assert np.mean((past[:, :states] @ found - target) ** 2) == pytest.approx(error, abs=0.15)


def test_it_is_learned_as_a_forecast(tmp_path: Path) -> None:
    data = {"task": "delay", "length": 16, "delay": 3, **FEW}
    summary = trained(recipe_in(tmp_path, steps=12, data=data, model={"norm": "layer"})).read_summary()
    assert summary["objective"] == "forecasting"
    assert summary["test"]["labels"] == 13 * 13
    assert 0.1 < summary["test"]["mse"] < 2.0
