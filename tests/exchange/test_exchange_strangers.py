"""Weights as others save them: what transformers reads is read here, and what is no model is told as what it is."""

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
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
    randomized,
    reload_hf,
    tokens,
    unequal,
    with_maps,
)
from torch import Tensor

import compressm_cli
from compressm_cli import exchange
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Ids, Tokenizer
from compressm_cli.data.rows import Rows
from compressm_cli.reports import open_model
from compressm_cli.runs.folder import Run

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SIZES = {"vocab_size": VOCABULARY, "hidden_size": 16, "state_size": ORDER, "num_hidden_layers": 2}
THEIRS: dict[str, dict[str, Any]] = {
    "Mamba": {},
    "Mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 1, "tie_word_embeddings": True},
}


def theirs(kind: str, **changes: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **THEIRS[kind], **changes})
    torch.manual_seed(1)
    return randomized(getattr(transformers, f"{kind}ForCausalLM")(config))


def said(model: Any) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(tokens()).logits
    return result


def saved(model: Any, folder: Path, weights: Any, name: str = "pytorch_model.bin") -> Path:
    """A folder with the model's configuration and the weights as they are given."""
    model.config.save_pretrained(folder)
    torch.save(weights, folder / name)
    return folder


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_model_without_its_head_has_the_embedding_as_head(kind: str, bias: bool, tmp_path: Path) -> None:
    model = theirs(kind, use_conv_bias=bias)
    model.backbone.save_pretrained(tmp_path)
    assert_same(said(reload_hf(tmp_path)), said(model))
    assert_same(logits(exchange.load(tmp_path), tokens()), said(model))


def test_a_model_without_a_head_that_nothing_ties_is_told(tmp_path: Path) -> None:
    theirs("Mamba2", tie_word_embeddings=False).backbone.save_pretrained(tmp_path)
    with pytest.raises(
        BadInputError, match=r"lack lm_head\.weight: a model without its head.*tie_word_emb"
    ) as no:
        exchange.load(tmp_path)
    assert "supported are" not in str(no.value)


NAMES: dict[str, Callable[[str], str]] = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "in several processes": lambda name: f"module.{name}",
    "as a part": lambda name: f"model.{name}",
    "compiled in several processes": lambda name: f"module._orig_mod.{name}",
    "sharded": lambda name: f"_fsdp_wrapped_module.{name}".replace(".mixer.", "._fsdp_wrapped_module.mixer."),
    "with activation checkpoints": lambda name: name.replace(".mixer.", "._checkpoint_wrapped_module.mixer."),
    "without its head, as a part": lambda name: f"model.{name.removeprefix('backbone.')}",
}


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("how", NAMES)
def test_names_of_wrapped_models_are_those_of_the_model(how: str, kind: str, tmp_path: Path) -> None:
    model = theirs(kind, use_conv_bias=False)
    weights = {NAMES[how](name): tensor for name, tensor in model.state_dict().items()}
    assert_same(logits(exchange.load(saved(model, tmp_path, weights)), tokens()), said(model))


@pytest.mark.parametrize("within", [("state_dict",), ("model",), ("model", "state_dict")])
def test_weights_beside_other_things(within: tuple[str, ...], tmp_path: Path) -> None:
    model = theirs("Mamba")
    content: Any = OrderedDict(model.state_dict())
    for key in reversed(within):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"step": 5}}, "param_groups": []}}
    assert_same(logits(exchange.load(saved(model, tmp_path, content)), tokens()), said(model))


def test_two_values_of_one_parameter_are_refused(tmp_path: Path) -> None:
    model = theirs("Mamba")
    weights = dict(model.state_dict())
    same = {**weights, "module.backbone.norm_f.weight": weights["backbone.norm_f.weight"].clone()}
    exchange.load(saved(model, tmp_path, same))
    other = {**weights, "module.backbone.norm_f.weight": weights["backbone.norm_f.weight"] + 1}
    with pytest.raises(
        BadInputError, match=r"norm_f\.weight and module\.backbone\.norm_f\.weight are the same"
    ):
        exchange.load(saved(model, tmp_path, other))


@pytest.mark.parametrize("kind", THEIRS)
def test_a_tied_model_of_which_only_the_head_is_there(kind: str, tmp_path: Path) -> None:
    model = theirs(kind)
    weights = {n: t for n, t in model.state_dict().items() if n != "backbone.embeddings.weight"}
    assert "lm_head.weight" in weights
    assert_same(logits(exchange.load(saved(model, tmp_path, weights)), tokens()), said(model))


