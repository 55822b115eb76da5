"""Tokens as numbers and of tokenizers: texts become what the model reads, and what it says becomes text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressm_cli import exchange
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Bytes, Encoding, Ids, TokenInputs, Tokenizer, Tokens
from compressm_cli.data.rows import Rows
from compressm_cli.data.token_files import TokenFiles
from compressm_cli.data.tokenizer import read_tokenizer
from compressm_cli.data.tokenizer_limits import require_modest
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping

tokenizers = pytest.importorskip("tokenizers")

TEXT = "Käse, 🧀 und Wörter: the cat sat on the mat. " * 3
SIZE = 300


def of_bytes() -> Any:
    """Byte-level BPE, as GPT-2's: a token may end within a character."""
    known = tokenizers.Tokenizer(tokenizers.models.BPE())
    known.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    known.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    known.train_from_iterator(["the cat sat on the mat, the cat"], trainer)
    return known


def of_words() -> Any:
    """Of pieces with a blank at their beginning, as sentencepiece's."""
    vocab = [("<unk>", 0.0), ("▁the", -1.0), ("▁cat", -1.0), ("s", -2.0), ("▁", -3.0)]
    known = tokenizers.Tokenizer(tokenizers.models.Unigram(vocab, unk_id=0))
    known.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    known.decoder = tokenizers.decoders.Metaspace()
    return known


def encoding_of(known: Any, size: int = SIZE) -> Tokenizer:
    return Tokenizer(size=size, json_text=known.to_str())


def texts(*rows: str) -> Rows:
    return Rows("x.txt", "texts", [row.encode() for row in rows])


def streamed(inputs: TokenInputs, tokens: list[int]) -> list[str]:
    stream = inputs.stream()
    return [*(stream.add(token) for token in tokens), stream.end()]


@pytest.mark.parametrize("inputs", [Bytes(), encoding_of(of_bytes())], ids=["bytes", "tokenizer"])
def test_texts_come_back_whole_and_token_by_token(inputs: Any) -> None:
    tokens, lengths = inputs.encode(texts(TEXT, "the cat"))
    assert tokens.shape == (2, int(lengths[0]))
    rows = [tokens[row, : int(lengths[row])].tolist() for row in range(2)]
    assert [inputs.decode(row) for row in rows] == [TEXT, "the cat"]
    pieces = streamed(inputs, rows[0])
    assert "".join(pieces) == TEXT
    assert "" in pieces[:-1], "no token of this text ends within a character"
    assert not any("\ufffd" in piece for piece in pieces)


def test_pieces_with_blanks_come_back_token_by_token() -> None:
    inputs = encoding_of(of_words(), 5)
    tokens, _ = inputs.encode(texts("the cats the"))
    assert tokens.tolist() == [[1, 2, 3, 1]]
    assert inputs.decode([1, 2, 3, 1]) == "the cats the"
    assert streamed(inputs, [1, 2, 3, 1]) == ["the", " cat", "s", " the", ""]


@pytest.mark.parametrize("inputs", [Bytes(), encoding_of(of_bytes())], ids=["bytes", "tokenizer"])
def test_half_a_character_at_the_end_is_told_at_the_end_alone(inputs: Any) -> None:
    tokens, lengths = inputs.encode(texts("a🧀"))
    half = tokens[0, : int(lengths[0]) - 1].tolist()
    pieces = streamed(inputs, half)
    assert pieces[:-1] == ["a", *[""] * (len(half) - 1)]
    assert pieces[-1]
    assert set(pieces[-1]) == {"\ufffd"}
    assert "".join(pieces) == inputs.decode(half)


def test_padding_says_nothing_and_numbers_say_themselves() -> None:
    assert Bytes().decode([98, 0, 99]) == "ab"
    assert Ids(size=9).decode([3, 0, 8]) == "3 0 8"
    assert streamed(Ids(size=9), [3, 0, 8]) == ["3", " 0", " 8", ""]
    for inputs in (Ids(size=9), Bytes(), encoding_of(of_bytes())):
        for token in (-1, 300):
            with pytest.raises(ValueError, match=f"{token} is no token, which are from 0 to"):
                inputs.decode([token])


