"""Wall time by phase."""

import pytest
import torch

from compressm_cli.measure import clock
from compressm_cli.measure.clock import Stopwatch


class FakeTime:
    def __init__(self) -> None:
        self.now = 1000.0
        self.waited = 0.0
        """Seconds without a processor."""

    def monotonic(self) -> float:
        return self.now

    def thread_time(self) -> float:
        return self.now - 900.0 - self.waited


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(clock, "time", fake)
    return fake


def test_training_is_what_the_phases_leave(fake_time: FakeTime) -> None:
    watch = Stopwatch(torch.device("cpu"))
    fake_time.now += 10
    with watch.phase("evaluation"):
        fake_time.now += 3
    with watch.phase("compression"):
        fake_time.now += 0.5
    with watch.phase("evaluation"):
        fake_time.now += 1
    assert watch.seconds() == {
        "total": 14.5,
        "training": 10.0,
        "evaluation": 4.0,
        "compression": 0.5,
        "compile": 0.0,
        "checkpoint": 0.0,
    }


def test_a_checkpoint_written_inside_its_phase_holds_the_seconds_so_far(fake_time: FakeTime) -> None:
    watch = Stopwatch(torch.device("cpu"))
    fake_time.now += 5
    with watch.phase("checkpoint"):
        fake_time.now += 2
        state = watch.state_dict()
        fake_time.now += 1
    fake_time.now += 100
    resumed = Stopwatch(torch.device("cpu"))
    resumed.load_state_dict(state)
    fake_time.now += 4
    seconds = resumed.seconds()
    assert (seconds["total"], seconds["training"], seconds["checkpoint"]) == (11.0, 9.0, 2.0)


def test_phases_do_not_nest_and_end_when_they_fail(fake_time: FakeTime) -> None:
    watch = Stopwatch(torch.device("cpu"))

    def nested() -> None:
        with watch.phase("evaluation"):
            fake_time.now += 1
            with watch.phase("checkpoint"):
                fake_time.now += 100

    with pytest.raises(RuntimeError, match="do not nest"):
        nested()
    with watch.phase("checkpoint"):
        fake_time.now += 2
    assert watch.seconds()["evaluation"] == 1.0
    assert watch.seconds()["checkpoint"] == 2.0


def test_an_unknown_phase_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown phase 'tea'"):
        Stopwatch(torch.device("cpu")).phase("tea").__enter__()  # type: ignore[arg-type]


def test_processor_time_is_that_of_training(fake_time: FakeTime) -> None:
    watch = Stopwatch(torch.device("cpu"))
    fake_time.now += 10
    fake_time.waited += 6
    with watch.phase("checkpoint"):
        fake_time.now += 100
        fake_time.waited += 50
        state = watch.state_dict()
    assert (watch.seconds()["training"], watch.training_cpu_seconds()) == (10.0, 4.0)
    resumed = Stopwatch(torch.device("cpu"))
    resumed.load_state_dict(state)
    fake_time.now += 2
    assert resumed.training_cpu_seconds() == 6.0
    assert (
        Stopwatch(torch.device("cuda:0" if torch.cuda.is_available() else "meta")).training_cpu_seconds()
        is None
    )


def test_a_run_of_an_earlier_version_did_not_count_it() -> None:
    watch = Stopwatch(torch.device("cpu"))
    watch.load_state_dict({name: 1.0 for name in ("total", *watch.state_dict()) if name != "training_cpu"})
    assert watch.training_cpu_seconds() is None
    assert watch.state_dict()["training_cpu"] is None
