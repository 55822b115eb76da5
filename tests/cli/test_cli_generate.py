"""``compressm generate``: text from a language model, a token at a time."""

import io
import json
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from compressm_cli import exchange
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.generate import _stream
from compressm_cli.cli.main import run as command
from compressm_cli.cli.streams import Stream, is_lost
from compressm_cli.data.byte_tokenizer import byte_tokenizer
from compressm_cli.data.encodings import Bytes, Encoding, Ids, Tokenizer, Tokens
from compressm_cli.engine.generation import Writer, WrittenText
from compressm_cli.engine.sampling import Sampling
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """A language model with fresh weights in ``model.pt``."""
    monkeypatch.chdir(tmp_path)
    recipe = recipe_from_mapping(
        {
            "name": "tiny",
            "data": {"task": "text_lm", "max_bytes": 5000, "length": 16},
            "model": {"layer": {"kind": "mamba", "state_dim": 4}, "model_dim": 8, "depth": 2, "norm": "rms"},
            "train": {"steps": 2, "batch_size": 2},
        },
        "test",
    )
    dataset = recipe.data.dataset()
    torch.manual_seed(0)
    made = build_model(recipe.model, dataset.spec)
    with torch.no_grad():
        made.head.weight.mul_(20)  # type: ignore[union-attr]
        # Letters alone: bytes of any value would hardly ever make a text.
        made.head.weight[: ord("a") + 1] = made.head.weight[ord("z") + 2 :] = 0  # type: ignore[index]
    Checkpoint.of(made, recipe, dataset.spec, 2, encoding=dataset.encoding).save(Path("model.pt"))
    return made.eval()


def by_hand(model: torch.nn.Module, prompt: str, count: int, sampling: Sampling, seed: int) -> str:
    """The same, with the whole text passed through the model for each token."""
    generators, tokens = [torch.Generator().manual_seed(seed)], [byte + 1 for byte in prompt.encode()]
    for _ in range(count):
        logits = model(torch.tensor([tokens]))[:, -1].detach()
        logits[:, 0] = -torch.inf
        tokens.append(int(sampling.draw(logits, generators)))
    return bytes(token - 1 for token in tokens).decode("utf-8", "replace")


