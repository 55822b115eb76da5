"""What a run that goes on does where its data are not those that it was trained on, and where they lie elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import main
from compressm_cli.data.mnist1d import Mnist1D
from compressm_cli.engine import loop
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_yaml
from compressm_cli.runs.folder import Run

Maker = Callable[..., Recipe]

pytestmark = pytest.mark.usefixtures("rough_flops")

ROWS = [f"{i % 7},{i % 3},{'dog' if i % 2 else 'cat'}" for i in range(40)]
TASK = {
    "task": "files", "format": "csv", "train": "rows.csv", "validation": "held.csv",
    "feature_columns": ["a", "b"], "label_column": "y",
}  # fmt: skip


def write(path: Path, rows: list[str]) -> None:
    path.write_text("\n".join(["a,b,y", *rows]))


def dying(step: int) -> Any:
    """Training that ends like a killed process after some steps."""
    original, left = loop.Trainer._update, [step]

    def update(trainer: loop.Trainer) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        original(trainer)

    return update


@pytest.fixture
def begun(tiny: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of three of its six steps, begun in the folder that has the data and the recipe."""
    return begin(tmp_path, tiny(steps=6, train={"checkpoint_every": 2}, data=TASK), monkeypatch)


def begin(folder: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, step: int = 3) -> Run:
    write(folder / "rows.csv", ROWS)
    write(folder / "held.csv", ROWS[:10])
    (folder / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    monkeypatch.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_update", dying(step))
        assert main.run(["train", "recipe.yaml", "--quiet"]) == 130
    return Run.find(Path(recipe.output.root) / "tiny")[-1]


def content(run: Run) -> dict[str, bytes]:
    """All files of a run folder."""
    return {str(p): p.read_bytes() for p in sorted(run.folder.rglob("*")) if p.is_file()}


def other_value(folder: Path) -> None:
    write(folder / "held.csv", ["9,9,cat", *ROWS[1:10]])


def more_rows(folder: Path) -> None:
    write(folder / "rows.csv", [*ROWS, *ROWS[:10]])


def new_class(folder: Path) -> None:
    write(folder / "rows.csv", [*ROWS[:-1], "1,1,zebra"])


CHANGES = [
    (other_value, "validation: other values in the 10 rows"),
    (more_rows, "train: 45 rows instead of 36; test: 5 rows instead of 4"),
    (new_class, "3 classes instead of 2; the class 'zebra' is new"),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
@pytest.mark.parametrize("automatic", [False, True])
def test_other_data_are_refused(
    begun: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    told: str,
    automatic: bool,
) -> None:
    change(tmp_path)
    before = content(begun)
    given = ["recipe.yaml", "--auto-resume"] if automatic else ["--resume", str(begun.folder)]
    assert main.run(["train", *given, "--quiet"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        f"error: {begun.folder}: {tmp_path / 'rows.csv'} and {tmp_path / 'held.csv'}: these are not"
    )
    assert f"the data that this run was trained on: {told}" in error
    assert "put them back as they were, or name where they are with data.train=PATH" in error
    assert f"begin a new run: compressm train {begun.recipe_path}" in error
    assert content(begun) == before
    assert len(Run.find(begun.folder.parent)) == 1

    write(tmp_path / "rows.csv", ROWS)
    write(tmp_path / "held.csv", ROWS[:10])
    assert main.run(["train", *given, "--quiet"]) == 0
    assert begun.read_info()["status"] == "done"


def test_a_run_goes_on_from_any_folder(begun: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another file of that name lies."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write(Path("rows.csv"), ROWS[::-1])
    write(Path("held.csv"), ROWS[10:20])
    assert load_recipe(begun.recipe_path).data.places() == {
        "train": str(tmp_path / "rows.csv"),
        "validation": str(tmp_path / "held.csv"),
    }
    assert main.run(["train", "--resume", str(begun.folder), "--quiet"]) == 0


def test_the_same_data_may_have_moved(
    begun: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "moved").mkdir()
    for name in ("rows.csv", "held.csv"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    monkeypatch.chdir(tmp_path / "moved")
    given = ["train", "--resume", str(begun.folder), "--quiet"]
    assert main.run(given) == 2
    told = f"{tmp_path / 'rows.csv'}: no such file; where it has moved, write data.train=NEWPATH"
    assert told in capsys.readouterr().err
    assert main.run([*given, "data.train=rows.csv", "data.validation=rows.csv"]) == 2
    assert "must be different" in capsys.readouterr().err
    assert main.run([*given, "data.train=rows.csv", "data.validation=held.csv", "data.split_seed=1"]) == 2
    assert "data.split_seed: a run that has begun goes on with its own" in capsys.readouterr().err
    assert main.run([*given, "data.train=rows.csv", "data.validation=held.csv"]) == 0
    places = {
        "train": str(tmp_path / "moved" / "rows.csv"),
        "validation": str(tmp_path / "moved" / "held.csv"),
    }
    assert load_recipe(begun.recipe_path).data.places() == places
    assert Checkpoint.load(begun.final_checkpoint).recipe.data.places() == places
    assert begun.read_info()["resumed"][0]["changed"]["data.train"] == {
        "from": str(tmp_path / "rows.csv"),
        "to": places["train"],
    }


def test_run_and_checkpoints_know_their_data(begun: Run) -> None:
    known = load_recipe(begun.recipe_path).data.load().fingerprint
    assert Checkpoint.load(begun.last_checkpoints()[-1]).fingerprint == known
    told = begun.read_info()["fingerprint"]
    assert told["checksums"] == known.checksums
    assert told["class_names"] == ["cat", "dog"]
    assert told["spec"]["rows"] == [36, 10, 4]


@pytest.mark.parametrize("where", ["checkpoint", "run"])
def test_either_is_enough(begun: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str) -> None:
    if where == "run":
        forget(begun.last_checkpoints()[-1])
    else:
        info = begun.read_info()
        del info["fingerprint"]
        begun.write_info(info)
    other_value(tmp_path)
    assert main.run(["train", "--resume", str(begun.folder), "--quiet"]) == 2
    assert "validation: other values" in capsys.readouterr().err


def forget(path: Path) -> None:
    """Make a checkpoint one of an older version."""
    saved = torch.load(path, weights_only=True)
    del saved["fingerprint"]
    torch.save(saved, path)


def test_a_run_of_an_older_version_goes_on_and_learns_its_data(
    begun: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forget(begun.last_checkpoints()[-1])
    info = begun.read_info()
    del info["fingerprint"]
    begun.write_info(info)
    moved = ["train", "--resume", str(begun.folder), f"data.train={tmp_path / 'rows2.csv'}"]
    assert main.run(moved) == 2
    assert "does not say which data it was trained on" in capsys.readouterr().err
    assert main.run(["train", "--resume", str(begun.folder)]) == 0
    assert (
        "does not say which data it was trained on; these are taken for the same" in capsys.readouterr().err
    )
    known = load_recipe(begun.recipe_path).data.load().fingerprint
    assert Checkpoint.load(begun.final_checkpoint).fingerprint == known
    assert begun.read_info()["fingerprint"]["checksums"] == known.checksums


def test_a_run_without_a_checkpoint_keeps_to_its_data(
    tiny: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = begin(tmp_path, tiny(steps=6, train={"checkpoint_every": 5}, data=TASK), monkeypatch)
    assert run.last_checkpoints() == []
    logged = run.read_metrics()
    other_value(tmp_path)
    assert main.run(["train", "--resume", str(run.folder), "--quiet"]) == 2
    assert "validation: other values" in capsys.readouterr().err
    assert run.read_metrics() == logged


def test_another_generator_is_noticed(
    tiny: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"train_rows": 40, "validation_rows": 10, "test_rows": 10}
    recipe = tiny(steps=6, train={"checkpoint_every": 2}, data={"task": "mnist1d", **sizes})
    run = begin(tmp_path, recipe, monkeypatch)
    original = Mnist1D.load
    monkeypatch.setattr(
        Mnist1D, "load", lambda task: original(task.model_copy(update={"seed": task.seed + 1}))
    )
    assert main.run(["train", "--resume", str(run.folder), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert (
        "the task mnist1d does not give the data that this run was trained on: train: other values" in error
    )
    assert "go on where the versions are those of its run.json" in error


def test_a_damaged_record_is_told(begun: Run, capsys: pytest.CaptureFixture[str]) -> None:
    forget(begun.last_checkpoints()[-1])
    info = begun.read_info()
    info["fingerprint"]["checksums"]["train"] = "x"
    (begun.folder / "run.json").write_text(json.dumps(info))
    assert main.run(["train", "--resume", str(begun.folder), "--quiet"]) == 2
    assert "run.json: fingerprint.checksums['train'] must be a checksum" in capsys.readouterr().err
