"""Means, differences and medians with their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compressm_cli.reports.estimates import difference, mean, median

NUMBERS = st.floats(-100, 100).map(lambda x: round(x, 6))


def test_one_value_has_no_interval() -> None:
    found = mean([0.9])
    assert (found.value, found.low, found.high, found.count, found.margin) == (0.9, None, None, 1, None)


@given(st.lists(NUMBERS, min_size=2, max_size=10))
def test_mean_agrees_with_scipy(values: list[float]) -> None:
    found = mean(values)
    if np.std(values) == 0:
        assert found.low == found.high == found.value
        return
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found.value == pytest.approx(np.mean(values), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)


@given(
    st.lists(NUMBERS, min_size=2, max_size=8, unique=True),
    st.lists(NUMBERS, min_size=2, max_size=8, unique=True),
)
def test_difference_agrees_with_welch(ours: list[float], theirs: list[float]) -> None:
    found = difference(ours, theirs)
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)


def test_difference_needs_two_values_on_each_side() -> None:
    found = difference([0.9, 0.8, 0.7], [0.5])
    assert math.isclose(found.value, 0.3)
    assert found.low is None
    assert difference([1.0, 1.0], [0.5, 0.5]).margin == 0


def test_median_interval_covers_the_median() -> None:
    # Coverage of the interval, over draws of a skewed distribution whose median is log 2.
    draws = np.random.default_rng(0).exponential(size=(2000, 21))
    found = [median(list(row)) for row in draws]
    covered = np.mean(
        [f.low <= math.log(2) <= f.high for f in found if f.low is not None and f.high is not None]
    )
    assert 0.94 <= covered <= 0.99


def test_median_of_few_values_has_no_interval() -> None:
    assert median([1.0, 2.0, 3.0, 4.0, 5.0]).low is None
    six = median([6.0, 1.0, 2.0, 5.0, 3.0, 4.0])
    assert (six.value, six.low, six.high) == (3.5, 1.0, 6.0)