@pytest.mark.parametrize("options", [[], ["--temperature", "0"], ["--top-k", "5", "--top-p", "0.8"]])
def test_a_text_is_what_the_whole_model_says(
    model: torch.nn.Module, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = dict(zip(options[::2], map(float, options[1::2]), strict=True))
    sampling = Sampling(
        words.get("--temperature", 1.0), int(words.get("--top-k", 0)) or None, words.get("--top-p")
    )
    arguments = ["generate", "model.pt", "--prompt", "Once", "--tokens", "12", "--seed", "3", *options]
    assert command(arguments) == 0
    told = capsys.readouterr()
    assert told.out == by_hand(model, "Once", 12, sampling, 3) + "\n"
    assert "12 tokens in" in told.err


def test_several_prompts_at_once(model: torch.nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["Once upon a time", "a", "ünï"]
    given = [word for prompt in prompts for word in ("--prompt", prompt)]
    assert command(["generate", "model.pt", *given, "--tokens", "9", "--temperature", "0"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for prompt, line in zip(prompts, found, strict=True):
        text = by_hand(model, prompt, 9, Sampling(0.0), 0).removeprefix(prompt)
        assert line == {"prompt": prompt, "text": text, "end": "length"}


def test_several_files_of_prompts(model: torch.nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    for name, encoding in (("a.txt", "utf-8"), ("b.txt", "utf-8-sig")):
        Path(name).write_text(f"ü{name}", encoding=encoding)
    given = ["generate", "model.pt", "--prompt-file", "a.txt", "--prompt-file", "b.txt", "--tokens", "2"]
    assert command(given) == 0
    found = [json.loads(line)["prompt"] for line in capsys.readouterr().out.splitlines()]
    assert found == ["üa.txt", "üb.txt"]


def test_a_text_ends_before_a_stop(model: torch.nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    whole = by_hand(model, "Once", 40, Sampling(), 1).removeprefix("Once")
    stop = whole[11:14]
    place = whole.find(stop)
    Path("start.txt").write_text("Once")
    arguments = ["generate", "model.pt", "--prompt-file", "start.txt", "--tokens", "40", "--seed", "1"]
    assert command([*arguments, "--stop", "never there", "--stop", stop]) == 0
    told = capsys.readouterr()
    assert told.out == f"Once{whole[:place]}\n"
    assert f"{place + 3} tokens in" in told.err


def test_what_could_begin_a_stop_is_held_back() -> None:
    text = WrittenText(Bytes().stream(), ["abc"])
    shown = [text.add(ord(letter) + 1, False) for letter in "xabab"]
    assert shown == ["x", "", "", "ab", ""]
    assert text.add(ord("d") + 1, True) == "abd"
    assert text.is_over
    assert not text.is_stopped


def test_texts_come_as_they_are_written(model: torch.nn.Module) -> None:
    writer = Writer(Checkpoint.load(Path("model.pt")))
    pieces = writer(["Once"], 1_000_000)
    assert next(pieces).prompt == 0
    assert writer.written < 10


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give --prompt TEXT or --prompt-file FILE"),
        (["--prompt", ""], "a prompt is empty"),
        (["--prompt-file", "none.txt"], "--prompt-file none.txt: cannot be read"),
        (["--prompt", "caf\udce9"], "--prompt 'caf\\udce9': not UTF-8 text"),
        (
            ["--prompt-file", "latin.txt"],
            "--prompt-file latin.txt: not a UTF-8 text: the byte 0xe9 at position 4;",
        ),
        (["--prompt-file", "-", "--prompt-file", "-"], "standard input is read once"),
        (["--prompt", "a", "--top-p", "0"], "0.0 is not in the range 0<x<=1"),
        (["--prompt", "a", "--temperature", "-1"], "-1 is not in the range 0.0<=x"),
        (["--prompt", "a", "--temperature", "inf"], "inf is no number to divide by"),
        (["--prompt", "a", "--stop", "b", "--stop", ""], "an empty text is found everywhere"),
    ],
)
def test_wrong_words_are_told(
    model: torch.nn.Module, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("latin.txt").write_bytes(b"caf\xe9")
    assert command(["generate", "model.pt", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_prompt_on_standard_input(
    model: torch.nn.Module, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Once\n")))
    assert command(["generate", "model.pt", "--prompt-file", "-", "--tokens", "3", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == by_hand(model, "Once\n", 3, Sampling(0.0), 0) + "\n"
    monkeypatch.setattr("sys.stdin", None)
    assert command(["generate", "model.pt", "--prompt-file", "-"]) == 2
    assert "error: standard input: it is closed; give a file" in capsys.readouterr().err


def test_a_model_of_classes_writes_no_text(
    model: torch.nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_from_mapping(
        {"name": "t", "data": {"task": "digits"}, "model": {"layer": {"kind": "lru", "state_dim": 4}},
         "train": {"steps": 1, "batch_size": 2}}, "test",
    )  # fmt: skip
    dataset = recipe.data.dataset()
    classes = build_model(recipe.model, dataset.spec)
    Checkpoint.of(classes, recipe, dataset.spec, 1, encoding=dataset.encoding).save(Path("c.pt"))
    assert command(["generate", "c.pt", "--prompt", "a"]) == 2
    assert "says classes or numbers, no text; use: compressm predict" in capsys.readouterr().err


def test_numbers_of_tokens_go_on_as_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_from_mapping(
        {"name": "t", "data": {"task": "tokens", "vocabulary": 9, "length": 8},
         "model": {"layer": {"kind": "lru", "state_dim": 4}}, "train": {"steps": 1, "batch_size": 2}}, "test",
    )  # fmt: skip
    dataset = recipe.data.dataset()
    made = build_model(recipe.model, dataset.spec).eval()
    encoding = Encoding(inputs=Ids(size=9), outputs=Tokens())
    Checkpoint.of(made, recipe, dataset.spec, 1, encoding=encoding).save(Path("t.pt"))
    assert command(["generate", "t.pt", "--prompt", "3 8", "--tokens", "1", "--temperature", "0"]) == 0
    best = int(made(torch.tensor([[3, 8]]))[0, -1].argmax())
    assert capsys.readouterr().out == f"3 8 {best}\n"
    for wrong, told in (
        ("3 x", "write numbers with blanks"),
        ("0_3", "write numbers with blanks"),
        ("3 9", "token 9 at position 1 is not of"),
    ):
        assert command(["generate", "t.pt", "--prompt", wrong]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--temperature", "0"], ["--top-p", "0.9", "--stop", "qq"]])
def test_a_prompt_is_gone_on_with_alike_alone_and_beside_others(
    model: torch.nn.Module, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def lines(*prompts: str) -> list[dict[str, str]]:
        given = [word for prompt in prompts for word in ("--prompt", prompt)]
        assert command(["generate", "model.pt", *given, "--tokens", "20", "--seed", "5", *options]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    one, other, again = lines("Once upon", "a", "Once upon")
    assert lines("a", "Once upon") == [other, one]
    assert command(["generate", "model.pt", "--prompt", "a", "--tokens", "20", "--seed", "5", *options]) == 0
    assert capsys.readouterr().out == f"a{other['text']}\n"
    assert (one["text"] == again["text"]) == (
        "--temperature" in options
    )  # a prompt twice is gone on with twice
    assert lines("Once upon", "Once upon") == [one, again]


def test_the_example_in_python_is_that_of_the_command(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "decoding.md").read_text(encoding="utf-8")
    _, example = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    given = [
        "--prompt",
        "7 times",
        "--prompt",
        "8 times",
        "--temperature",
        "0.8",
        "--seed",
        "1",
        "--stop",
        ".",
    ]
    assert command(["generate", "model.pt", *given, "--tokens", "30"]) == 0
    wanted = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    monkeypatch.setattr(exchange, "load", lambda place: Checkpoint.load(Path("model.pt")))
    exec(compile(example, "decoding.md", "exec"), {})
    lines = [line.split(" ") for line in capsys.readouterr().out.splitlines()]
    assert ["".join(text for place, text, _ in lines if place == str(n)) for n in (0, 1)] == wanted


def test_nothing_is_written_for_nobody(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    place, end = os.pipe()
    with os.fdopen(end, "w") as inner:
        monkeypatch.setattr("sys.stdout", Stream(inner))
        os.close(place)
        writer = Writer(Checkpoint.load(Path("model.pt")))
        _stream("Once", writer(["Once"], 1_000_000))
        assert writer.written < 10
        assert is_lost(sys.stdout)


def test_what_the_tokenizer_does_not_know_of_a_prompt_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    words = tokenizers.models.WordLevel({"[UNK]": 0, "the": 1, "cat": 2}, unk_token="[UNK]")
    letters = tokenizers.models.BPE({"t": 0, "h": 1, "e": 2}, [])  # leaves out what it does not know
    wanted = {"words": [], "the dog": ["dog"], "the cat": [], "a the": ["a"]}
    for known, cases in ((words, wanted), (letters, {"the": [], "the_": ["_"], "x the yz": ["x", "yz"]})):
        tokenizer = tokenizers.Tokenizer(known)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        inputs = Tokenizer(size=5, json_text=tokenizer.to_str())
        for prompt, unread in cases.items():
            assert inputs.unread(prompt) == (["words"] if prompt == "words" else unread)
    assert Tokenizer(size=257, json_text=byte_tokenizer()).unread("ünï 日本\n🙂") == []
    recipe = recipe_from_mapping(
        {"name": "t", "data": {"task": "tokens", "vocabulary": 5, "length": 8},
         "model": {"layer": {"kind": "lru", "state_dim": 4}}, "train": {"steps": 1, "batch_size": 2}}, "test",
    )  # fmt: skip
    data = recipe.data.spec()
    encoding = Encoding(inputs=Tokenizer(size=5, json_text=tokenizer.to_str()), outputs=Tokens())
    made = build_model(recipe.model, data)
    Checkpoint.of(made, recipe, data, 1, encoding=encoding).save(Path("t.pt"))
    assert command(["generate", "t.pt", "--prompt", "the x", "--tokens", "1"]) == 0
    told = "warning: prompt 'the x': the tokenizer does not know ['x'], so that the model does not see it\n"
    assert told in capsys.readouterr().err