def test_numbers_are_taken_as_they_stand() -> None:
    rows = Rows("x.jsonl", "tokens", [np.array([3, 0, 8]), np.array([1], dtype=np.uint16)])
    tokens, lengths = Ids(size=9).encode(rows)
    assert tokens.tolist() == [[3, 0, 8], [1, 0, 0]]
    assert tokens.dtype == torch.int16
    assert lengths is not None
    assert lengths.tolist() == [3, 1]
    assert Ids(size=40_000).encode(rows)[0].dtype == torch.int32


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (np.array([1, 9]), r"x, row 2: token 9 at position 1 is not of the model's vocabulary, 0 to 8"),
        (np.array([-1]), r"x, row 2: token -1 at position 0"),
        (np.array([1.0]), r"x, row 2: float64 numbers; tokens are whole numbers"),
        (np.array([], dtype=int), r"x, row 2: there is no token in it"),
        (np.array([[1]]), r"x, row 2: there is no token in it"),
    ],
)
def test_what_is_no_row_of_tokens_is_told(content: np.ndarray, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        Ids(size=9).encode(Rows("x", "tokens", [np.array([1]), content]))


def test_texts_that_cannot_be_read_are_told() -> None:
    inputs = encoding_of(of_bytes())
    with pytest.raises(BadInputError, match=r"x, row 1: not a UTF-8 text"):
        inputs.encode(Rows("x", "texts", [b"\xff"]))
    with pytest.raises(BadInputError, match=r"row 1: token \d+ at position 0 .*vocabulary, 0 to 1"):
        encoding_of(of_bytes(), 2).encode(texts("the"))
    with pytest.raises(BadInputError, match=r"x: holds tokens, and the model takes texts"):
        inputs.encode(Rows("x", "tokens", [np.array([1])]))


@pytest.mark.parametrize("how", ["truncation", "padding", "template", "dropout"])
def test_how_rows_were_made_in_another_training_is_no_part_of_a_tokenizer(how: str, tmp_path: Path) -> None:
    plain = of_bytes()
    words = "the cat sat on the mat, " * 100
    expected = plain.encode(words).ids
    if how == "truncation":
        plain.enable_truncation(max_length=512 // 8)
    elif how == "padding":
        plain.enable_padding(length=8000)
    elif how == "template":
        plain.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    else:
        plain.model.dropout = 0.9
    assert plain.encode(words).ids != expected
    plain.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text(words, encoding="utf-8")
    task = TokenFiles(
        vocabulary=SIZE,
        path=str(tmp_path / "text.txt"),
        tokenizer=str(tmp_path / "tokenizer.json"),
        length=4,
        stride=5,
    )
    train = task.load().train
    read = torch.cat([train.inputs, train.labels[:, -1:]], dim=1).flatten().tolist()
    assert read == expected[: len(read)]
    assert len(read) > 0.85 * len(expected)


def trained(folder: Path) -> Checkpoint:
    """Of a task with a tokenizer, as a run saves it."""
    of_bytes().save(str(folder / "tokenizer.json"))
    (folder / "text.txt").write_text(TEXT * 9, encoding="utf-8")
    data = {"task": "tokens", "vocabulary": SIZE, "length": 4}
    recipe = recipe_from_mapping(
        {
            "name": "tiny",
            "data": {**data, "path": str(folder / "text.txt"), "tokenizer": str(folder / "tokenizer.json")},
            "model": {"layer": {"kind": "mamba", "state_dim": 2}, "model_dim": 4},
            "train": {"steps": 1},
        },
        "test",
    )
    dataset = recipe.data.load()
    model = build_model(recipe.model, dataset.spec)
    return Checkpoint.of(model, recipe, dataset.spec, step=0, encoding=dataset.encoding)


def test_checkpoints_hold_the_tokenizer(tmp_path: Path) -> None:
    saved = trained(tmp_path)
    assert saved.encoding == Encoding(
        inputs=Tokenizer(size=SIZE, json_text=read_tokenizer(tmp_path / "tokenizer.json")), outputs=Tokens()
    )
    saved.save(tmp_path / "final.pt")
    exchange.export(saved, "safetensors", tmp_path / "own")
    for file in (tmp_path / "tokenizer.json", tmp_path / "text.txt"):
        file.unlink()
    for place in (tmp_path / "final.pt", tmp_path / "own"):
        inputs = exchange.load(place).encoding.inputs  # type: ignore[union-attr]
        assert isinstance(inputs, Tokenizer)
        tokens, _ = inputs.encode(texts("the cat"))
        assert inputs.decode(tokens[0].tolist()) == "the cat"


def test_a_large_tokenizer_fits_into_a_checkpoint(tmp_path: Path) -> None:
    saved = trained(tmp_path)
    large = Tokenizer(size=SIZE, json_text=read_tokenizer(tmp_path / "tokenizer.json") + " " * 3_000_000)
    saved.encoding = Encoding(inputs=large, outputs=Tokens())
    assert saved.save(tmp_path / "final.pt") > 3_000_000
    assert Checkpoint.load(tmp_path / "final.pt").encoding == saved.encoding


def test_files_that_are_no_tokenizer_are_told(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    for content, told in (
        (b"", "not a tokenizer.json.*it is empty"),
        (b"version https://git-lfs/spec/v1\n", "git-lfs pointer"),
        (b"\xff\xfe{\x00}\x00", "a text in UTF-16"),
    ):
        file.write_bytes(content)
        with pytest.raises(BadInputError, match=told):
            read_tokenizer(file)
    file.write_bytes(b"\xef\xbb\xbf" + of_bytes().to_str().encode())
    assert Tokenizer(size=SIZE, json_text=read_tokenizer(file)).encode(texts("the"))[0].numel()


def test_text_goes_on_after_other_text() -> None:
    inputs = encoding_of(of_words(), 5)
    assert inputs.decode([2]) == "cat"
    after = inputs.stream([1])
    assert [after.add(2), after.end()] == [" cat", ""]
    numbers = Ids(size=9).stream([1])
    assert [numbers.add(2), numbers.end()] == [" 2", ""]
    cheese = [token + 1 for token in "🧀".encode()]
    half = Bytes().stream(cheese[:2])
    assert [half.add(token) for token in cheese[2:]] == ["", "🧀"]


def test_tokens_that_the_tokenizer_has_not_are_never_written() -> None:
    assert encoding_of(of_words(), 5).silent == ()
    assert encoding_of(of_words(), 8).silent == (5, 6, 7)
    assert Ids(size=9).silent == ()


def test_numbers_suit_any_tokenizer_of_their_size() -> None:
    ids, other = (Encoding(inputs=Ids(size=size), outputs=Tokens()) for size in (SIZE, 9))
    one, two = (Encoding(inputs=encoding_of(known), outputs=Tokens()) for known in (of_bytes(), of_words()))
    assert ids.suits(one)
    assert one.suits(ids)
    assert one.suits(one)
    assert not one.suits(two)
    assert not other.suits(one)
    assert not Encoding(inputs=Bytes(), outputs=Tokens()).suits(
        Encoding(inputs=Ids(size=257), outputs=Tokens())
    )


def bomb(part: str, **settings: Any) -> str:
    known = json.loads(of_words().to_str())
    return json.dumps({**known, part: settings})


def replacing(content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": "the"}, "content": content}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 10**6, "not a tokenizer.json: "),
        ('{"normalizer":' * 10**5, "not a tokenizer.json: "),
        (bomb("normalizer", type="Sequence", normalizers=[replacing("the" * 30)] * 3), "a text up to 2.7e+04 times"),
        (bomb("normalizer", type="Prepend", prepend="a" * 10**6), "it puts more than 1,000 signs before each text"),
        (
            bomb("normalizer", type="Precompiled", precompiled_charsmap="/////w=="),
            "its precompiled_charsmap is not as long as it says",
        ),
        (bomb("model", type="BPE", vocab={"a": 10**30}, merges=[]), "not a tokenizer.json: "),
    ],
    ids=["lists", "objects", "replacements", "beginning", "table", "number"],
)  # fmt: skip
def test_a_tokenizer_takes_no_more_room_than_its_size_explains(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(BadInputError) as found:
        read_tokenizer(path)
    assert told in str(found.value)
    assert "\n" not in str(found.value)
    with pytest.raises(BadInputError, match=r"^tokenizer.json: describes no tokenizer: "):
        Tokenizer(size=SIZE, json_text=text).ids("the cat")


def test_of_a_large_file_no_more_is_read_than_a_tokenizer_has(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(BadInputError, match=r"more than 67,108,864 bytes, as no tokenizer\.json has"):
        read_tokenizer(path)


@pytest.mark.parametrize("known", [of_bytes(), of_words()])
def test_what_models_replace_is_modest(known: Any) -> None:
    known.normalizer = tokenizers.normalizers.Sequence([
        tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁"),
        tokenizers.normalizers.Replace(tokenizers.Regex(" {2,}"), " "), tokenizers.normalizers.NFKC(),
    ])  # fmt: skip
    require_modest(known.to_str())
