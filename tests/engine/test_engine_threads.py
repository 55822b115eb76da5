"""How many CPU threads a run takes."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.engine import experiment, threads
from compressm_cli.engine.load_watch import SECONDS, LoadWatch
from compressm_cli.engine.threads import choose_threads, threads_to_begin, using
from compressm_cli.engine.view import SilentView
from compressm_cli.recipe import Recipe
from compressm_cli.runs.folder import Run

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]


class Heard(SilentView):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A process with eight threads on an idle machine, where a step takes what ``cost`` says of their number."""
    world = SimpleNamespace(cost={}, busy=False, timed=[])

    def seconds(recipe: Recipe, data: Any, orders: Any, counts: tuple[int, int]) -> tuple[float, float]:
        world.timed.append(counts)
        return world.cost[counts[0]], world.cost[counts[1]]

    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(threads, "_seconds", seconds)
    monkeypatch.setattr(threads, "is_busy", lambda: world.busy)
    with using(8):
        yield world


@pytest.mark.parametrize(
    ("cost", "best"),
    [
        ({1: 10.0, 2: 10.0}, 1),  # as fast with one
        ({1: 10.0, 2: 9.0}, 1),  # hardly faster with two
        ({1: 10.0, 2: 100.0}, 1),
        ({1: 10.0, 2: 6.0, 4: 5.9}, 2),
        ({1: 10.0, 2: 6.0, 4: 4.0, 8: 3.0}, 8),
    ],
)
def test_more_are_taken_while_they_pay(
    tiny: Maker, many_threads: Any, cost: dict[int, float], best: int
) -> None:
    many_threads.cost = cost
    recipe = tiny()
    state = torch.get_rng_state()
    assert choose_threads(recipe, recipe.data.spec()) == best
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 8


def test_a_model_is_timed_once_on_an_idle_machine(tiny: Maker, many_threads: Any) -> None:
    many_threads.cost = {1: 10.0, 2: 5.0, 4: 5.0}
    recipe, other = tiny(), tiny(model={"model_dim": 16})
    assert [choose_threads(recipe, recipe.data.spec()) for _ in range(3)] == [2, 2, 2]
    assert many_threads.timed == [(1, 2), (2, 4)]
    choose_threads(other, other.data.spec())
    assert len(many_threads.timed) == 4


def test_a_busy_machine_is_timed_for_this_run_alone(tiny: Maker, many_threads: Any) -> None:
    many_threads.cost, recipe = {1: 10.0, 2: 5.0, 4: 5.0}, tiny()
    assert choose_threads(recipe, recipe.data.spec()) == 2
    many_threads.cost, many_threads.busy = {1: 20.0, 2: 90.0}, True
    assert choose_threads(recipe, recipe.data.spec()) == 1
    many_threads.busy = False
    assert choose_threads(recipe, recipe.data.spec()) == 2


def test_what_is_kept_may_be_damaged_or_of_another_process(
    tiny: Maker, many_threads: Any, tmp_path: Path
) -> None:
    many_threads.cost, recipe = {1: 10.0, 2: 5.0, 4: 5.0}, tiny()
    choose_threads(recipe, recipe.data.spec())
    (path,) = (tmp_path / "cache").iterdir()
    for text in ("", "[]", '{"threads": 0}', '{"threads": 9}', '{"threads": "2"}', '{"threads": true}'):
        path.write_text(text)
        assert choose_threads(recipe, recipe.data.spec()) == 2


def test_a_recipe_may_say_how_many(tiny: Maker, many_threads: Any) -> None:
    recipe = tiny(train={"threads": 3})
    assert choose_threads(recipe, recipe.data.spec()) == 3
    assert threads_to_begin(recipe, recipe.data.spec(), processes=2) == 3
    assert threads_to_begin(tiny(), recipe.data.spec(), processes=2) == 8
    assert many_threads.timed == []


def test_a_run_says_how_many_it_took_and_goes_on_with_them(tiny: Maker, train: Trainer) -> None:
    class Interrupting(Heard):
        def step(self, number: int, *_: Any) -> None:
            assert torch.get_num_threads() == 2
            if number == 5:
                raise KeyboardInterrupt

    recipe = tiny(train={"threads": 2, "checkpoint_every": 4})
    with pytest.raises(KeyboardInterrupt):
        train(recipe, view=Interrupting())
    assert torch.get_num_threads() == 1
    (run,) = Run.find(Path(recipe.output.root) / recipe.name)
    assert run.read_info()["device"]["threads"] == 2
    load = run.read_info()["load"]
    assert load["cores"] == os.cpu_count()
    assert load["average"] is None or len(load["average"]) == 3
    assert Checkpoint.load(run.last_checkpoint(4)).training["threads"] == 2  # type: ignore[index]


@pytest.mark.parametrize(("available", "warned"), [(2, False), (8, False), (1, True)])
def test_a_resumed_run_takes_what_it_had(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch, available: int, warned: bool
) -> None:
    class Interrupting(Heard):
        def step(self, number: int, *_: Any) -> None:
            if number == 5:
                raise KeyboardInterrupt

    recipe = tiny(train={"checkpoint_every": 4})
    monkeypatch.setattr(experiment, "threads_to_begin", lambda *_: 2)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, view=Interrupting())
    (run,) = Run.find(Path(recipe.output.root) / recipe.name)
    view = Heard()
    with using(available):
        experiment.resume(run, recipe, view, "test")
    assert run.read_info()["device"]["threads"] == min(2, available)
    assert any("had 2 CPU threads" in m for m in view.messages) == warned


def test_a_run_that_does_not_get_its_processor_says_so_once() -> None:
    times = SimpleNamespace(wall=0.0, cpu=0.0)
    clock: Any = SimpleNamespace(
        seconds=lambda: {"training": times.wall}, training_cpu_seconds=lambda: times.cpu
    )
    watch = LoadWatch(clock)
    times.wall, times.cpu = SECONDS / 2, 0.1
    assert watch.warning() is None  # too short a time to say
    times.wall, times.cpu = SECONDS, 0.9 * SECONDS
    assert watch.warning() is None
    times.wall, times.cpu = 3 * SECONDS, 1.4 * SECONDS
    assert "4.0 times its processor time" in str(watch.warning())
    times.wall += 100
    assert watch.warning() is None


def test_real_timings_choose_one(tiny: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path))
    monkeypatch.setattr(threads, "SECONDS", 0.0)
    recipe = tiny()
    with using(2):
        assert choose_threads(recipe, recipe.data.spec()) in (1, 2)
