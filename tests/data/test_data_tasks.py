"""What every task promises, over the dictionary of tasks."""

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from compressm_cli.data import TASKS

WITHOUT_NETWORK = {
    "digits": {},
    "mnist1d": {"train_rows": 200, "validation_rows": 30, "test_rows": 50},
    "listops": {"min_length": 5, "max_length": 40, "train_rows": 90, "validation_rows": 20, "test_rows": 10},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", TASKS)
def test_a_task_carries_its_name_and_describes_its_fields(name):
    fields = TASKS[name].model_fields
    assert fields["task"].default == name
    assert all(field.description for key, field in fields.items() if key != "task")


@pytest.mark.parametrize(("name", "options"), WITHOUT_NETWORK.items())
def test_the_description_agrees_with_the_rows(name, options):
    config = TASKS[name](**options)
    spec, dataset = config.spec(), config.load()
    assert dataset.spec == spec
    assert tuple(len(s) for s in (dataset.train, dataset.validation, dataset.test)) == spec.rows
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.inputs.is_contiguous()
        assert split.inputs.shape[:2] == (len(split), spec.length)
        assert split.labels.dtype == torch.int64
        assert split.labels.min() >= 0
        assert split.labels.max() < spec.classes
        batch = split.rows(torch.arange(5))
        if spec.vocabulary is None:
            assert batch.inputs.dtype == torch.float32
            assert batch.inputs.shape == (5, spec.length, spec.features)
        else:
            assert batch.inputs.dtype == torch.int64
            assert batch.inputs.shape == (5, int(batch.lengths.max()))
            assert batch.inputs.max() < spec.vocabulary


@pytest.mark.parametrize(
    ("name", "length", "features", "vocabulary", "rows"),
    [
        ("smnist", 784, 1, None, (54_000, 6_000, 10_000)),
        ("scifar", 1024, 3, None, (45_000, 5_000, 10_000)),
        ("imdb", 4096, None, 257, (22_500, 2_500, 25_000)),
        ("listops", 1999, None, 16, (96_000, 2_000, 2_000)),
        ("mnist1d", 40, 1, None, (16_000, 2_000, 2_000)),
    ],
)
def test_large_sets_are_described_without_reading_them(name, length, features, vocabulary, rows):
    spec = TASKS[name]().spec()
    assert (spec.length, spec.features, spec.vocabulary, spec.rows) == (length, features, vocabulary, rows)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits", {"upsample": 0}),
        ("digits", {"rotate": 1}),
        ("mnist1d", {"padding": [60, 36]}),
        ("mnist1d", {"length": 1}),
        ("listops", {"min_length": 99, "max_length": 100}),
        ("imdb", {"max_length": 0}),
        ("smnist", {"split_seed": -1}),
    ],
)
def test_bad_options_are_refused(name, options):
    with pytest.raises(ValidationError):
        TASKS[name](**options)


def test_importing_the_tasks_is_light():
    heavy = ["datasets", "pandas", "pyarrow", "PIL", "numba", "scipy"]
    code = f"import sys, compressm_cli.data; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
