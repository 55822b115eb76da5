"""Our own safetensors, damaged and malicious files, what a target cannot hold, and the command."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from exchange_models import (
    LAYERS,
    ORDER,
    VOCABULARY,
    assert_same,
    checkpoint,
    logits,
    tokens,
    unequal,
    with_maps,
    with_orders_by_channel,
)

from compressm_cli import exchange
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping

pytest.importorskip("safetensors")

HF = {
    "model_type": "mamba",
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "state_size": ORDER,
    "num_hidden_layers": 3,
    "time_step_rank": 2,
    "tie_word_embeddings": False,
}


def classifier() -> Checkpoint:
    recipe = recipe_from_mapping(
        {
            "name": "digits",
            "data": {"task": "digits"},
            "model": {"layer": {"kind": "lru", "state_dim": 5}, "model_dim": 6, "depth": 2, "norm": "batch"},
            "train": {"steps": 1},
            "compression": {"method": "none"},
        },
        "test",
    )
    return Checkpoint.of(build_model(recipe.model, recipe.data.spec()), recipe, recipe.data.spec(), step=3)


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    for field in ("recipe", "data", "sizes", "frozen", "step"):
        assert getattr(found, field) == getattr(expected, field)
    for field in ("weights", "masks"):
        first, second = getattr(found, field), getattr(expected, field)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[n], t) and first[n].dtype == t.dtype for n, t in second.items())


@pytest.mark.parametrize("cut", [None, unequal, with_maps])
@pytest.mark.parametrize("kind", LAYERS)
def test_safetensors_hold_the_whole_checkpoint(kind: str, cut: Any, tmp_path: Path) -> None:
    ours = checkpoint(LAYERS[kind], cut, tied=cut is None)
    ours.masks = {"blocks.0.layer.D": torch.arange(len(ours.weights["blocks.0.layer.D"])) % 2 == 0}
    ours.frozen = ["blocks.1.layer.D"]
    (file,) = exchange.export(ours, "safetensors", tmp_path)
    for path in (tmp_path, file):
        assert_equal(exchange.load(path), ours)


@pytest.mark.parametrize("ours", [classifier(), checkpoint(LAYERS["mamba"], with_orders_by_channel)])
def test_safetensors_hold_every_model(ours: Checkpoint, tmp_path: Path) -> None:
    exchange.export(ours, "safetensors", tmp_path)
    assert_equal(exchange.load(tmp_path), ours)


def test_a_checkpoint_of_ours_is_read_as_ever(tmp_path: Path) -> None:
    ours = checkpoint(LAYERS["mamba"])
    ours.save(tmp_path / "final.pt")
    assert_equal(exchange.load(tmp_path / "final.pt"), ours)


@pytest.mark.parametrize(
    ("ours", "target", "message"),
    [
        (classifier(), "hf", "its layers are lru.*use --to safetensors"),
        (classifier(), "hf-ragged", "its layers are lru"),
        (classifier(), "mamba-ssm", "its layers are lru"),
        (checkpoint(LAYERS["mamba2-2"], with_maps), "hf", "B_proj and C_proj.*hf-ragged or --to safetensors"),
        (checkpoint(LAYERS["mamba2-2"], with_maps), "mamba-ssm", "B_proj and C_proj.*hf-ragged"),
        (checkpoint(LAYERS["mamba"], with_maps), "hf", "B_map and C_map.*hf-ragged"),
        (checkpoint(LAYERS["mamba"], with_orders_by_channel), "hf", "kept.*hf-ragged"),
        (checkpoint(LAYERS["mamba"], norm="layer"), "hf", "model.norm: rms"),
        (checkpoint(LAYERS["mamba"], final_norm=False), "mamba-ssm", "model.final_norm: true"),
    ],
)
def test_a_target_that_cannot_hold_a_model_says_what_can(
    ours: Checkpoint, target: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=message) as refused:
        exchange.export(ours, target, tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(BadInputError, match="not an empty folder"):
            exchange.export(checkpoint(LAYERS["mamba"]), "safetensors", place)
    assert os.listdir(tmp_path) == ["note.txt"]
    with pytest.raises(RunFailedError, match="cannot be written"):
        exchange.export(checkpoint(LAYERS["mamba"]), "safetensors", tmp_path / "note.txt" / "below")


def test_numbers_too_large_for_a_type_are_told(tmp_path: Path) -> None:
    ours = checkpoint(LAYERS["mamba"])
    ours.weights["head.weight"][3, 4] = 1e6
    with pytest.raises(BadInputError, match=r"head\.weight has values that are not finite in float16"):
        exchange.export(ours, "hf", tmp_path, torch.float16)


# Files that are not what they seem.


class Malicious:
    """Makes a folder when it is unpickled by anything that runs pickles."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_a_pickle_is_never_run(save: Any, tmp_path: Path) -> None:
    folder, victim = tmp_path / "model", tmp_path / "executed"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(HF))
    save({"backbone.embeddings.weight": Malicious(victim)}, folder / "pytorch_model.bin")
    with pytest.raises(BadInputError, match="code in it is never run") as refused:
        exchange.load(folder)
    assert "\n" not in str(refused.value)
    assert not victim.exists()


