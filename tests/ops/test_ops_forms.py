"""The cost model: it describes timings of the form that it assumes, and picks what is cheaper."""

import json
from pathlib import Path

import pytest
import torch

from compressm_cli.ops import calibration
from compressm_cli.ops.calibration import PROBLEMS, calibrated, measure
from compressm_cli.ops.forms import DEFAULT, FORMS, CostModel, Form, Problem, terms

CPU = torch.device("cpu")
TRUE = CostModel(
    {"convolution": (3e-3, 2e-9, 1e-9, 4e-9, 5e-10), "recurrent": (5e-4, 1e-9, 2e-8, 1e-10)},
)


@pytest.fixture
def exact_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that takes exactly as long as ``TRUE`` says."""
    monkeypatch.setattr(calibration, "_time", lambda form, problem, *_: TRUE.seconds(form, problem))
    monkeypatch.setattr(calibration, "is_busy", lambda: False)


@pytest.mark.usefixtures("exact_timings")
def test_the_fit_finds_the_constants_of_such_a_machine() -> None:
    fitted = measure(CPU, "fp32")
    for form in FORMS:
        assert fitted.constants[form] == pytest.approx(TRUE.constants[form], rel=1e-6)


def test_real_timings_give_positive_costs_and_leave_the_random_state() -> None:
    state = torch.get_rng_state()
    model = measure(CPU, "fp32")
    assert torch.equal(torch.get_rng_state(), state)
    for form in FORMS:
        assert all(c >= 0 for c in model.constants[form])
        assert all(model.seconds(form, problem) > 0 for problem in PROBLEMS)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (Problem(50, 784, 256, 8, 8), "convolution"),
        (Problem(50, 784, 10, 8, 8), "recurrent"),
        (Problem(8, 1024, 384, 512, 512), "recurrent"),
        (Problem(64, 64, 64, 16, 16), "recurrent"),
    ],
)
def test_the_built_in_costs_know_the_clear_cases(problem: Problem, expected: Form) -> None:
    assert DEFAULT.cheapest(problem) == expected


@pytest.mark.parametrize("form", FORMS)
def test_costs_grow_with_the_problem(form: Form) -> None:
    small = Problem(4, 100, 16, 8, 8)
    for larger in (Problem(8, 100, 16, 8, 8), Problem(4, 200, 16, 8, 8), Problem(4, 100, 32, 8, 8)):
        assert all(b >= a for a, b in zip(terms(form, small), terms(form, larger), strict=True))
        assert DEFAULT.seconds(form, larger) > DEFAULT.seconds(form, small)


@pytest.mark.usefixtures("exact_timings")
def test_a_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path))
    first = calibrated(CPU, "fp32")
    monkeypatch.setattr(calibration, "measure", lambda *_: pytest.fail("measured again"))
    assert calibrated(CPU, "fp32") == first
    with pytest.raises(pytest.fail.Exception):
        calibrated(CPU, "bf16")


@pytest.mark.usefixtures("exact_timings")
@pytest.mark.parametrize("text", ["", "{", "[]", '{"recurrent": []}', '{"convolution": 1, "recurrent": 2}'])
def test_a_damaged_cache_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path))
    expected = calibrated(CPU, "fp32")
    (path,) = tmp_path.iterdir()
    path.write_text(text)
    assert calibrated(CPU, "fp32") == expected
    assert set(json.loads(path.read_text())) == set(FORMS)


@pytest.mark.usefixtures("exact_timings")
def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("COMPRESSM_CACHE", str(blocked / "below"))
    assert calibrated(CPU, "fp32").constants.keys() == set(FORMS)


def test_a_busy_machine_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path))
    monkeypatch.setattr(calibration, "is_busy", lambda: True)
    assert calibrated(CPU, "fp32") is DEFAULT
    assert not list(tmp_path.iterdir())
