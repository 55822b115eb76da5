"""From hidden tokens to classes: a run begins with the body of another one, and refuses what is no body of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import count_roughly, killed, recipe_in, rough_flops, trained, trained_once, weights

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.engine import experiment
from compressm_cli.engine.forecast import forecast
from compressm_cli.engine.inheriting import inherited
from compressm_cli.engine.view import SilentView
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.runs.folder import Run

__all__ = ["rough_flops"]

ENCODER = {
    "kind": "encoder", "heads": 2, "model_dim": 8, "depth": 1, "positions": "learned", "context": 40
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("rough_flops")


def table(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    lines = [f"{'good' if n % 2 else 'bad'} film {n},{'yes' if n % 2 else 'no'}" for n in range(40)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *lines]))
    return str(folder / "rows.csv")


def recipe(folder: Path, name: str, data: dict[str, Any], **parts: Any) -> Recipe:
    base = recipe_in(folder, steps=4, train={"batch_size": 8, "eval_every": 2, "checkpoint_every": 2})
    mapping = {**base.model_dump(mode="json"), "name": name, "model": ENCODER}
    mapping["train"] |= parts.pop("train", {})
    return recipe_from_mapping({**mapping, "data": data, **parts}, "test")


@pytest.fixture(scope="module")
def hidden(shared_folder: Path) -> Run:
    """A run that has learned from the texts alone."""
    folder = shared_folder / "hidden"
    data = {"task": "files", "format": "csv", "train": table(folder), "text_column": "text"}
    with pytest.MonkeyPatch.context() as patch:
        count_roughly(patch)
        return trained_once(recipe(folder, "hidden", data, objective={"kind": "masked_language"}))


Classes = Callable[..., Recipe]


@pytest.fixture
def classes(tmp_path: Path, hidden: Run) -> Classes:
    """A recipe that tells classes of the same texts, beginning with that run."""

    def make(initial: Path | None = None, **parts: Any) -> Recipe:
        data = {"task": "files", "format": "csv", "train": table(tmp_path), "text_column": "text"}
        data |= {"label_column": "label", **parts.pop("data", {})}
        begin = {"train": {"initial": str(initial or hidden.folder.parent)}}
        return recipe(tmp_path, "classes", data, **{**begin, **parts})

    return make


def test_the_body_is_that_of_the_other_run_and_the_head_is_fresh(classes: Classes, hidden: Run) -> None:
    own = classes()
    dataset = experiment.load_data(own)
    begun = inherited(own, 3, dataset)
    assert begun is not None
    before = Checkpoint.load(hidden.final_checkpoint).weights
    torch.manual_seed(3)
    fresh = build_model(own.model, dataset.spec).state_dict()
    for name, value in begun.weights.items():
        assert torch.equal(value, fresh[name] if name.startswith("head.") else before[name]), name
    assert inherited(own.model_copy(update={"train": classes(train={}).train}), 0, dataset) is None
    assert forecast(own).parameters == sum(
        value.numel() for value in fresh.values() if value.is_floating_point()
    )


def test_a_run_of_it_names_the_file_and_resumes_to_the_same_bits(
    classes: Classes, hidden: Run, tmp_path: Path
) -> None:
    own = classes()
    whole = trained(own)
    assert str(hidden.final_checkpoint) in whole.recipe_path.read_text()
    assert whole.read_info()["initial"]
    other = trained(classes(train={}))
    assert not all(torch.equal(one, weights(other)[name]) for name, one in weights(whole).items())
    run = killed(own.model_copy(update={"name": "killed"}), 3)
    for file in run.checkpoints.iterdir():  # of which nothing was written before it was killed
        file.unlink()
    experiment.resume(run, own.model_copy(update={"name": "killed"}), SilentView(), "test")
    assert all(torch.equal(one, weights(run)[name]) for name, one in weights(whole).items())


def test_a_run_does_not_begin_anew_with_other_weights(classes: Classes, hidden: Run, tmp_path: Path) -> None:
    copy = tmp_path / "body.pt"
    shutil.copy(hidden.final_checkpoint, copy)
    own = classes(copy)
    run = killed(own, 1)
    for file in run.checkpoints.iterdir():
        file.unlink()
    changed = Checkpoint.load(copy)
    changed.weights["norm.weight"] += 1
    changed.save(copy)
    with pytest.raises(BadInputError, match=r"train\.initial: .*: not the weights that this run began with"):
        experiment.resume(run, own, SilentView(), "test")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"model": {**ENCODER, "heads": 4}}, "has model.heads 2, and the recipe has 4; write the same"),
        (
            {"model": {**ENCODER, "context": 41}},
            r"positions.* \(40, 8\) there and \(41, 8\).*write model.context",
        ),
        ({"train": {"initial": "nowhere.pt"}}, "nowhere.pt"),
    ],
)
def test_what_is_no_body_of_it_is_refused(classes: Classes, parts: dict[str, Any], message: str) -> None:
    own = classes(**parts)
    with pytest.raises(BadInputError, match=f"train.initial: .*{message}"):
        inherited(own, 0, experiment.load_data(own))


def test_other_inputs_are_refused(classes: Classes) -> None:
    mapping = classes().model_dump(mode="json")
    digits = recipe_from_mapping(
        {**mapping, "data": {"task": "digits"}, "model": {**ENCODER, "context": 64}}, "test"
    )
    with pytest.raises(BadInputError, match=r"train\.initial: .*reads its inputs otherwise"):
        inherited(digits, 0, experiment.load_data(digits))


def test_what_was_compressed_is_refused(classes: Classes, hidden: Run, tmp_path: Path) -> None:
    data = Checkpoint.load(hidden.final_checkpoint).recipe.data.model_dump(mode="json")
    cut = recipe(
        tmp_path,
        "cut",
        data,
        objective={"kind": "masked_language"},
        compression={
            "method": "magnitude",
            "kinds": ["neuron"],
            "keep_fraction": 0.5,
            "schedule": {"kind": "listed", "at_steps": [2]},
        },
    )
    own = classes(trained(cut).folder)
    with pytest.raises(BadInputError, match="has been compressed; name a model of full size"):
        inherited(own, 0, experiment.load_data(own))
