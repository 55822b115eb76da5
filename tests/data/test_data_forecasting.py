"""Long series that are forecast: windows, what follows each step, stretches in time, and predictions."""

import csv
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from compressm_cli.cli.main import run
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.files import Files

KEYS = {"format": "csv", "feature_columns": ["u", "v"], "time_column": "t", "horizon": 2, "window": 4}


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def table(name, steps, series=("",), shift=0.0):
    lines = [f"{one},{t},{t / 10 + shift},{-t / 10}" for one in series for t in reversed(range(steps))]
    Path(name).write_text("\n".join(["id,t,u,v", *lines]) + "\n")
    return name


def predicted(name):
    """What a trained model says of a file: the values of u that follow each series."""
    assert run(["predict", "outputs/own", name, "--output", f"of-{name}"]) == 0
    with Path(f"of-{name}").open() as file:
        return {row["row"]: [float(row[f"u+{ahead}"]) for ahead in (1, 2, 3)] for row in csv.DictReader(file)}


def test_at_each_step_the_values_of_the_next_steps_are_to_be_said():
    dataset = Files(train=table("rows.csv", 60), target_columns=["u"], **KEYS).load()
    spec = dataset.spec
    assert (spec.per_step, spec.targets, spec.classes, spec.length, spec.features) == (True, 2, 0, 4, 2)
    assert dataset.encoding.outputs.names == ["u+1", "u+2"]
    # Of 48 steps of training 2 are said alone; then 6 and 6, one window each.
    assert dataset.train.inputs.shape == (11, 4, 2)
    assert dataset.train.labels.shape == (11, 4, 2)
    assert dataset.spec.rows == (11, 1, 1)
    with pytest.raises(
        BadInputError, match=r"validation part is 5 steps at most, .* with a horizon of 2 takes 6"
    ):
        Files(train=table("rows.csv", 50), **KEYS).load()


def test_stretches_are_in_order_of_time_and_share_no_step():
    files = Files(train=table("rows.csv", 100), validation=0.2, test=0.2, stride=1, **KEYS)
    dataset = files.load()
    assert dataset.spec.rows == (55, 4, 4)
    assert dataset.encoding.outputs.names == ["u+1", "v+1", "u+2", "v+2"]
    scale = dataset.encoding.inputs.standardization
    assert scale is None
    t = np.round(dataset.train.inputs[:, :, 0].numpy() * 10).astype(int)
    assert t[:2].tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]
    said = np.round(dataset.train.labels.numpy() * 10).astype(int)
    assert (said == np.stack([t + 1, -t - 1, t + 2, -t - 2], axis=2)).all()
    assert said.max() == 59
    assert np.round(dataset.validation.inputs[:, 0, 0].numpy() * 10).tolist() == [60, 64, 68, 72]
    assert np.round(dataset.test.inputs[:, 0, 0].numpy() * 10).tolist() == [80, 84, 88, 92]


def test_standardization_is_that_of_the_training_stretch():
    dataset = Files(train=table("rows.csv", 100, shift=1e6), validation=0.2, test=0.2, **KEYS).load()
    scale = dataset.encoding.inputs.standardization
    np.testing.assert_allclose(scale.mean, [1e6 + np.arange(60).mean() / 10, -np.arange(60).mean() / 10])
    own = dataset.encoding.outputs.decode(dataset.train.labels)
    np.testing.assert_allclose(own[0, 0], [1e6 + 0.1, -0.1, 1e6 + 0.2, -0.2], rtol=1e-9, atol=1e-6)
    assert "in losses, mse and mae 1 is a deviation: 1.732 of 'u', 1.732 of 'v'" in dataset.report.numbers[1]


def test_several_series_and_files_of_their_own():
    train = table("train.csv", 10, ("a", "b"))
    other = table("other.csv", 6, ("c",))
    keys = {**KEYS, "id_column": "id"}
    dataset = Files(train=train, validation=other, test=table("test.csv", 7, ("d",)), **keys).load()
    assert dataset.spec.rows == (4, 1, 1)
    lines = Path(table("test.csv", 7, ("d",))).read_text() + "e,1,0,0\n"
    Path("test.csv").write_text(lines)
    told = Files(train=train, validation=other, test="test.csv", **keys).load().report.left_out
    assert told == {"test": {"series (or parts of them) that are shorter than a window and its horizon": 1}}
    table("other.csv", 5, ("c",))
    with pytest.raises(
        BadInputError, match=r"other.csv: the validation part is 5 steps at most, and a window of 4"
    ):
        Files(train=train, validation="other.csv", test="test.csv", **keys).load()
    table("train.csv", 10, ("a", "a"))
    with pytest.raises(BadInputError, match="rows 10 and 20 both have 0 as 't'"):
        Files(train=train, validation="other.csv", test="test.csv", **keys).load()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": None}, "horizon, window and stride go together"),
        (
            {"horizon": None, "time_column": None, "label_column": "l"},
            "horizon, window and stride go together",
        ),
        (
            {"label_column": "l"},
            "horizon goes with feature_columns, and with target_columns rather than label_column",
        ),
        ({"horizon": 0}, "greater than or equal to 1"),
    ],
)
def test_keys_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        Files(train="rows.csv", **{**KEYS, **change})


def test_a_forecast_is_what_is_said_at_the_last_step():
    table("rows.csv", 100, ("a",), shift=1e6)
    Path("recipe.yaml").write_text(
        "name: own\n"
        "data: {task: files, format: csv, train: rows.csv, validation: 0.2, test: 0.2, feature_columns: ['*'],\n"
        "  target_columns: [u], id_column: id, time_column: t, horizon: 3, window: 8, stride: 1}\n"
        "model: {layer: {kind: lru, state_dim: 4}, model_dim: 4}\n"
        "train: {steps: 2, batch_size: 4, threads: 1, form: recurrent}\n"
    )
    assert run(["train", "recipe.yaml", "--quiet"]) == 0
    Path("new.csv").write_text("id,t,u,v\n" + "".join(f"x,{t},{1e6 + t / 10},0\n" for t in range(8)))
    forecast = predicted("new.csv")["x"]
    assert len(forecast) == 3
    assert all(abs(value - 1e6) < 100 for value in forecast)
    # Of series of unequal lengths each has its own last step.
    lines = [f"y,{t},{1e6 + 9 - t},1\n" for t in range(5)]
    Path("both.csv").write_text(Path("new.csv").read_text() + "".join(lines))
    Path("other.csv").write_text("id,t,u,v\n" + "".join(lines))
    both, alone = predicted("both.csv"), predicted("other.csv")
    assert both.keys() == {"x", "y"}
    np.testing.assert_allclose([both["x"], both["y"]], [forecast, alone["y"]], rtol=1e-9)
    assert not np.allclose(both["x"], both["y"], rtol=1e-8)
