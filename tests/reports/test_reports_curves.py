"""Curves of runs and their means, and what no other arm beats."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressm_cli.core.errors import BadInputError
from compressm_cli.render.labels import spread
from compressm_cli.reports.curves import Curve, best_at_least_cost, curve, mean_curve, spent_at

LINES = [
    {"step": 10, "train_loss": 3.0},
    {"step": 10, "validation_loss": 2.0, "flops": 100, "seconds": 1.0},
    {"step": 10, "validation_loss": 9.0, "flops": 100, "seconds": 1.5, "after_cut": True},
    {"step": 20, "validation_loss": 1.0, "flops": 150, "seconds": 2.5},
]


def test_a_curve_is_over_what_was_spent() -> None:
    assert curve(LINES, "validation_loss") == Curve([10, 20], [2.0, 1.0])
    assert curve(LINES, "validation_loss", "flops") == Curve([100, 150], [2.0, 1.0])
    assert curve(LINES, "validation_loss", "seconds", after_cuts=True).y == [2.0, 9.0, 1.0]
    assert curve(LINES, "validation_accuracy") == Curve([], [])


def test_what_was_spent_at_a_step_lies_between_evaluations() -> None:
    assert spent_at(LINES, [5, 10, 16], "flops") == [50, 100, 130]
    assert spent_at(LINES, [5, 16], "step") == [5, 16]
    assert spent_at([], [], "flops") == []


def test_a_run_of_an_earlier_version_says_so() -> None:
    old = [{"step": 10, "validation_loss": 2.0}]
    assert curve(old, "validation_loss").x == [10]
    for ask in (lambda: curve(old, "validation_loss", "flops"), lambda: spent_at(old, [5], "seconds")):
        with pytest.raises(BadInputError, match="an earlier version trained it"):
            ask()
    with pytest.raises(BadInputError, match="flops of step 10 must be a number"):
        curve([{**old[0], "flops": "x"}], "validation_loss", "flops")


def test_the_mean_goes_as_far_as_all_curves_do() -> None:
    found = mean_curve([Curve([0, 10, 20], [0, 10, 20]), Curve([5, 15], [0, 0])])
    assert found is not None
    assert found.x == [5, 10, 15]
    assert found.mean == [2.5, 5.0, 7.5]
    assert (found.low, found.high, found.count) == ([0, 0, 0], [5, 10, 15], 2)
    assert mean_curve([Curve([0, 1], [0, 1]), Curve([5, 6], [0, 1])]) is None
    assert mean_curve([Curve([0], [1]), Curve([], [])]) is None


def test_what_nothing_beats() -> None:
    points = [(1.0, 0.5), (2.0, 0.9), (2.0, 0.8), (3.0, 0.7), (4.0, 0.9), (5.0, 0.95)]
    assert best_at_least_cost(points, higher_is_better=True) == [0, 1, 5]
    assert best_at_least_cost(points, higher_is_better=False) == [0]


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.01, 0.2))
def test_names_are_spread_in_their_order(places: list[float], apart: float) -> None:
    moved = spread(places, apart)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for one, other in pairwise(order):
        assert moved[other] - moved[one] >= apart * 0.5
    if all(b - a >= apart for a, b in pairwise(sorted(places))):
        assert moved == pytest.approx(places)
    assert all(place >= 0 for place in moved)
