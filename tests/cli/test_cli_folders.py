"""Commands with folders of transformers: their networks are read, asked and measured as models of ours."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_models import llama
from strangers import STRANGERS
from tiny_runs import trained

from compressm_cli import exchange
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.exchange.folders import example_of, open_folder
from compressm_cli.exchange.networks import with_length
from compressm_cli.exchange.saving_folders import CODE, save_folder
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping
from compressm_cli.reports import decoding, inference, timing
from compressm_cli.structure.discovery import discover
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.surgery import apply_edits


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``llama``, the same with half the neurons of one layer in ``cut``, and ``text.txt``."""
    place = tmp_path_factory.mktemp("folders")
    whole, _ = llama(place)
    model = open_folder(whole).model
    discover(model, (), example_of(model))
    axis = next(axis for axis in StructureMap.of(model).values() if axis.kind == "neuron")
    apply_edits(model, None, [Keep(axis.name, range(axis.size // 2))])
    save_folder(model, place / "cut", [whole / "tokenizer.json"])
    assert (place / "cut" / CODE).is_file()
    return place


@torch.no_grad()
def greedy(folder: Path, prompt: str, count: int) -> list[int]:
    """Tokens, the whole text gone through for each; token 0 and those beyond the bytes stand for no text."""
    network: Any = open_folder(folder).model
    tokens = [byte + 1 for byte in prompt.encode()]
    for _ in range(count):
        scores = network(torch.tensor([tokens])).logits[0, -1]
        tokens.append(1 + int(scores[1:257].argmax()))
    return tokens


@pytest.mark.parametrize("name", ["llama", "cut"])
def test_a_folder_writes_on(name: str, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tokens", "9", "--temperature", "0"]
    assert command(["generate", str(folders / name), "--prompt", "seven", *options]) == 0
    wanted = bytes(token - 1 for token in greedy(folders / name, "seven", 9)).decode("utf-8", "replace")
    assert capsys.readouterr().out == wanted + "\n"


def test_a_run_with_a_folders_network_writes_on(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mapping = {
        "name": "on",
        "device": "cpu",
        "data": {"task": "text_lm", "max_bytes": 3000, "length": 16},
        "model": {"from": str(folders / "cut")},
        "train": {"steps": 2, "batch_size": 2},
        "output": {"root": str(tmp_path)},
    }
    run = trained(recipe_from_mapping(mapping, "test"))
    assert exchange.load(run.folder).build_model().get_parameter(
        "network.model.layers.0.mlp.up_proj.weight"
    ).shape == (12, 16)
    capsys.readouterr()
    prompts = ["--prompt", "a", "--prompt", "seven"]
    assert command(["generate", str(run.folder), *prompts, "--tokens", "3"]) == 0
    assert [json.loads(line)["end"] for line in capsys.readouterr().out.splitlines()] == ["length"] * 2


def test_what_cannot_write_is_told(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(folder: Path, *options: str) -> str:
        assert command(["generate", str(folder), "--prompt", "seven", *options]) == 2
        return capsys.readouterr().err

    assert "the model takes 32 together; give --tokens 27 at most" in refusal(folders / "llama")
    vit: Any = STRANGERS["vit"].build()
    vit.save_pretrained(tmp_path / "vit")
    assert "a ViTForImageClassification; of networks that are not ours only language models" in refusal(
        tmp_path / "vit"
    )


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that is timed a little is enough."""
    monkeypatch.setattr(inference, "SECONDS", 0.05)
    monkeypatch.setattr(decoding, "SECONDS", 0.01)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)


@pytest.mark.usefixtures("short")
def test_folders_are_compared_on_a_text(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = [str(folders / "llama"), str(folders / "cut")]
    text = folders / "text.txt"
    options = ["--data", str(text), "--at-most", "text_bits_per_byte=1.5", "--json"]
    assert command(["compare", *sides, *options]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["key"]: row for row in found["rows"]}
    means = {key: [v["mean"] and v["mean"]["value"] for v in row["values"]] for key, row in rows.items()}
    models = [open_folder(Path(side)).model for side in sides]
    assert means["parameters"] == [sum(p.numel() for p in model.parameters()) for model in models]
    assert means["checkpoint_bytes"] == [(Path(side) / "model.safetensors").stat().st_size for side in sides]
    # Twelve neurons less: three matrices of 16, at 32 steps.
    assert means["inference_flops"][0] - means["inference_flops"][1] == 2 * 32 * 3 * 16 * 12
    assert means["inference_memory"][0] - means["inference_memory"][1] >= 4 * 3 * 16 * 12
    wanted = [bits_per_byte(model, text.read_bytes()) for model in models]
    assert means["text_bits_per_byte"] == pytest.approx(wanted, rel=1e-4)
    assert next(iter(rows)) == "text_bits_per_byte"
    assert (found["text"]["bytes"], found["text"]["context"]) == (text.stat().st_size, 32)
    for key in ("test_accuracy", "training_flops", "peak_memory"):
        assert means[key] == [None, None]
        assert all(value["reason"] for value in rows[key]["values"])
    assert len(found["speed"]["batches"][0]["seconds"]) == 2
    # Keys and values of two layers, two heads of 8 dimensions, after a prompt of 32 steps.
    assert found["decoding"]["state_bytes"] == [2 * 2 * 16 * 32 * 4] * 2
    assert found["broken"] is False


@torch.no_grad()
def bits_per_byte(network: Any, text: bytes) -> float:
    """By windows of 32 tokens, each with the token before it; before the first the one that begins texts."""
    tokens = torch.tensor([network.config.bos_token_id, *(byte + 1 for byte in text)])
    nats = 0.0
    for start in range(0, len(text), 32):
        end = min(start + 32, len(text))
        first = 0 if start == 0 else max(end - 32, 0)
        scores = network(tokens[None, first:end]).logits[0].log_softmax(-1)
        said = scores[torch.arange(start - first, end - first), tokens[start + 1 : end + 1]]
        nats -= float(said.double().sum())
    return nats / len(text) / math.log(2)


def test_a_folder_and_a_checkpoint_of_its_network_are_compared(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_length(exchange.load(folders / "cut"), 16).save(tmp_path / "cut.pt")
    page = tmp_path / "page.html"
    sides = [str(tmp_path / "cut.pt"), str(folders / "llama")]
    assert command(["compare", *sides, "--no-speed", "--json", "--html", str(page)]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    flops = [value["mean"]["value"] for value in rows["inference_flops"]["values"]]
    assert flops[1] - flops[0] == 2 * 16 * 3 * 16 * 12
    assert "does not record it" in rows["training_flops"]["values"][1]["reason"]
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_what_cannot_be_compared_is_told(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, text = str(folders / "llama"), str(folders / "text.txt")

    def refusal(*arguments: str) -> str:
        assert command(["compare", *arguments, "--no-speed"]) == 2
        return capsys.readouterr().err

    made(tmp_path / "digits.pt", {"task": "digits"})
    assert "is no language model, and" in refusal(str(tmp_path / "digits.pt"), whole)
    made(tmp_path / "far.pt", {"task": "text_lm", "max_bytes": 3000, "length": 48})
    assert "takes 32 tokens at most, and sequences of" in refusal(str(tmp_path / "far.pt"), whole)
    assert "--at-most text_bits_per_byte: is known only where a text is given, --data FILE" in refusal(
        whole, whole, "--at-most", "text_bits_per_byte=1"
    )
    assert "which has no points; write --at-most text_bits_per_byte=1.02" in refusal(
        whole, whole, "--data", text, "--tolerance-points", "1"
    )
    assert "there is no text in it" in refusal(whole, whole, "--data", str(empty(tmp_path)))


def made(file: Path, data: dict[str, Any]) -> None:
    """A checkpoint of a model with fresh weights."""
    model = {"layer": {"kind": "lru", "state_dim": 2}, "model_dim": 4}
    recipe = recipe_from_mapping(
        {"name": "made", "data": data, "model": model, "train": {"steps": 1}}, "test"
    )
    spec = recipe.data.spec()
    Checkpoint.of(build_model(recipe.model, spec), recipe, spec, 0).save(file)


def empty(folder: Path) -> Path:
    (folder / "empty.txt").touch()
    return folder / "empty.txt"


@pytest.mark.usefixtures("short")
def test_a_folder_is_timed(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["train.batch_size=2", "--repeats", "1", "--json"]
    assert command(["bench", str(folders / "cut"), *options]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["order"], row["orders"], row["batch_size"], row["length"]) == (None, {}, 2, 32)
    assert row["parameters"] == sum(p.numel() for p in open_folder(folders / "cut").model.parameters())
    assert row["inference_seconds"] > 0
    assert row["decoding_reason"] is None
    assert row["state_bytes"] == 2 * 2 * 16 * 32 * 4
    assert command(["bench", str(folders / "cut"), "--orders", "4"]) == 2
    assert "has no state space layers, and so no orders" in capsys.readouterr().err