@pytest.mark.parametrize("kind", THEIRS)
def test_another_epsilon_goes_with_the_model(kind: str, tmp_path: Path) -> None:
    model = theirs(kind, layer_norm_epsilon=0.3)
    model.save_pretrained(tmp_path / "theirs")
    expected = said(model)
    assert (expected - said(theirs(kind))).abs().max() > 1e-2
    ours = exchange.load(tmp_path / "theirs")
    assert_same(logits(ours, tokens()), expected)
    ours.save(tmp_path / "ours.pt")
    assert torch.equal(logits(exchange.load(tmp_path / "ours.pt"), tokens()), logits(ours, tokens()))
    for target in ("hf", "hf-ragged", "safetensors"):
        exchange.export(ours, target, tmp_path / target)  # type: ignore[arg-type]
        assert torch.equal(logits(exchange.load(tmp_path / target), tokens()), logits(ours, tokens()))
    assert_same(said(reload_hf(tmp_path / "hf")), expected)
    assert_same(said(reload_hf(tmp_path / "hf-ragged", trust_remote_code=True)), expected)
    with pytest.raises(BadInputError, match=r"norm_epsilon is 0\.3.*there it is 1e-05 of all"):
        exchange.export(ours, "mamba-ssm", tmp_path / "no")


def test_two_epsilons_go_to_ragged_folders_alone(tmp_path: Path) -> None:
    ours = checkpoint({**LAYERS["mamba2-1"], "norm_epsilon": 0.2}, with_maps, norm_epsilon=0.3)
    exchange.export(ours, "hf-ragged", tmp_path)
    assert_same(said(reload_hf(tmp_path, trust_remote_code=True)), logits(ours, tokens()))
    assert torch.equal(logits(exchange.load(tmp_path), tokens()), logits(ours, tokens()))
    plain = checkpoint({**LAYERS["mamba2-1"], "norm_epsilon": 0.2}, unequal, norm_epsilon=0.3)
    with pytest.raises(BadInputError, match=r"of the gated norms 0\.2.*use --to hf-ragged"):
        exchange.export(plain, "hf", tmp_path / "no")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_shards(dtype: torch.dtype, tmp_path: Path) -> None:
    model = theirs("Mamba2").to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert_same(logits(exchange.load(tmp_path), tokens()), said(model.float()))


@pytest.mark.parametrize("name", ["model.safetensors", "weights.pt"])
def test_one_file_with_its_configuration_beside_it(name: str, tmp_path: Path) -> None:
    model = theirs("Mamba")
    if name == "weights.pt":
        saved(model, tmp_path, {"state_dict": model.state_dict()}, name)
        with pytest.raises(BadInputError, match=r"no weights;.*found weights\.pt: .* give the file itself"):
            exchange.load(tmp_path)
    else:
        model.save_pretrained(tmp_path)
    assert_same(logits(exchange.load(tmp_path / name), tokens()), said(model))
    ours = checkpoint(LAYERS["mamba"])
    ours.save(tmp_path / "ours.pt")
    assert torch.equal(logits(exchange.load(tmp_path / "ours.pt"), tokens()), logits(ours, tokens()))


def test_a_byte_order_mark_before_the_configuration_is_none_of_it(tmp_path: Path) -> None:
    model = theirs("Mamba")
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    assert_same(logits(exchange.load(tmp_path), tokens()), said(model))


# What is no model.

POINTER = b"version https://git-lfs/spec/v1\noid sha256:0\nsize 5\n"


def whole(folder: Path) -> Path:
    exchange.export(checkpoint(LAYERS["mamba"]), "hf", folder)
    return folder


