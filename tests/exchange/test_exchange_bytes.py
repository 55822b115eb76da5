"""A model of bytes goes out with a tokenizer that makes the same tokens of a text, and text of them again."""

from pathlib import Path

import pytest
import torch

from compressm_cli import exchange
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.data.encodings import Bytes, Encoding, Tokenizer, Tokens
from compressm_cli.data.rows import Rows
from compressm_cli.exchange.exporting import Target
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping

pytest.importorskip("safetensors")
tokenizers = pytest.importorskip("tokenizers")
TEXTS = [
    "Once upon",
    "ünï 日本 🙂\n\t x",
    " two  blanks ",
    "<pad><|endoftext|></s>",
    "\0\x7f\r\n",
    "don't 's 123",
]


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    recipe = recipe_from_mapping(
        {
            "name": "tiny",
            "data": {"task": "text_lm", "max_bytes": 5000, "length": 16},
            "model": {
                "layer": {"kind": "mamba", "state_dim": 4},
                "model_dim": 8,
                "norm": "rms",
                "final_norm": True,
            },
            "train": {"steps": 2, "batch_size": 2},
        },
        "test",
    )
    data = recipe.data.spec()
    made, encoding = build_model(recipe.model, data), Encoding(inputs=Bytes(), outputs=Tokens())
    return Checkpoint.of(made, recipe, data, 2, encoding=encoding)


def ours(text: str) -> list[int]:
    return [byte + 1 for byte in text.encode()]


@pytest.mark.parametrize("target", ["hf", "hf-ragged", "mamba-ssm"])
def test_the_tokenizer_says_what_the_model_was_trained_on(
    model: Checkpoint, target: Target, tmp_path: Path
) -> None:
    files = exchange.export(model, target, tmp_path / "out")
    assert files[-1].name == "config.json"  # a folder that has it is complete
    known = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert known.get_vocab_size() == 257
    for text in TEXTS:
        assert known.encode(text).ids == ours(text)
        assert known.decode(ours(text), skip_special_tokens=False) == text
    for byte in range(256):
        wanted = bytes([byte]).decode("utf-8", "replace")
        assert known.decode([byte + 1], skip_special_tokens=False) == wanted


def test_it_comes_back_with_the_model(
    model: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exchange.export(model, "hf", tmp_path / "out")
    model.save(tmp_path / "own.pt")
    read = exchange.load(tmp_path / "out").encoding
    assert read is not None
    assert isinstance(read.inputs, Tokenizer)
    assert read.inputs.silent == Bytes().silent
    tokens, _ = read.inputs.encode(Rows("x", "texts", [text.encode() for text in TEXTS]))
    assert torch.equal(tokens, Bytes().encode(Rows("x", "texts", [text.encode() for text in TEXTS]))[0])
    said = []
    for place in ("own.pt", "out"):
        given = [
            "generate",
            str(tmp_path / place),
            "--prompt",
            "ü<pad>",
            "--tokens",
            "30",
            "--temperature",
            "3",
        ]
        assert command(given) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_transformers_reads_it(model: Checkpoint, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    exchange.export(model, "hf", tmp_path / "out")
    known = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (len(known), known.pad_token_id) == (257, 0)
    for text in TEXTS:
        assert known(text)["input_ids"] == ours(text)
        assert known.decode(ours(text)) == text
    for byte in range(256):
        assert known.decode([byte + 1]) == bytes([byte]).decode("utf-8", "replace")
    padded = known(["a", "abc"], padding=True)
    assert padded["input_ids"] == [[*ours("a"), 0, 0], ours("abc")]
    assert known.batch_decode(padded["input_ids"], skip_special_tokens=True) == ["a", "abc"]
