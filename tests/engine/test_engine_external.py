"""Networks that are not ours in runs: begun, cut, gone on with, and read without the folder that they are from."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from plugin_package import on_path
from tiny_runs import count_roughly, killed, trained, weights

from compressm_cli import plugins
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine import experiment
from compressm_cli.engine.changes import identity, is_same_run
from compressm_cli.engine.settling import begun, settled
from compressm_cli.engine.view import SilentView
from compressm_cli.exchange.exporting import export
from compressm_cli.exchange.folders import open_folder
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, RecipeError, load_recipe, recipe_from_mapping
from compressm_cli.runs.folder import Run

LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MQAR = {"task": "mqar", "length": 32, "pairs": 4, "vocabulary": 64}
ROWS = {"train_rows": 32, "validation_rows": 16, "test_rows": 16}
CUT = {
    "method": "magnitude",
    "kinds": ["neuron", "head", "kv_group", "query"],
    "schedule": {"kind": "listed", "at_steps": [3]},
}


def recipe_for(root: Path, model: dict[str, Any], **parts: Any) -> Recipe:
    mapping = {
        "name": "external",
        "device": "cpu",
        "data": {**MQAR, **ROWS},
        "model": model,
        "train": {"steps": 8, "batch_size": 8, "checkpoint_every": 2, "eval_every": 4, "log_every": 1},
        "compression": CUT,
        "output": {"root": str(root)},
    }
    return recipe_from_mapping({**mapping, **parts}, "test")


def folder_with(place: Path, **changes: Any) -> Path:
    """A folder of a configuration alone."""
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return place


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("folders") / "llama"
    torch.manual_seed(3)
    transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{k: v for k, v in LLAMA.items() if k != "model_type"})
    ).save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def killed_run(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run that was killed after its cut, and the place where its folder is not any more."""
    place = tmp_path_factory.mktemp("external")
    folder = shutil.copytree(llama, place / "llama")
    with pytest.MonkeyPatch.context() as patch:
        count_roughly(patch)
        run = killed(recipe_for(place / "outputs", {"from": str(folder)}), 6)
    return run, folder


