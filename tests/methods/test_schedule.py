"""When a method looks at the model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from compressm_cli.methods.schedule import (
    AdaptiveSchedule,
    EquidistantSchedule,
    ListedSchedule,
    ScheduleConfig,
    SettlingOrders,
)

fractions = st.floats(0.0, 1.0)
totals = st.integers(1, 5000)


def test_the_papers_default_is_four_checks_in_the_first_tenth() -> None:
    assert EquidistantSchedule().steps(1000) == [25, 50, 75, 100]


def test_equidistant_window_in_steps() -> None:
    assert EquidistantSchedule(until_step=30, count=3).steps(1000) == [10, 20, 30]


def test_equidistant_checks_beyond_the_run_are_left_out() -> None:
    assert EquidistantSchedule(until_step=300, count=3).steps(250) == [100, 200]


@pytest.mark.parametrize(("total", "expected"), [(1, []), (10, [1]), (20, [1, 2]), (40, [1, 2, 3, 4])])
def test_equidistant_in_a_short_run_has_fewer_checks(total: int, expected: list[int]) -> None:
    assert EquidistantSchedule().steps(total) == expected


def test_equidistant_needs_exactly_one_end() -> None:
    with pytest.raises(ValidationError, match="not both"):
        EquidistantSchedule(until=0.1, until_step=30)
    with pytest.raises(ValidationError, match="give until"):
        EquidistantSchedule(until=None)


@given(until=fractions, count=st.integers(1, 50), total=totals)
def test_equidistant_steps_are_distinct_ascending_and_within_the_window(
    until: float, count: int, total: int
) -> None:
    steps = EquidistantSchedule(until=until, count=count).steps(total)
    assert steps == sorted(set(steps))
    assert all(1 <= step <= round(until * total) for step in steps)
    assert len(steps) <= count
    if round(until * total) >= 1:
        assert steps[-1] == round(until * total)


def test_listed_fractions_and_steps() -> None:
    assert ListedSchedule(kind="listed", fractions=[0.5, 0.25, 0.5]).steps(200) == [50, 100]
    assert ListedSchedule(kind="listed", at_steps=[7, 3, 900]).steps(200) == [3, 7]


def test_listed_fraction_zero_is_the_first_step() -> None:
    assert ListedSchedule(kind="listed", fractions=[0.0, 1.0]).steps(3) == [1, 3]


@pytest.mark.parametrize("given_", [{}, {"fractions": [0.1], "at_steps": [4]}])
def test_listed_needs_exactly_one_list(given_: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="exactly one of fractions and at_steps"):
        ListedSchedule(kind="listed", **given_)


def test_adaptive_looks_at_a_fixed_distance() -> None:
    schedule = AdaptiveSchedule(kind="adaptive", every=50, start=0.1, until=0.3)
    assert schedule.steps(1000) == [100, 150, 200, 250, 300]


def test_adaptive_window_without_a_look() -> None:
    assert AdaptiveSchedule(kind="adaptive", start=0.0, until=0.0).steps(1000) == []


def test_adaptive_window_must_be_ordered() -> None:
    with pytest.raises(ValidationError, match="lies after"):
        AdaptiveSchedule(kind="adaptive", start=0.5, until=0.2)


@given(start=fractions, until=fractions, every=st.integers(1, 700), total=totals)
def test_adaptive_looks_lie_in_the_run(start: float, until: float, every: int, total: int) -> None:
    start, until = sorted((start, until))
    steps = AdaptiveSchedule(kind="adaptive", start=start, until=until, every=every).steps(total)
    assert all(1 <= step <= total for step in steps)


def test_the_kind_decides_which_schedule_is_meant() -> None:
    parse = TypeAdapter(ScheduleConfig).validate_python
    assert isinstance(parse({"kind": "adaptive"}), AdaptiveSchedule)
    with pytest.raises(ValidationError):
        parse({"kind": "equidistant", "every": 5})


def test_orders_settle_after_standing_still_for_the_given_looks() -> None:
    settling = SettlingOrders(tolerance=0.1, patience=2)
    looks = [[20, 10], [19, 10], [18, 9], [18, 9]]
    assert [settling.settled(orders) for orders in looks] == [False, False, True, True]


def test_one_moving_layer_keeps_all_waiting() -> None:
    settling = SettlingOrders(tolerance=0.1, patience=1)
    assert [settling.settled(orders) for orders in ([20, 10], [20, 5], [20, 5])] == [False, False, True]


def test_after_a_reset_orders_must_settle_again() -> None:
    settling = SettlingOrders(tolerance=0.0, patience=1)
    settling.settled([4])
    assert settling.settled([4])
    settling.reset()
    assert not settling.settled([4])


def test_the_memory_survives_its_state_dict() -> None:
    settling, other = SettlingOrders(0.0, 2), SettlingOrders(0.0, 2)
    for _ in range(2):
        settling.settled([7, 3])
    other.load_state_dict(settling.state_dict())
    assert other.settled([7, 3])
