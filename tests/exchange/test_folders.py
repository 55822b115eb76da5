"""Folders of transformers with networks that are not ours: opened exactly as they are, or refused in a line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from strangers import STRANGERS, VOCABULARY

from compressm_cli.core.errors import BadInputError
from compressm_cli.exchange.folders import Folder, open_folder

transformers = pytest.importorskip("transformers")
KINDS = ("llama", "mistral", "qwen3", "gpt2", "bert", "vit")


def scores(model: Any, given: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(**given).logits
    return result


def folder_of(name: str, place: Path) -> Path:
    network: Any = STRANGERS[name].build()
    network.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of("llama", tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("name", KINDS)
def test_a_folder_is_opened_as_it_is(name: str, tmp_path: Path) -> None:
    found = open_folder(folder_of(name, tmp_path))
    given = found.example(rows=3, length=6)
    assert torch.equal(scores(found.model, given), scores(STRANGERS[name].build(), given))
    assert not found.model.training
    assert found.task == {"bert": "classification", "vit": None}.get(name, "language")
    if name != "vit":
        assert given["input_ids"].shape == (3, 6)
        assert given["input_ids"].max() < VOCABULARY


def test_examples_have_no_padding_and_are_not_too_long(tmp_path: Path) -> None:
    found = open_folder(folder_of("gpt2", tmp_path))
    tokens = found.example(rows=4, length=1000)["input_ids"]
    assert tokens.shape == (4, 20)
    assert (tokens != 2).all()


def test_files_of_the_tokenizer_are_named(llama: Path) -> None:
    (llama / "tokenizer.json").write_text("{}")
    assert [file.name for file in open_folder(llama).tokenizer_files] == ["tokenizer.json"]


def opened(llama: Path, place: Path, config: Callable[[Any], Any], weights: Callable[[Any], Any]) -> Folder:
    """A changed copy, opened."""
    content, tensors = json.loads((llama / "config.json").read_text()), load_file(llama / "model.safetensors")
    config(content)
    weights(tensors)
    (place / "config.json").write_text(json.dumps(content))
    save_file(tensors, place / "model.safetensors", {"format": "pt"})
    return open_folder(place)


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "lama"}, r"has no model_type 'lama'; close: llama"),
        ({"model_type": None}, r"model_type is missing; write it"),
        ({"architectures": ["LlamaForCasualLM"]}, r"no network 'LlamaForCasualLM'.*close: LlamaForCausalLM"),
        ({"architectures": ["Path"]}, r"no network 'Path'"),
        ({"architectures": []}, r"architectures is missing"),
        ({"architectures": ["LlamaModel"]}, r"no place for lm_head.weight; the network is a LlamaModel"),
        ({"num_hidden_layers": "x"}, r"no configuration of llama: .*num_hidden_layers"),
        (
            {"max_position_embeddings": -1},
            r"max_position_embeddings is -1; a network takes one step at least",
        ),
        ({"max_position_embeddings": 0}, r"max_position_embeddings is 0; a network takes one step at least"),
        ({"num_hidden_layers": 3}, r"the weights lack model.layers.2.\S+ and 8 more"),
        ({"intermediate_size": 50}, r"down_proj.weight has the shape \(32, 48\), and must have \(32, 50\)"),
        ({"model_type": "mine", "auto_map": {"AutoModel": "a.B"}}, r"names code .* never run unasked"),
    ],
)
def test_a_configuration_of_nothing_is_refused(
    config: dict[str, Any], told: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=told):
        opened(llama, tmp_path, lambda content: content.update(config), lambda _: None)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (lambda tensors: tensors.pop(NORM), r"the weights lack model.norm.weight;"),
        (lambda tensors: tensors.update(strange=torch.zeros(2)), r"no place for strange"),
        (lambda tensors: tensors[NORM].fill_(torch.nan), r"model.norm.weight has values that are not finite"),
    ],
)
def test_no_weight_is_random_or_lost(
    weights: Callable[[Any], Any], told: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=told):
        opened(llama, tmp_path, lambda _: None, weights)


def test_what_is_no_folder_is_told(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such folder"):
        open_folder(tmp_path / "none")
    with pytest.raises(BadInputError, match=r"no config\.json in this folder"):
        open_folder(tmp_path)
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    with pytest.raises(BadInputError, match=r"no file named model\.safetensors"):
        open_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInputError, match=r"cannot be read as config\.json says"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    "cut", [{}, {"shapes": {}, "numbers": {"": {"_modules": 3}}}, {"shapes": {"x": "y"}, "numbers": {}}]
)
def test_sizes_that_are_none_are_refused(cut: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    config |= {"model_type": "compressm_cut", "cut": {"architecture": "LlamaForCausalLM", **cut}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInputError, match="cut: not the sizes of a network that was cut"):
        open_folder(tmp_path)
