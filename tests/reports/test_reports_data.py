"""What ``compare``, ``analyze`` and ``compress`` do where data are not those that a model was trained on."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import MakeRun, tiny_recipe

from compressm_cli import exchange
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.data.digits import Digits
from compressm_cli.data.interface import Dataset, Fingerprint
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, load_recipe, recipe_from_mapping, recipe_to_yaml
from compressm_cli.render.tables import comparison_markdown
from compressm_cli.reports import Tolerances, compare
from compressm_cli.runs.folder import Run

# ---- compare -------------------------------------------------------------------------------------------------------


def known(run: Run, fingerprint: Fingerprint) -> Run:
    """A run that knows its data."""
    run.write_info({**run.read_info(), "fingerprint": asdict(fingerprint)})
    checkpoint = Checkpoint.load(run.final_checkpoint)
    checkpoint.fingerprint = fingerprint
    checkpoint.save(run.final_checkpoint)
    return run


def digits() -> Fingerprint:
    return tiny_recipe("baseline", 0).data.load().fingerprint


def other(part: str = "train") -> Fingerprint:
    """Of a file of the same name that holds other values."""
    same = digits()
    return replace(same, checksums={**same.checksums, part: "0" * 32})


def test_the_same_data_are_compared(make_run: MakeRun) -> None:
    sides = [known(make_run(), digits()), known(make_run("small", orders=(3, 1)), digits())]
    report = compare(sides[0].folder, [sides[1].folder], speed=False)
    assert report.warnings == []
    assert report.row("test_accuracy").changes[1] is not None
    assert report.agreement[1] is not None
    assert report.agreement[1].share is not None


@pytest.mark.parametrize("checkpoints", [False, True])
def test_other_data_of_the_same_name_are_not_comparable(make_run: MakeRun, checkpoints: bool) -> None:
    sides = [known(make_run(), digits()), known(make_run("small", orders=(3, 1)), other())]
    paths = [run.final_checkpoint if checkpoints else run.folder for run in sides]
    limits = Tolerances(points=50.0, at_most={"test_loss": 9.0, "total_order": 1.0})
    report = compare(paths[0], paths[1:], speed=False, tolerances=limits)
    differ = "train: other values in the 1,077 rows"
    told = f"small and baseline have different data, so their accuracies cannot be compared: {differ}"
    assert told in report.warnings
    for key in ("test_accuracy", "validation_accuracy", "test_loss"):
        assert report.row(key).changes[1] is None
        assert report.row(key).apart == [None, f"trained on other data: {differ}"]
    assert report.row("total_order").changes[1].ratio == 0.25  # type: ignore[union-attr]
    assert [(t.found, t.holds) for t in report.tolerances] == [
        ("not comparable", False), ("not comparable", False), ("0.25x", True),
    ]  # fmt: skip
    assert report.broken
    assert (
        report.verdict[0]
        == f"small against baseline: accuracies not comparable: trained on other data: {differ}."
    )
    assert report.agreement[1] is not None
    assert report.agreement[1].reason == "the two were trained on different data"
    page = comparison_markdown(report)
    assert page.count("not comparable [") == 3
    assert f"trained on other data: {differ}" in page


def test_the_seeds_of_a_side_must_have_the_same_data(make_run: MakeRun) -> None:
    for seed in (0, 1):
        base = known(make_run(seed=seed), digits())
        small = known(make_run("small", seed=seed, orders=(3, 1)), other() if seed else digits())
    report = compare(base.folder.parent, [small.folder.parent], speed=False)
    assert any(w.startswith("small: seeds 0 and 1 have different data, so") for w in report.warnings)
    assert report.row("test_accuracy").changes[1] is None


def test_the_same_data_may_lie_elsewhere(make_run: MakeRun) -> None:
    """What the data are decides where it is known, not what the recipes call them."""
    base, small = known(make_run(), digits()), known(make_run("small", orders=(3, 1)), digits())
    recipe = load_recipe(small.recipe_path)
    moved = recipe.model_copy(update={"data": Digits(split_seed=0, upsample=2)})
    small.recipe_path.write_text(recipe_to_yaml(moved))
    report = compare(base.folder, [small.folder], speed=False)
    assert report.warnings == []
    assert report.row("test_accuracy").changes[1] is not None


def test_predictions_are_made_on_the_rows_that_the_runs_were_judged_on(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = [known(make_run(), digits()), known(make_run("small", orders=(3, 1)), digits())]
    original = Digits.load

    def changed(task: Digits) -> Dataset:
        found = original(task)
        return replace(found, test=replace(found.test, inputs=found.test.inputs + 1))

    monkeypatch.setattr(Digits, "load", changed)
    report = compare(sides[0].folder, [sides[1].folder], speed=False)
    assert report.agreement[1] is not None
    assert report.agreement[1].share is None
    assert report.agreement[1].reason == (
        f"the data are no longer those of {sides[0].folder}: test: other values in the 360 rows"
    )
    assert report.row("test_accuracy").changes[1] is not None  # as the runs have found it


# ---- analyze and compress --------------------------------------------------------------------------------------------


def text_recipe(path: str, **changes: Any) -> Recipe:
    return recipe_from_mapping(
        {
            "name": "text",
            "data": {"task": "text_lm", "path": path, "length": 16},
            "model": {"layer": {"kind": "mamba", "state_dim": 4}, "model_dim": 4},
            "train": {"steps": 2, "batch_size": 4, **changes},
            "compression": {"method": "none"},
        },
        "test",
    )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model that was trained on text.txt; the current folder has that file, and other.txt."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("a cat sat on a mat. " * 100)
    Path("other.txt").write_text("two dogs ran off. " * 120)
    recipe = text_recipe("text.txt").located()
    torch.manual_seed(0)
    data = recipe.data.load()
    made = build_model(recipe.model, data.spec)
    path = tmp_path / "model.pt"
    Checkpoint.of(made, recipe, data.spec, 2, fingerprint=data.fingerprint).save(path)
    return path


def commands(model: Path, tmp_path: Path) -> dict[str, list[str]]:
    analyze = ["analyze", str(model), "--json", "--no-plots"]
    compress = ["compress", str(model), "--order", "2", "--json", "--output", str(tmp_path / "small.pt")]
    return {"analyze": analyze, "compress": compress}


@pytest.mark.parametrize("name", ["analyze", "compress"])
def test_a_model_is_looked_at_on_its_own_data(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    given, text = commands(model, tmp_path)[name], tmp_path / "text.txt"
    known = text.read_text()
    text.write_text(known.replace("cat", "rat"))
    assert command(given) == 2
    assert capsys.readouterr().err == (
        f"error: {text}: these are not the data that the model was trained on: train: other values in the 112 rows; "
        "validation: other values in the 6 rows; test: other values in the 6 rows; put them back as they were, or "
        "say which data to take with data.KEY=VALUE\n"
    )
    assert not (tmp_path / "small.pt").exists()
    text.write_text(known)
    assert command(given) == 0
    assert json.loads(capsys.readouterr().out)["data"] == f"{text} (the same as the model was trained on)"


@pytest.mark.parametrize("name", ["analyze", "compress"])
def test_other_data_are_taken_where_they_are_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert command([*commands(model, tmp_path)[name], "data.path=other.txt"]) == 0
    told = json.loads(capsys.readouterr().out)["data"]
    known = f"{tmp_path / 'other.txt'} (other than the model was trained on: train: 121 rows instead of 112; "
    assert told.startswith(known)
    if name == "compress":  # and the small model is known by what its recipe names
        small = Checkpoint.load(tmp_path / "small.pt")
        assert small.recipe.data.path == str(tmp_path / "other.txt")
        assert small.fingerprint == small.recipe.data.load().fingerprint


def test_it_is_told_in_the_tables(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given in commands(model, tmp_path).values():
        assert command([part for part in given if part != "--json"]) == 0
        assert "text.txt (the same as the model was trained on)" in " ".join(capsys.readouterr().out.split())


def test_where_no_data_were_needed_none_are_named(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["analyze", str(make_run().folder), "--no-plots", "--json", "compression.gramian=analytic"]
    assert command(given) == 0
    assert json.loads(capsys.readouterr().out)["data"] is None


def test_a_model_that_does_not_know_its_data_says_so(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint.load(model)
    checkpoint.fingerprint = None
    checkpoint.save(model)
    for given in commands(model, tmp_path).values():
        assert command(given) == 0
        told = json.loads(capsys.readouterr().out)["data"]
        assert (
            told
            == f"{tmp_path / 'text.txt'} (not known whether the model was trained on the same: it does not say)"
        )


def test_an_exported_model_knows_its_data(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert command(["export", str(model), "--to", "safetensors", "--output", str(out)]) == 0
    assert exchange.load(out).fingerprint == Checkpoint.load(model).fingerprint is not None
    (tmp_path / "text.txt").write_text("something else, " * 100)
    capsys.readouterr()
    assert command(["analyze", str(out), "--no-plots"]) == 2
    assert "not the data that the model was trained on" in capsys.readouterr().err


def test_what_a_small_model_is_trained_on_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe that is named for it may have other data, which the run then knows."""
    recovery = text_recipe("other.txt").model_copy(update={"name": "recovered"})
    (tmp_path / "recover.yaml").write_text(recipe_to_yaml(recovery))
    assert command([*commands(model, tmp_path)["compress"], "--recover", "recover.yaml"]) == 0
    shown = capsys.readouterr()
    assert f"training on: {tmp_path / 'other.txt'} (other than the model was trained on: " in shown.err
    run = Run.open(Path(shown.out.splitlines()[-1]))
    known = load_recipe(run.recipe_path).data.load().fingerprint
    assert Checkpoint.load(run.final_checkpoint).fingerprint == known
    assert run.read_info()["fingerprint"]["checksums"] == known.checksums
