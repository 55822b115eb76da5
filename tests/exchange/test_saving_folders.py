"""Networks of transformers that were cut are saved as what from_pretrained loads, or not at all."""

import copy
import json
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from strangers import STRANGERS
from torch import nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.exchange.folders import example_of, open_folder
from compressm_cli.exchange.saving_folders import CODE, save_folder
from compressm_cli.structure.discovery import discover
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.surgery import apply_edits

transformers = pytest.importorskip("transformers")
WHOLE = {"neuron", "head", "kv_group", "query"}


@cache
def found(name: str) -> nn.Module:
    """A network with its axes; to be copied."""
    model = STRANGERS[name].build()
    discover(model, (), example_of(model))
    return model


def cut(name: str, most: int | None = None, kinds: Collection[str] = WHOLE) -> Any:
    """Half the units of the first axes of some kinds leave, of all where ``most`` is None."""
    model = copy.deepcopy(found(name))
    axes = [axis for axis in StructureMap.of(model).values() if axis.kind in kinds][:most]
    apply_edits(model, None, [Keep(axis.name, range(axis.size // 2)) for axis in axes])
    return model


def scores(model: Any, given: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model(**given).logits
    return result


@pytest.mark.parametrize(
    ("name", "most", "has_code"),
    [
        ("llama", None, False),
        ("llama", 2, True),
        ("qwen3", None, False),
        ("mistral", None, False),
        ("gpt2", None, True),
        ("gpt2: neurons", None, False),
        ("bert", None, True),
    ],
)
def test_what_is_saved_is_the_network(
    name: str, most: int | None, has_code: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    name, _, only = name.partition(": ")
    model = cut(name, most, {"neuron"} if only else WHOLE)
    given = example_of(model)
    written = save_folder(model, tmp_path / "saved")
    assert (CODE in {file.name for file in written}) == has_code
    auto = (
        transformers.AutoModelForSequenceClassification
        if name == "bert"
        else transformers.AutoModelForCausalLM
    )
    there = auto.from_pretrained(tmp_path / "saved", trust_remote_code=has_code).eval()
    torch.testing.assert_close(scores(there, given), scores(model, given), rtol=1e-5, atol=1e-6)
    again = open_folder(tmp_path / "saved")
    torch.testing.assert_close(scores(again.model, given), scores(model, given), rtol=1e-5, atol=1e-6)
    assert again.task == ("classification" if name == "bert" else "language")
    count = sum(p.numel() for p in there.parameters())
    assert (
        count == sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in found(name).parameters())
    )


def test_what_was_saved_with_code_is_cut_and_saved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    save_folder(cut("llama", 2), tmp_path / "saved")
    model = open_folder(tmp_path / "saved").model
    given = example_of(model)
    assert CODE in {file.name for file in save_folder(model, tmp_path / "same")}
    discover(model, (), given)
    axes = [axis for axis in StructureMap.of(model).values() if axis.kind == "neuron"]
    least = min(axis.size for axis in axes) // 2
    apply_edits(model, None, [Keep(axes[0].name, range(least))])
    save_folder(model, tmp_path / "smaller")
    for name, wanted in (("same", cut("llama", 2)), ("smaller", model)):
        there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, trust_remote_code=True)
        torch.testing.assert_close(scores(there.eval(), given), scores(wanted, given), rtol=1e-5, atol=1e-6)


def test_code_in_the_folder_is_not_what_is_run_here(tmp_path: Path) -> None:
    model = cut("gpt2", 1)
    save_folder(model, tmp_path / "saved")
    (tmp_path / "saved" / CODE).write_text("raise SystemExit")
    given = example_of(model)
    assert torch.equal(scores(open_folder(tmp_path / "saved").model, given), scores(model, given))


def test_a_type_and_files_beside(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    save_folder(cut("llama"), tmp_path / "saved", [tmp_path / "tokenizer.json"], torch.bfloat16)
    assert (tmp_path / "saved" / "tokenizer.json").read_text() == "{}"
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("mine")
    with pytest.raises(BadInputError, match="not an empty folder"):
        save_folder(cut("llama"), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["own.txt"]


def test_what_is_read_back_otherwise_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressm_cli.exchange.saving_folders.CLOSE", -1.0)
    with pytest.raises(BadInputError, match="read back, its scores are"):
        save_folder(cut("gpt2", 1), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []
