import numpy as np
import pytest
import torch

from compressm_cli.data.mnist1d import TEMPLATES, Mnist1D

QUIET = {"scale_coeff": 0.0, "corr_noise_scale": 0.0, "iid_noise_scale": 0.0, "shear_scale": 0.0}


def everything(**options):
    dataset = Mnist1D(**options).load()
    splits = (dataset.train, dataset.validation, dataset.test)
    return (
        torch.cat([s.inputs for s in splits])[..., 0].double().numpy(),
        torch.cat([s.labels for s in splits]).numpy(),
    )


@pytest.fixture(scope="module")
def defaults():
    return everything()


def test_classes_are_equal_in_number_and_values_standard(defaults):
    inputs, labels = defaults
    assert np.bincount(labels).tolist() == [2000] * 10
    assert abs(inputs.mean()) < 0.02
    assert abs(inputs.std() - 1.0) < 0.02


def test_the_distribution_is_the_published_one(defaults):
    """Constants measured on 8,000 rows of the authors' generator; the tolerances cover its sampling error."""
    inputs, _ = defaults
    lag_one = np.corrcoef(inputs[:, :-1].ravel(), inputs[:, 1:].ravel())[0, 1]
    assert lag_one == pytest.approx(0.820, abs=0.01)
    quantiles = np.percentile(inputs, [1, 25, 50, 75, 99])
    assert quantiles == pytest.approx([-2.807, -0.542, 0.014, 0.565, 2.750], abs=0.05)


def test_without_distortion_a_row_is_its_template():
    rows = {"train_rows": 40, "validation_rows": 10, "test_rows": 10}
    inputs, labels = everything(padding=[30, 30], max_translation=1, length=42, **rows, **QUIET)
    # 12 + 30 points, neither stretched nor subsampled: the template, then silence.
    for row, label in zip(inputs, labels, strict=True):
        assert np.ptp(row[12:]) < 1e-6
        assert np.corrcoef(row[:12], TEMPLATES[label])[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_translation_moves_the_template_and_no_further_than_allowed():
    rows = {"train_rows": 400, "validation_rows": 10, "test_rows": 10}
    inputs, _ = everything(padding=[30, 30], max_translation=9, length=42, **rows, **QUIET)
    # Templates start at the level of the silence; the next point differs from it in every one.
    level = np.median(inputs, axis=1, keepdims=True)
    first = (np.abs(inputs - level) > 1e-4).argmax(axis=1) - 1
    assert set(first) == set(range(9))


def test_rows_depend_on_the_seed_alone():
    rows = {"train_rows": 50, "validation_rows": 10, "test_rows": 10}
    assert np.array_equal(everything(**rows)[0], everything(**rows)[0])
    assert not np.array_equal(everything(**rows)[0], everything(seed=1, **rows)[0])


def test_length_samples_the_same_signal_more_finely():
    rows = {"train_rows": 50, "validation_rows": 10, "test_rows": 10}
    coarse, fine = everything(length=10, **rows)[0], everything(length=19, **rows)[0]
    for row in range(len(coarse)):
        assert np.corrcoef(coarse[row], fine[row, ::2])[0, 1] == pytest.approx(1.0, abs=1e-6)
