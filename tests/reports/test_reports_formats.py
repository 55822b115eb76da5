"""Numbers in words."""

import pytest

from compressm_cli.core.quantities import Unit, quantity
from compressm_cli.reports import formats


@pytest.mark.parametrize(
    ("value", "unit", "margin", "text"),
    [
        (0.953, "share", None, "95.3 %"),
        (0.953, "share", 0.0081, "95.3 ± 0.8 %"),
        (0.0, "share", None, "0.0 %"),
        (21578, "count", None, "21,578"),
        (12.3333, "order", None, "12.3"),
        (9.0, "order", 0.0, "9"),
        (51234, "bytes", None, "51.2 kB"),
        (512, "bytes", None, "512 B"),
        (1.234e12, "flops", 2e10, "1.23 ± 0.02 TFLOP"),
        (0.0, "seconds", None, "0.00 µs"),
        (0.0123, "seconds", None, "12.3 ms"),
        (41.04, "seconds", None, "41.0 s"),
        (600.0, "seconds", None, "10.0 min"),
        (36000.0, "seconds", None, "10.0 h"),
        (1500.0, "joules", None, "1.50 kJ"),
    ],
)
def test_quantity(value: float, unit: Unit, margin: float | None, text: str) -> None:
    assert quantity(value, unit, margin) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.3125, "0.31x (3.2 times less)"),
        (0.004, "0.004x (250 times less)"),
        (3.2, "3.20x (3.2 times more)"),
        (0.97, "0.97x (3 % less)"),
        (1.2, "1.20x (20 % more)"),
        (0.9999, "1.00x (under 1 % less)"),
        (1.0, "1x (the same)"),
        (0.0, "0x"),
    ],
)
def test_ratio(value: float, text: str) -> None:
    assert formats.ratio(value) == text


def test_points_have_a_sign_unless_they_are_zero() -> None:
    assert formats.points(0.012) == "+1.2 points"
    assert formats.points(-0.004, -0.012, 0.0) == "-0.4 points (-1.2 to 0.0)"
    assert formats.points(-0.00001) == "0.0 points"
