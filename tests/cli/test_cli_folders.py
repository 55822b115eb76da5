"""Commands with folders of transformers: their networks are read, asked and measured as models of ours."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_models import llama
from strangers import STRANGERS
from tiny_runs import trained

from compressm_cli import exchange
from compressm_cli.cli.main import run as command
from compressm_cli.exchange.folders import example_of, open_folder
from compressm_cli.exchange.saving_folders import CODE, save_folder
from compressm_cli.recipe import recipe_from_mapping
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