def instead(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(content)

    return damage


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def legacy(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.ones(2)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (instead("model.safetensors", POINTER), r"model\.safetensors: .* a git-lfs pointer"),
        (instead("pytorch_model.bin", POINTER), r"pytorch_model\.bin: .* a git-lfs pointer"),
        (instead("config.json", POINTER), r"config\.json: .* a git-lfs pointer"),
        (instead("model.safetensors", b""), r"model\.safetensors: .*: it is empty"),
        (instead("pytorch_model.bin", b""), r"pytorch_model\.bin: .*: it is empty"),
        (instead("config.json", b""), r"config\.json: .*: it is empty"),
        (instead("config.json", "{}".encode("utf-16")), r"config\.json: .* a text in UTF-16"),
        (instead("model.safetensors", b"<!DOCTYPE html>"), r"model\.safetensors: .* a page of the web"),
        (instead("pytorch_model.bin", pickle.dumps({"a": 1}, 2)), r"never run\): it is an old pickle"),
        (legacy, r"pytorch_model\.bin: .*never run\): it is an old pickle"),
        (truncate, r"model\.safetensors: .*: it is truncated: [\d,]+ bytes of [\d,]+"),
    ],
)
def test_what_a_file_is_instead(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    damage(whole(tmp_path))
    with pytest.raises(BadInputError, match=message) as no:
        exchange.load(tmp_path)
    assert "\n" not in str(no.value)
    assert "supported are" not in str(no.value)


def test_parts_without_their_index_are_told(tmp_path: Path) -> None:
    theirs("Mamba").save_pretrained(tmp_path, max_shard_size="4KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(
        BadInputError, match=r"found model-00001-of-\d+\.safetensors, .*the index .* is missing"
    ):
        exchange.load(tmp_path)


def test_a_checkpoint_that_is_a_pointer_is_told(tmp_path: Path) -> None:
    (tmp_path / "final.pt").write_bytes(POINTER)
    with pytest.raises(BadInputError, match=r"final\.pt: not a readable checkpoint: it is a git-lfs pointer"):
        exchange.load(tmp_path / "final.pt")


def test_what_a_folder_is_instead(tmp_path: Path) -> None:
    for number in (5, 10):
        whole(tmp_path / f"checkpoint-{number}")
    told = r"a training by transformers.*checkpoint-5, \S+checkpoint-10"
    with pytest.raises(BadInputError, match=told) as no:
        exchange.load(tmp_path)
    assert "supported are" not in str(no.value)
    (tmp_path / "config.json").write_bytes((tmp_path / "checkpoint-5" / "config.json").read_bytes())
    with pytest.raises(BadInputError, match=rf"no weights; .*it is the folder of {told}"):
        exchange.load(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "checkpoint-10" / "config.json").unlink()
    (tmp_path / "checkpoint-10" / "model.safetensors").rename(
        tmp_path / "checkpoint-10" / "pytorch_model.bin"
    )
    with pytest.raises(BadInputError, match=r"no config\.json beside pytorch_model\.bin"):
        exchange.load(tmp_path / "checkpoint-10")
    (tmp_path / "checkpoint-5" / "config.json").rename(tmp_path / "checkpoint-5" / "adapter_config.json")
    (tmp_path / "checkpoint-5" / "model.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"an adapter .*merge it into its model"):
        exchange.load(tmp_path / "checkpoint-5")


# What users call.


def run_of(root: Path, seed: int) -> Run:
    run = Run.create(root, "mine")
    run.write_info({"status": "done"})
    ours = checkpoint(LAYERS["mamba"])
    ours.weights["head.weight"] += seed
    ours.save(run.final_checkpoint)
    return run


def test_models_of_runs_folders_and_files_are_ready_to_be_called(tmp_path: Path) -> None:
    first, second = run_of(tmp_path, 1), run_of(tmp_path, 2)
    places: list[Any] = [first, first.folder, str(first.folder), first.final_checkpoint]
    models = [compressm_cli.load(place) for place in places]
    newest = compressm_cli.load(str(tmp_path / "mine"))
    assert not any(module.training for model in [*models, newest] for module in model.modules())
    expected = logits(exchange.load(first.final_checkpoint), tokens())
    with torch.no_grad():
        assert all(torch.equal(model(tokens()), expected) for model in models)
        assert torch.equal(newest(tokens()), logits(exchange.load(second), tokens()))
        assert not torch.equal(newest(tokens()), expected)
    whole(tmp_path / "theirs")
    assert not compressm_cli.load(tmp_path / "theirs").training
    with pytest.raises(BadInputError, match="no such"):
        compressm_cli.load(str(tmp_path / "absent"))


def test_a_configuration_of_another_model_says_so(tmp_path: Path) -> None:
    whole(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(BadInputError, match=r"config\.json: no configuration of llama"):
        exchange.load(tmp_path)


def test_the_tokenizer_beside_the_weights_goes_with_the_model(tmp_path: Path) -> None:
    folder = whole(tmp_path / "theirs")
    ids = exchange.load(folder).encoding
    assert ids is not None
    assert ids.inputs == Ids(size=VOCABULARY)
    words = tokenizers.models.WordLevel({"[UNK]": 0, "the": 1, "cat": 2}, unk_token="[UNK]")
    known = tokenizers.Tokenizer(words)
    known.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    known.enable_padding(length=50)
    known.save(str(folder / "tokenizer.json"))
    loaded = exchange.load(folder)
    loaded.save(tmp_path / "ours.pt")
    kept = exchange.load(tmp_path / "ours.pt").encoding
    assert kept is not None
    assert isinstance(kept.inputs, Tokenizer)
    for target in ("hf", "hf-ragged"):
        files = exchange.export(loaded, target, tmp_path / target)
        assert tmp_path / target / "tokenizer.json" in files[:-1]  # the last is config.json
        assert exchange.load(tmp_path / target).encoding == kept
    exchange.export(loaded, "safetensors", tmp_path / "own")
    assert open_model(tmp_path / "own")[1] == "the exported model"
    assert open_model(tmp_path / "hf")[1] == "the model of another library"
    tokens, _ = kept.inputs.encode(Rows("x", "texts", [b"the cat the"]))
    assert tokens.tolist() == [[1, 2, 1]]
    # A model may be read whose tokenizer is none: it is told where it is needed.
    (folder / "tokenizer.json").write_bytes(POINTER)
    broken = exchange.load(folder).encoding
    assert broken is not None
    with pytest.raises(BadInputError, match=r"tokenizer\.json: describes no tokenizer: .*whole file beside"):
        broken.inputs.encode(Rows("x", "texts", [b"the"]))
