"""Which learning rates an arm is trained with."""

import pytest

from compressm_cli.studies import rates


@pytest.mark.parametrize(
    ("count", "powers"), [(1, [0]), (2, [0, 1]), (3, [-1, 0, 1]), (4, [-1, 0, 1, 2]), (5, [-2, -1, 0, 1, 2])]
)
def test_a_grid_lies_around_the_recipes_rate(count: int, powers: list[int]) -> None:
    assert rates.start(count) == powers


def test_a_rate_is_known_again_by_its_power() -> None:
    for power in range(-6, 7):
        assert rates.power_of(0.004, rates.rate(0.004, power)) == power
    with pytest.raises(ValueError, match="no power"):
        rates.power_of(0.004, 0.006)


@pytest.mark.parametrize(
    ("values", "higher", "best"),
    [
        ({-1: 0.8, 0: 0.9, 1: 0.7}, True, 0),
        ({-1: 0.8, 0: 0.9, 1: 0.7}, False, 1),
        ({-1: None, 0: 0.5, 1: None}, True, 0),
        ({-1: None, 0: None}, True, None),
        ({}, True, None),
        ({-1: 0.9, 0: 0.9, 1: 0.9}, True, 0),
    ],
)
def test_the_best_rate_has_the_best_mean(
    values: dict[int, float | None], higher: bool, best: int | None
) -> None:
    assert rates.best(values, higher) == best


def search(peak: int, count: int, base: float = 0.004, failing: int = 99) -> dict[int, float | None]:
    """The grid that is tried where the best rate is at this power, and those from ``failing`` on fail."""
    means: dict[int, float | None] = {}
    todo = rates.start(count)
    while todo:
        means |= {power: None if power >= failing else -abs(power - peak) for power in todo}
        further = rates.extension(means, True, count, base)
        todo = [] if further is None else [further]
    return means


def test_a_grid_is_extended_where_its_edge_is_best_until_it_is_not() -> None:
    assert sorted(search(0, 3)) == [-1, 0, 1]
    assert sorted(search(2, 3)) == [-1, 0, 1, 2, 3]
    assert sorted(search(-3, 3)) == [-4, -3, -2, -1, 0, 1]
    assert all(rates.is_bracketed(search(peak, 3), True) for peak in range(-4, 5) if abs(peak) <= 4 - 1)


def test_at_most_four_rates_are_added() -> None:
    found = search(20, 3)
    assert sorted(found) == [-1, 0, 1, 2, 3, 4, 5]
    assert not rates.is_bracketed(found, True)


def test_a_rate_that_fails_is_an_edge_too() -> None:
    found = search(5, 3, failing=2)
    assert sorted(found) == [-1, 0, 1, 2]
    assert rates.is_bracketed(found, True)


def test_no_rate_is_tried_that_no_recipe_may_have() -> None:
    assert sorted(search(9, 3, base=4.0)) == [-1, 0, 1]


def test_a_grid_of_one_is_left_as_it_is() -> None:
    assert sorted(search(2, 1)) == [0]
    assert not rates.is_bracketed(search(2, 1), True)


def test_an_equal_rate_is_not_a_worse_one() -> None:
    """A plateau that goes on at the edge of a grid has not been seen to end."""
    means: dict[int, float | None] = {0: 0.5, 1: 0.5}
    assert rates.best(means, True) == 0
    assert not rates.is_bracketed(means, True)
    assert rates.extension(means, True, 2, 0.004) == 2
    means[2] = 0.4
    assert not rates.is_bracketed(means, True)
    assert rates.extension(means, True, 2, 0.004) == -1
    means[-1] = 0.3
    assert rates.is_bracketed(means, True)
    assert rates.extension(means, True, 2, 0.004) is None
