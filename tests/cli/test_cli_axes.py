"""``compressm analyze --axes``: what could leave of a model, what a unit costs and what it is worth."""

import json
from pathlib import Path
from typing import Any

import pytest
from cut_models import llama, tiny_decoder

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.measure.flops import inference_flops
from compressm_cli.measure.probe import example_batch
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.surgery import apply_edits


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("model"))


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert command(["analyze", *map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_unit_costs_what_the_model_without_it_has_less(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, checkpoint = told(capsys, model, "--axes"), Checkpoint.load(model)
    whole = checkpoint.build_model()
    example = example_batch(checkpoint.data, 1)
    assert report["flops"] == inference_flops(whole, example)
    assert report["parameters"] == sum(p.numel() for p in whole.parameters())
    assert report["price"] is True
    kinds = {axis["kind"] for axis in report["axes"]}
    assert kinds == {"kv_group", "query", "rank", "neuron"}
    for axis in report["axes"]:
        cut = checkpoint.build_model()
        apply_edits(cut, None, [Keep(axis["axis"], range(1, axis["units"]))])
        assert axis["flops"] == report["flops"] - inference_flops(cut, example)
        assert axis["parameters"] == report["parameters"] - sum(p.numel() for p in cut.parameters())
        assert axis["scores"] == sorted(axis["scores"])
    assert report["pinned"]["blocks.1.mixer.layer:states"].startswith("states are cut by balanced truncation")


def test_a_table_shows_axes_and_what_stays(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["analyze", str(model), "--axes", "--score", "magnitude"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{model}: the given checkpoint\n")
    for text in (
        "most: magnitude of a unit",
        "blocks.0.feed_forward.inner:neurons",
        "stays: a whole",
        "all: ",
        "data: ",
    ):
        assert text in out


def test_a_folder_of_transformers_shows_its_axes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, text = llama(tmp_path)
    capsys.readouterr()
    alone, judged = told(capsys, folder), told(capsys, folder, "--data", text)
    assert alone["score"] == "magnitude"
    assert judged["score"] == "taylor"
    for report in (alone, judged):
        units = {axis["axis"]: axis["units"] for axis in report["axes"]}
        assert units["model.layers.0.mlp:neurons"] == 24
        assert "its entries are looked up by their number" in report["pinned"].values()
        neurons = next(axis for axis in report["axes"] if axis["axis"] == "model.layers.1.mlp:neurons")
        assert neurons["parameters"] == 3 * 16


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--axes", "--time"], "do not go with them"),
        (["--axes", "--data", "text.txt"], "a model of ours takes data.KEY=VALUE"),
        (["--score", "random"], "--score and --data go with --axes"),
        (["--axes", "data={task: digits}"], "the model was made for data with classes 257"),
    ],
)
def test_bad_input(model: Path, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["analyze", str(model), *arguments]) == 2
    assert error in capsys.readouterr().err


def test_bad_input_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = llama(tmp_path)
    for arguments, error in (
        (["--score", "taylor"], "--score taylor looks at data; give --data FILE"),
        (["data.path=x"], "a folder of transformers has no recipe; give --data FILE"),
        (["--time"], "do not go with them"),
    ):
        assert command(["analyze", str(folder), *arguments]) == 2
        assert error in capsys.readouterr().err