def test_the_code_beside_ragged_weights_is_not_run(tmp_path: Path) -> None:
    ours = checkpoint(LAYERS["mamba2-2"], with_maps)
    exchange.export(ours, "hf-ragged", tmp_path)
    (tmp_path / "modeling_compressm.py").write_text("raise SystemExit(1)")
    assert torch.equal(logits(exchange.load(tmp_path), tokens()), logits(ours, tokens()))


def broken(folder: Path, how: str) -> None:
    """Damage an exported folder."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "absent":
        file.unlink()
    elif how == "config":
        (folder / "config.json").write_text("{")
    elif how == "list":
        (folder / "config.json").write_text("[1]")
    elif how == "index":
        file.rename(folder / "part.safetensors")
        index = {"weight_map": {"backbone.norm_f.weight": "../part.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        tensors = load_file(file)
        if how == "missing":
            del tensors["backbone.norm_f.weight"], tensors["backbone.layers.1.mixer.D"]
        elif how == "strange":
            tensors["backbone.layers.0.mixer.b_norm.weight"] = torch.ones(3)
        elif how == "shape":
            tensors["lm_head.weight"] = tensors["lm_head.weight"][1:].clone()
        else:
            tensors["backbone.layers.2.mixer.A_log"][1, 1] = float("nan")
        save_file(tensors, file)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"model\.safetensors: not a readable safetensors file"),
        ("empty", r"model\.safetensors: not a readable safetensors file"),
        ("absent", r"no weights; looked for model\.safetensors and pytorch_model\.bin"),
        ("config", r"config\.json: not JSON"),
        ("list", r"config\.json: found a list, not a mapping"),
        ("index", r"no weight_map from tensors to files beside it"),
        ("missing", r"the weights lack backbone\.layers\.1\.mixer\.D and 1 more"),
        ("strange", r"no place for the tensor backbone\.layers\.0\.mixer\.b_norm\.weight"),
        ("shape", r"lm_head\.weight has the shape \(28, 16\); as config\.json says it must be \(29, 16\)"),
        ("nan", r"not finite: backbone\.layers\.2\.mixer\.A_log"),
    ],
)
def test_damage_is_told_in_one_line(how: str, message: str, tmp_path: Path) -> None:
    exchange.export(checkpoint(LAYERS["mamba"]), "hf", tmp_path)
    broken(tmp_path, how)
    with pytest.raises(BadInputError, match=message) as refused:
        exchange.load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "jamba"}, r"architectures is missing: the class of the network"),
        ({"use_bias": True}, r"use_bias is true; only false"),
        ({"hidden_act": "gelu"}, r'hidden_act is "gelu"; only "silu"'),
        ({"layer_norm_epsilon": 0}, r"layer_norm_epsilon is 0; only a number above 0, up to 1"),
        ({"quantization_config": {"bits": 4}}, r'quantization_config is {"bits": 4}; only null'),
        ({"expand": 1.5}, r"expand is 1.5; only a positive whole number"),
        ({"expand": 99}, r"no model can be built as config.json says"),
        ({"hidden_size": None}, r"hidden_size is missing"),
        (
            {"model_type": "mamba2", "num_heads": 3, "head_dim": 8},
            r"num_heads is 3; only expand \* hidden_size",
        ),
        (
            {"model_type": "mamba2", "num_heads": 4, "head_dim": 8, "time_step_limit": [0.0, 0.1]},
            r"time_step_limit is \[0.0, 0.1\]; only the range from 0 to infinity",
        ),
        (
            {"model_type": "mamba2", "num_heads": 4, "head_dim": 8, "n_groups": 3},
            r"layer.groups \(3\) must divide the number of heads",
        ),
    ],
)
def test_what_cannot_be_represented_is_told_in_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    exchange.export(checkpoint(LAYERS["mamba"]), "hf", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**HF, **changes}))
    with pytest.raises(BadInputError, match=message) as refused:
        exchange.load(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ["stock", "mapped"]}, r"variants is \[.*\]; only a list of 3"),
        ({"variants": ["mapped", "stock", "other"]}, r"variants is"),
        ({"state_sizes": [2, 6, 0]}, r"state_sizes is \[2, 6, 0\]; only a list of 3 positive whole numbers"),
        (
            {"state_sizes": [3, 6, 4]},
            r"A_log has the shape \(32, 2\); as config.json says it must be \(32, 3\)",
        ),
        ({"projected_sizes": [6, 6, 4]}, r"has the shape .* must be"),
        ({"layer": "gla"}, r'layer is "gla"; only "mamba" or "mamba2"'),
    ],
)
def test_a_ragged_config_must_fit_its_weights(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    exchange.export(checkpoint(LAYERS["mamba"], with_maps), "hf-ragged", tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(BadInputError, match=message):
        exchange.load(tmp_path)


def test_places_without_a_model_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no model in this folder"):
        exchange.load(tmp_path)
    with pytest.raises(BadInputError, match="no such checkpoint"):
        exchange.load(tmp_path / "absent.pt")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInputError, match="neither model_type"):
        exchange.load(tmp_path)


def test_safetensors_of_others_without_a_config_are_told(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(BadInputError, match="not written by compressm"):
        exchange.load(tmp_path)
    for text, message in (
        ("{", "damaged metadata"),
        ('{"format": 99}', "this version reads 1, 2, 3"),
        ("{}", "damaged"),
    ):
        save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors", metadata={"compressm": text})
        with pytest.raises(BadInputError, match=message):
            exchange.load(tmp_path)


def test_without_safetensors_the_error_says_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    exchange.export(checkpoint(LAYERS["mamba"]), "hf", tmp_path / "full")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for action in (
        lambda: exchange.load(tmp_path / "full"),
        lambda: exchange.export(checkpoint(LAYERS["mamba"]), "hf", tmp_path / "new"),
    ):
        with pytest.raises(BadInputError, match=r"pip install 'compressm\[export\]'"):
            action()


def test_reading_needs_no_transformers(tmp_path: Path) -> None:
    exchange.export(checkpoint(LAYERS["mamba"]), "hf", tmp_path)
    code = (
        "import sys; from pathlib import Path; from compressm_cli import exchange; "
        f"exchange.load(Path({str(tmp_path)!r})); assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# The command.


def run(*arguments: object) -> None:
    assert command(["export", *map(str, arguments)]) == 0


def test_the_command_writes_what_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = checkpoint(LAYERS["mamba2-1"], unequal)
    ours.save(tmp_path / "final.pt")
    run(tmp_path / "final.pt", "--to", "hf", "--output", tmp_path / "hf")
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"tiny: layers of order 2, {ORDER}, 5",
        str(tmp_path / "hf" / "model.safetensors"),
        str(tmp_path / "hf" / "config.json"),
    ]
    run(tmp_path / "hf", "--to", "mamba-ssm", "--output", tmp_path / "ssm", "--dtype", "bfloat16")
    weights = torch.load(tmp_path / "ssm" / "pytorch_model.bin", weights_only=True)
    assert {t.dtype for t in weights.values()} == {torch.bfloat16}
    run(tmp_path / "hf", "--to", "safetensors", "--output", tmp_path / "own")
    run(tmp_path / "own" / "model.safetensors", "--to", "hf-ragged", "--output", tmp_path / "ragged")
    assert_same(logits(exchange.load(tmp_path / "ragged"), tokens()), logits(ours, tokens()))