def test_a_run_begins_with_the_weights_of_the_folder(llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    recipe = recipe_for(tmp_path, {"from": str(llama)})
    assert recipe.model.kind == "external"
    spec = recipe.data.spec()
    wanted = load_file(llama / "model.safetensors")
    found = begun(recipe.model, spec).get_submodule("network").state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    fresh = begun(recipe_for(tmp_path, {"from": str(llama), "weights": "fresh"}).model, spec)
    assert not torch.equal(fresh.get_parameter("network.lm_head.weight"), wanted["lm_head.weight"])


@pytest.mark.usefixtures("rough_flops")
def test_a_run_goes_on_bit_equal_without_its_folder(killed_run: tuple[Run, Path], tmp_path: Path) -> None:
    run, folder = killed_run
    copied = shutil.copytree(run.folder, tmp_path / "outputs" / "external" / "v0001")
    whole = trained(recipe_for(tmp_path / "whole", {"from": str(folder)}))
    gone = folder.rename(folder.with_name("gone"))
    again = Run(copied)
    experiment.resume(again, load_recipe(again.recipe_path), SilentView(), "test")
    gone.rename(folder)
    one, other = weights(again), weights(whole)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    sizes = whole.read_summary()["axes"]
    assert sizes["final"] == {"kv_groups": 1, "queries": 1, "neurons": 6}
    assert sizes["start"] == {"kv_groups": 2, "queries": 2, "neurons": 12}


def test_a_run_is_known_again_by_its_recipe(killed_run: tuple[Run, Path]) -> None:
    run, folder = killed_run
    known, recipe = load_recipe(run.recipe_path), recipe_for(run.folder.parents[1], {"from": str(folder)})
    assert known.model.axes is not None
    assert identity(known) == identity(recipe)
    assert is_same_run(Checkpoint.load(run.last_checkpoints()[-1]).recipe, recipe)


def test_a_cut_network_of_a_run_is_a_folder_again(killed_run: tuple[Run, Path], tmp_path: Path) -> None:
    known = Checkpoint.load(killed_run[0].last_checkpoints()[-1])
    export(known, "hf", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["intermediate_size"], config["num_attention_heads"], config["num_key_value_heads"]) == (
        6,
        1,
        1,
    )
    tokens = torch.arange(20).view(2, 10)
    with torch.no_grad():
        found = open_folder(tmp_path / "hf").model(tokens).logits
        torch.testing.assert_close(found, known.build_model().eval()(tokens))


def network(**changes: Any) -> dict[str, Any]:
    """A recipe's model of a folder that is not there."""
    return {"from": "elsewhere", "weights": "fresh", "network": json.dumps({**LLAMA, **changes})}


def refusal(model: dict[str, Any], tmp_path: Path, **parts: Any) -> str:
    pytest.importorskip("transformers")
    recipe = recipe_for(tmp_path, model, **parts)
    with pytest.raises(BadInputError) as caught:
        settled(recipe, recipe.data.dataset())
    return str(caught.value)


DIGITS = {"data": {"task": "digits"}}


@pytest.mark.parametrize(
    ("changes", "parts", "told"),
    [
        ({"vocab_size": 63}, {}, "knows 63 tokens, and the data have 64"),
        ({"max_position_embeddings": 16}, {}, "takes 16 steps at most"),
        ({"architectures": ["LlamaForSequenceClassification"]}, {}, "want a ...ForCausalLM"),
        ({}, DIGITS, "networks of folders take tokens"),
        ({"num_hidden_layers": 10**7}, {}, "'num_hidden_layers' is 10000000; at most 1000"),
        ({"hidden_size": 18}, {}, "no configuration of llama"),
    ],
)
def test_a_network_that_is_not_for_the_data_is_refused(
    changes: dict[str, Any], parts: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert told in refusal(network(**changes), tmp_path, **parts)


def test_a_network_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    bert = {
        "model_type": "bert",
        "architectures": ["BertLMHeadModel"],
        **{key: LLAMA[key] for key in ("vocab_size", "hidden_size", "intermediate_size")},
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
    }
    model = {"from": "elsewhere", "weights": "fresh", "network": json.dumps(bert)}
    assert "the network looks ahead" in refusal(model, tmp_path)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none: no such folder"):
        recipe_for(tmp_path, {"from": str(tmp_path / "none")}).located()
    folder_with(tmp_path / "bare")
    with pytest.raises(BadInputError, match=r"bare: cannot be read.*model.safetensors"):
        begun(
            recipe_for(tmp_path, {"from": str(tmp_path / "bare")}).model,
            recipe_for(tmp_path, network()).data.spec(),
        )


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"kind": "external"}, "write either from: FOLDER"),
        ({"from": "a", "class": "b:C"}, "write either from: FOLDER"),
        ({"from": "a", "arguments": {"x": 1}}, "arguments are those of a class"),
        ({"class": "strange_package.nets:Net"}, "not imported unless you ask for it"),
        ({"class": "os"}, "'os' is no class of a plug-in; write package.module:Class"),
        ({"class": "os:system"}, "os, which is not imported unless you ask for it"),
    ],
)
def test_a_recipe_says_whose_network_it_is(model: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        recipe_for(tmp_path, model)


@pytest.mark.parametrize("kind", ["LlamaForSequenceClassification", "BertForSequenceClassification"])
def test_padding_is_not_looked_at(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = {**LLAMA, "architectures": [kind], "num_labels": 3, "pad_token_id": 0}
    if kind.startswith("Bert"):
        config |= {"model_type": "bert", "num_attention_heads": 4}
    recipe = recipe_for(Path(), {"from": "elsewhere", "weights": "fresh", "network": json.dumps(config)})
    torch.manual_seed(0)
    model = build_model(recipe.model, DataSpec(classes=3, length=9, vocabulary=64)).eval()
    tokens = torch.randint(1, 64, (3, 9))
    lengths = torch.tensor([9, 4, 7])
    real = torch.arange(9) < lengths[:, None]
    tokens[~real] = 0
    with torch.no_grad():
        wanted = model.get_submodule("network")(tokens, attention_mask=real.long()).logits
        torch.testing.assert_close(model(tokens, lengths), wanted)
        torch.testing.assert_close(model(tokens[1:2, :4]), wanted[1:2], atol=1e-5, rtol=1e-5)
    assert transformers is not None


NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8, table=False):
        super().__init__()
        self.up, self.down = nn.Linear(1, width), nn.Linear(width, 10)
        if table:
            self.table = torch.zeros(3)

    def forward(self, x):
        return self.down(torch.relu(self.up(x)).mean(dim=1))

class Stiff(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(1, 10)

    def forward(self, x):
        return {"scores": self.out(x.mean(dim=1))}

class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(1, 10)

    def forward(self, x):
        return self.out(x.mean(dim=1))
"""


@pytest.fixture
def nets(tmp_path: Path) -> Iterator[None]:
    """A plug-in that was asked for."""
    (tmp_path / "their_nets.py").write_text(NETS)
    with on_path(tmp_path, "their_nets"):
        plugins.load("their_nets")
        yield


@pytest.mark.usefixtures("nets", "rough_flops")
def test_a_class_of_a_plug_in_is_trained_and_read_again(tmp_path: Path) -> None:
    model = {"class": "their_nets:Net", "arguments": {"width": 12}}
    run = trained(recipe_for(tmp_path / "outputs", model, **DIGITS))
    known = Checkpoint.load(run.final_checkpoint)
    assert known.build_model().get_parameter("network.up.weight").shape == (6, 1)
    assert [origin.module for origin in plugins.needed(known.recipe)] == ["their_nets"]
    with on_path(tmp_path, "their_nets"):
        pass
    with pytest.raises(BadInputError, match="made with the plug-in their_nets, which is not imported"):
        Checkpoint.load(run.final_checkpoint)


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"class": "their_nets:Net", "arguments": {"wide": 3}}, "unexpected keyword argument 'wide'"),
        (
            {"class": "their_nets:Net", "arguments": {"table": True}},
            "network.table is a tensor, which no saved",
        ),
        ({"class": "their_nets:Stiff"}, "gives back a dict; scores are wanted"),
        ({"class": "their_nets:Flat"}, "nothing to cut of this network, because no axis was proved"),
    ],
)
def test_a_class_that_cannot_be_used_is_told(model: dict[str, Any], told: str, tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, model, **DIGITS)
    with pytest.raises(BadInputError, match=told):
        settled(recipe, recipe.data.dataset())
