"""What is left of a run is used, what is damaged is told, and the last good checkpoint is never deleted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reliability
from tiny_runs import trained_once

from compressm_cli.checkpoint import Checkpoint, verify
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.engine import experiment, loop, saving
from compressm_cli.engine.view import SilentView
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.runs.folder import Run

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]

pytestmark = pytest.mark.usefixtures("rough_flops")


class Told(SilentView):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


class Interrupting(SilentView):
    def evaluation(self, step: int, loss: float, value: float | None) -> None:
        if step == 20:
            raise KeyboardInterrupt


def recipe(tiny: Maker, keep_last: int = 2) -> Recipe:
    every = {"checkpoint_every": 6, "log_every": 5, "eval_every": 5, "form": "recurrent"}
    schedule = {"kind": "listed", "at_steps": [8, 16]}
    cuts = {"method": "hankel", "keep_fraction": 0.6, "schedule": schedule}
    return tiny(compression=cuts, train=every, output={"keep_last": keep_last})


def interrupted(recipe: Recipe, train: Trainer) -> Run:
    with pytest.raises(KeyboardInterrupt):
        train(recipe, view=Interrupting())
    return Run.find(Path(recipe.output.root) / recipe.name)[-1]


def flip(path: Path) -> None:
    """Change one byte of a weight, as a failing disk does."""
    data = bytearray(path.read_bytes())
    value = Checkpoint.load(path).weights["head.weight"].numpy().tobytes()
    data[data.index(value) + 5] ^= 0x10
    path.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "flipped": flip,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(tiny: Maker, train: Trainer, damage: str) -> None:
    made = recipe(tiny)
    whole, part = trained_once(made), interrupted(made, train)
    assert [Checkpoint.load(path).step for path in part.last_checkpoints()] == [12, 18]
    newest, view = part.last_checkpoint(18), Told()
    DAMAGE[damage](newest)
    with pytest.raises(BadInputError, match="not a readable checkpoint"):
        Checkpoint.load(newest)
    experiment.resume(part, load_recipe(part.recipe_path), view, "test")
    (warning,) = [text for text in view.messages if text.startswith("warning")]
    assert f"{newest}: not a readable checkpoint: " in warning
    assert warning.endswith("going on from last-000000012.pt")
    assert list(reliability.differences(whole, part)) == []
    assert part.read_info()["resumed"][0]["step"] == 12


def test_a_run_with_damaged_checkpoints_only_is_left_alone(tiny: Maker, train: Trainer) -> None:
    part = interrupted(recipe(tiny), train)
    for path in part.last_checkpoints():
        path.write_bytes(b"")
    before = {path: path.read_bytes() for path in part.folder.rglob("*.*") if path.is_file()}
    with pytest.raises(BadInputError, match=r"last-000000018.*last-000000012.*begin it again from step 0"):
        experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test")
    assert {path: path.read_bytes() for path in part.folder.rglob("*.*") if path.is_file()} == before


def test_the_older_checkpoint_stays_until_the_newer_one_is_read_back(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(self: Checkpoint, path: Path) -> int:
        size = original(self, path)
        if path.name == "last-000000012.pt":
            path.write_bytes(path.read_bytes()[: size // 2])
        return size

    original = Checkpoint.save
    monkeypatch.setattr(Checkpoint, "save", save)
    made = recipe(tiny, keep_last=1)
    with pytest.raises(RunFailedError, match=r"just written cannot be read back: .*last-000000012"):
        train(made)
    (run,) = Run.find(Path(made.output.root) / made.name)
    assert Checkpoint.load(run.last_checkpoint(6)).training is not None


def test_the_logs_are_on_the_disk_before_a_checkpoint_is(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    for owner, name in ((Run, "sync_logs"), (Checkpoint, "save"), (saving, "verify")):
        original = getattr(owner, name)

        def call(*args: Any, _original: Any = original, _name: str = name) -> Any:
            order.append(_name)
            return _original(*args)

        monkeypatch.setattr(owner, name, call)
    train(tiny(steps=3, train={"checkpoint_every": 2, "eval_every": 3}))
    assert order[:3] == ["sync_logs", "save", "verify"]


def test_what_killed_writes_left_is_removed(tiny: Maker, train: Trainer) -> None:
    part = interrupted(recipe(tiny), train)
    left = [
        part.checkpoints / f".last-000000024.pt.123.{'0a' * 16}",
        part.folder / f".run.json.9.{'ff' * 16}",
    ]
    mine = part.folder / ".notes"
    for path in [*left, mine]:
        path.write_bytes(b"x")
    experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test")
    assert mine.exists()
    assert not any(path.exists() for path in left)


def test_a_run_killed_before_it_could_say_done_is_done(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(steps=2))
    summary = (run.folder / "summary.json").read_bytes()
    run.write_info({**run.read_info(), "status": "running"})
    experiment.resume(run, load_recipe(run.recipe_path), SilentView(), "test")
    assert run.read_info()["status"] == "done"
    assert (run.folder / "summary.json").read_bytes() == summary


def test_a_run_from_another_model_can_be_resumed_from_its_first_moment(tiny: Maker, train: Trainer) -> None:
    made = tiny(steps=4)
    initial = Checkpoint.load(train(tiny(steps=8)).final_checkpoint)
    dataset = experiment.load_data(made)
    whole = experiment.start(made, 0, dataset, SilentView(), "test", initial=initial)
    with pytest.MonkeyPatch.context() as patch:

        def dies(_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(loop.Trainer, "_update", dies)
        with pytest.raises(KeyboardInterrupt):
            experiment.start(made, 0, dataset, SilentView(), "test", initial=initial)
    part = Run.find(Path(made.output.root) / made.name)[-1]
    assert [path.name for path in part.last_checkpoints()] == ["last-000000000.pt"]
    experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test")
    assert list(reliability.differences(whole, part)) == []


def test_verify_names_what_is_wrong(tiny: Maker, train: Trainer, tmp_path: Path) -> None:
    path = train(tiny(steps=2)).final_checkpoint
    verify(path)
    flip(path)
    with pytest.raises(BadInputError, match=r"the checksum of .*data/\d+ is wrong"):
        verify(path)
    with pytest.raises(BadInputError, match="no such checkpoint"):
        verify(tmp_path / "nowhere.pt")
