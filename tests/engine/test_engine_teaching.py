"""Training with a teacher that the recipe names: what is learned, what it costs, and which teacher it is."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Died, Dying, Maker, trained, trained_once, weights
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as compressm
from compressm_cli.core.errors import BadInputError
from compressm_cli.engine import experiment
from compressm_cli.engine.forecast import forecast
from compressm_cli.engine.teaching import placed, taught
from compressm_cli.engine.view import SilentView
from compressm_cli.measure.flops import inference_flops, training_step_flops
from compressm_cli.measure.memory import held_bytes
from compressm_cli.measure.probe import example_batch
from compressm_cli.recipe import Recipe
from compressm_cli.runs.folder import Run
from compressm_cli.sweeps.folder import _places
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.plan import require_fitting

Same = Callable[[Run, Run], bool]
CUT = {"method": "hankel", "keep_fraction": 0.5, "schedule": {"kind": "listed", "fractions": [0.3]}}


@pytest.fixture
def teacher(tiny: Maker) -> Run:
    return trained_once(tiny(steps=12))


@pytest.fixture
def pupil(tiny: Maker, teacher: Run) -> Callable[..., Recipe]:
    """A recipe that is taught by it."""

    def make(place: Path = teacher.folder, **parts: Any) -> Recipe:
        said = {"kind": "classification", "teacher": {"model": str(place), "weight": 0.7, "temperature": 3.0}}
        model = {"layer": {"kind": "lru", "state_dim": 4}} | parts.pop("model", {})
        return tiny(steps=20, model=model, objective=said, **parts)

    return make


def change_weights(place: Path) -> None:
    """Of the finished model of a run."""
    file = Run(place).final_checkpoint
    other = Checkpoint.load(file)
    name = next(iter(other.weights))
    other.weights[name] = other.weights[name] + 1
    other.save(file)


def test_the_loss_is_that_of_labels_and_teacher(pupil: Callable[..., Recipe], teacher: Run) -> None:
    recipe = pupil()
    data = experiment.load_data(recipe)
    objective = taught(recipe, data.spec, torch.device("cpu"))
    batch = data.train.rows(torch.arange(16))
    outputs = torch.randn(16, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    said = Checkpoint.load(teacher.final_checkpoint).build_model().eval()(batch.inputs, batch.lengths)
    q, p = ((one.double() / 3).softmax(-1) for one in (outputs, said))
    hard = torch.nn.functional.cross_entropy(outputs.double(), batch.labels)
    expected = 0.3 * hard + 0.7 * 9 * (p * (p / q).log()).sum(-1).mean()
    loss = objective.loss(outputs, batch)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    (found,) = torch.autograd.grad(loss, outputs)
    (gradient,) = torch.autograd.grad(expected, outputs)
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-7)


def test_it_changes_what_is_learned_and_not_how_it_is_judged(
    pupil: Callable[..., Recipe], tiny: Maker, same_weights: Same
) -> None:
    run = trained(pupil())
    alone = trained(tiny(steps=20, model={"layer": {"kind": "lru", "state_dim": 4}}))
    assert not same_weights(run, alone)
    summary = run.read_summary()
    assert summary["primary"]["name"] == "accuracy"
    assert compressm(["evaluate", str(run.folder)]) == 0


def test_its_passes_are_counted_and_its_memory_is_foretold(
    pupil: Callable[..., Recipe], teacher: Run, tiny: Maker
) -> None:
    recipe = pupil(compression=CUT)
    known, alone = forecast(recipe), forecast(tiny(steps=20, model=recipe.model.model_dump(mode="json")))
    model = Checkpoint.load(teacher.final_checkpoint).build_model()
    passes = inference_flops(model, example_batch(known.data, 16))
    assert known.training_step_flops == alone.training_step_flops + passes
    assert known.memory.evaluation == alone.memory.evaluation + held_bytes(model)
    summary = trained(recipe).read_summary()
    assert summary["flops"]["training_start_per_step"] == known.training_step_flops
    final = summary["flops"]["training_final_per_step"]
    small = Checkpoint.load(Run.find(Path(recipe.output.root) / "tiny")[-1].final_checkpoint).build_model()
    assert final == training_step_flops(small, example_batch(known.data, 16)) + passes


def test_a_killed_run_goes_on_with_the_same_teacher(pupil: Callable[..., Recipe], same_weights: Same) -> None:
    recipe = pupil(compression=CUT)
    whole = trained(recipe)
    with pytest.raises(Died):
        trained(recipe, view=Dying(14))
    run = Run.find(Path(recipe.output.root) / "tiny")[-1]
    assert run.folder != whole.folder
    experiment.resume(run, recipe, SilentView(), "test")
    assert same_weights(run, whole)


def test_a_teacher_may_be_elsewhere_and_no_other_one(
    pupil: Callable[..., Recipe], tmp_path: Path, teacher: Run, same_weights: Same
) -> None:
    whole = trained(pupil())
    place, moved = tmp_path / "teacher", tmp_path / "moved"
    shutil.copytree(teacher.folder, place)
    recipe = pupil(place)
    with pytest.raises(Died):
        trained(recipe, view=Dying(14))
    run = Run.find(Path(recipe.output.root) / "tiny")[-1]
    place.rename(moved)
    with pytest.raises(BadInputError, match=r"objective\.teacher\.model: .*no such"):
        experiment.resume(run, recipe, SilentView(), "test")
    change_weights(moved)
    changed = [f"objective.teacher.model={moved}"]
    with pytest.raises(BadInputError, match="not the weights that this run began with"):
        experiment.resume(run, recipe, SilentView(), "test", overrides=changed)
    experiment.resume(
        run, recipe, SilentView(), "test", overrides=[f"objective.teacher.model={teacher.folder}"]
    )
    assert same_weights(run, whole)


def test_a_place_is_where_it_was_when_the_run_began(
    pupil: Callable[..., Recipe], tmp_path: Path, teacher: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(teacher.folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    run = trained(pupil(Path("here")))
    # Of a run the very file is kept: a newer run in that folder is another teacher.
    file = tmp_path / "here" / "checkpoints" / "final.pt"
    assert f"model: {file}" in run.recipe_path.read_text(encoding="utf-8")
    assert len(json.loads((run.folder / "run.json").read_text(encoding="utf-8"))["teacher"]) == 32


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"data": {"task": "mnist1d"}}, "reads its inputs otherwise|trained on the task digits"),
        ({"data": {"task": "mqar", "length": 16, "pairs": 2, "vocabulary": 16}}, "made for data with"),
    ],
)
def test_a_model_of_other_data_teaches_nothing(
    pupil: Callable[..., Recipe], parts: dict[str, Any], told: str
) -> None:
    recipe = pupil(**parts)
    with pytest.raises(BadInputError, match=told):
        trained(recipe)
    assert not Path(recipe.output.root).exists()


def test_a_teacher_may_be_of_the_runs_own_name(tiny: Maker) -> None:
    first = trained(tiny(steps=12))
    folder = first.folder.parent
    said = {"kind": "classification", "teacher": {"model": str(folder)}}
    second = trained(tiny(steps=14, objective=said))
    assert second.folder.parent == folder
    assert f"model: {first.final_checkpoint}" in second.recipe_path.read_text(encoding="utf-8")
    (folder / "v0003").mkdir()  # a run that has not begun is none of those that can teach
    assert placed(tiny(steps=14, objective=said)).objective.teacher.model == str(second.final_checkpoint)


def test_a_run_that_is_not_done_teaches_by_name_alone(pupil: Callable[..., Recipe], tiny: Maker) -> None:
    with pytest.raises(Died):
        trained(tiny(steps=20), view=Dying(14))
    run = Run.find(Path(tiny().output.root) / "tiny")[-1]
    with pytest.raises(BadInputError, match="the run is not done"):
        trained(pupil(run.folder))
    trained(pupil(run.last_checkpoints()[-1]))


def test_a_done_run_of_another_teacher_is_not_taken_for_this_one(
    pupil: Callable[..., Recipe], tmp_path: Path, teacher: Run
) -> None:
    place = tmp_path / "teacher"
    shutil.copytree(teacher.folder, place)
    recipe, told = pupil(place), []

    def again() -> Run:
        return experiment.continue_or_start(
            recipe, 0, lambda: experiment.load_data(recipe), SilentView(), "test", told.append
        )

    run = again()
    assert again().folder == run.folder
    job = Job(placed(recipe).model_copy(update={"seeds": [0]}))
    assert job.finished() is not None
    change_weights(place)
    assert job.finished() is None
    assert again().folder != run.folder
    assert any("its teacher has other weights now" in line for line in told)
    shutil.rmtree(place)  # nothing can be said of one that is gone
    assert job.finished() is not None


def test_what_cannot_be_known_of_its_data_is_no_guess(
    pupil: Callable[..., Recipe], teacher: Run, tmp_path: Path
) -> None:
    silent = replace(Checkpoint.load(teacher.final_checkpoint), encoding=None)
    silent.save(tmp_path / "silent.pt")
    with pytest.raises(BadInputError, match="does not say how its data were encoded"):
        forecast(pupil(tmp_path / "silent.pt"))


def test_a_model_is_looked_at_without_the_teacher_that_it_names(
    pupil: Callable[..., Recipe], tmp_path: Path, teacher: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "teacher"
    shutil.copytree(teacher.folder, place)
    run = trained(pupil(place, compression=CUT))
    shutil.rmtree(place)
    for command in (["analyze", "--time", "--no-plots"], ["evaluate"]):
        assert compressm([command[0], str(run.folder), *command[1:]]) == 0
    assert "Without the passes of the teacher" in " ".join(capsys.readouterr().out.split())
    assert (
        compressm(["export", str(run.folder), "--to", "safetensors", "--output", str(tmp_path / "out")]) == 0
    )
    assert (
        compressm(["compress", str(run.folder), "--order", "1", "--output", str(tmp_path / "small.pt")]) == 0
    )
    capsys.readouterr()
    assert compressm(["compare", str(teacher.folder), str(run.folder), "--no-speed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert any(
        "learned from a teacher, and what that one's training cost is not counted" in w
        for w in found["warnings"]
    )
    (differs,) = (w for w in found["warnings"] if "differ in more than compression" in w)
    assert (
        f"objective.teacher: {place}/checkpoints/final.pt (temperature 3, weight 0.7) against absent"
        in differs
    )
    assert differs.count("objective") == 1
    # Both are evaluated by the labels alone.
    (loss,) = (row for row in found["rows"] if row["key"] == "test_loss")
    assert all(value["mean"] is not None for value in loss["values"])


def test_a_search_goes_on_with_it_from_any_folder(
    pupil: Callable[..., Recipe], tmp_path: Path, teacher: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(teacher.folder, tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    recipe = placed(pupil(Path("here")))
    assert f'objective.teacher.model="{tmp_path}/here/checkpoints/final.pt"' in _places(recipe, {})


def test_points_of_a_sweep_are_held_against_their_teachers(
    pupil: Callable[..., Recipe], tmp_path: Path
) -> None:
    require_fitting([pupil()])
    with pytest.raises(BadInputError, match=r"objective\.teacher\.model: .*nowhere"):
        require_fitting([pupil(), pupil(tmp_path / "nowhere")])


def test_the_weights_of_a_teacher_stay(pupil: Callable[..., Recipe], teacher: Run) -> None:
    before = weights(teacher)
    recipe = pupil()
    objective = taught(recipe, experiment.load_data(recipe).spec, torch.device("cpu"))
    (model,) = objective.modules()
    assert not model.training
    found: list[Tensor] = list(model.parameters())
    assert not any(tensor.requires_grad for tensor in found)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("objective={kind: classification, teacher: {model: nowhere}}", "nowhere"),
        ("objective={kind: classification, teacher: {model: x, weight: 1.5}}", "weight: 1.5 is out of range"),
        (
            "objective={kind: classification, teacher: {model: x, temperature: 0}}",
            "temperature: 0 is out of range",
        ),
        ("objective={kind: regression, teacher: {model: x}}", "unknown key"),
    ],
)
def test_what_is_wrong_is_told(
    setting: str, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    settings = [setting, f"output.root={tmp_path}"]
    assert compressm(["train", "quickstart/compressed", *settings]) == 2
    assert told in capsys.readouterr().err
