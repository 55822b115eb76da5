"""A model of others comes without data: it is measured on random tokens, with a warning, and never judged on them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from exchange_models import LAYERS, VOCABULARY, checkpoint

from compressm_cli import exchange
from compressm_cli.cli.main import run as command
from compressm_cli.engine import experiment
from compressm_cli.engine.view import SilentView
from compressm_cli.recipe import recipe_from_mapping
from compressm_cli.reports import analyze
from compressm_cli.reports.agreement import prediction_agreement
from compressm_cli.reports.arms import read_arms

SMALL = ["data.length=12"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of transformers."""
    place = tmp_path / "theirs"
    exchange.export(checkpoint(LAYERS["mamba"]), "hf", place)
    return place


def texts(folder: Path) -> dict[str, list[str]]:
    """Both ways that the warning names, and ``docs/exchange.md``."""
    tokenizers = pytest.importorskip("tokenizers")
    words = [f"w{i}" for i in range(VOCABULARY)]
    known = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0")
    tokenizer = tokenizers.Tokenizer(known)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    numbers = np.arange(3000) % VOCABULARY
    corpus, tokens = folder.parent / "corpus.txt", folder.parent / "tokens.npy"
    corpus.write_text(" ".join(words[i] for i in numbers), encoding="utf-8")
    np.save(tokens, numbers)
    return {
        "text": [f"data.path={corpus}", f"data.tokenizer={folder / 'tokenizer.json'}"],
        "tokens": [f"data.path={tokens}"],
    }


def test_compress_warns_and_does_not_judge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compress", str(folder), "--order", "2", *SMALL]
    assert command([*arguments, "--output", str(folder.parent / "a.pt"), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)["validation"]
    assert (found["before"], found["after"]) == (None, None)
    assert "uniformly random tokens" in found["reason"]
    assert captured.err.count("warning:") == 1
    for text in ("data.path=corpus.txt", "data.tokenizer=tokenizer.json", "data.path=tokens.npy"):
        assert text in captured.err
    assert command([*arguments, "--output", str(folder.parent / "b.pt")]) == 0
    captured = capsys.readouterr()
    out = " ".join(captured.out.split())
    assert "Gramians from random tokens" in out
    assert "loss" not in out
    assert "accuracy" not in out


def test_analyze_warns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["analyze", str(folder), "--no-plots", *SMALL]) == 0
    captured = capsys.readouterr()
    assert "uniformly random tokens" in captured.err
    assert "Orders by energy threshold, Gramians from random tokens" in captured.out
    unjudged = analyze(folder, (0.9,), overrides=SMALL).unjudged
    assert unjudged is not None
    assert "data.path=corpus.txt" in unjudged


@pytest.mark.parametrize("source", ["text", "tokens"])
def test_what_the_warning_says_works(folder: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*SMALL, *texts(folder)[source]]
    output = folder.parent / "small.pt"
    assert command(["compress", str(folder), "--order", "2", "--output", str(output), "--json", *given]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning") == 0
    found = json.loads(captured.out)["validation"]
    assert found["reason"] is None
    assert found["before"]["labels"] > 100
    assert command(["analyze", str(folder), "--no-plots", *given]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning") == 0
    assert "random" not in captured.out


def test_nothing_is_compared_on_random_tokens(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    checkpoint(LAYERS["mamba"]).save(path)
    _, agreement = prediction_agreement(read_arms([path, path]), torch.device("cpu"))
    assert agreement is not None
    assert agreement.share is None
    assert "uniformly random tokens" in str(agreement.reason)


def test_a_run_on_random_tokens_says_so(tmp_path: Path) -> None:
    told: list[str] = []

    class Listening(SilentView):
        def message(self, text: str) -> None:
            told.append(text)

    mapping = {
        "name": "random",
        "data": {"task": "tokens", "vocabulary": 11, "length": 8},
        "model": {"layer": {"kind": "lru", "state_dim": 4}, "model_dim": 4, "depth": 1},
        "train": {"steps": 1, "batch_size": 4},
        "compression": {"method": "none"},
        "output": {"root": str(tmp_path)},
    }
    recipe = recipe_from_mapping(mapping, "test")
    experiment.start(recipe, 0, experiment.load_data(recipe), Listening(), "test")
    assert sum("uniformly random tokens" in text for text in told) == 1


@pytest.mark.parametrize("beside", [True, False], ids=["with its tokenizer", "without one"])
def test_a_foreign_model_is_evaluated_on_texts_and_on_numbers_alike(
    beside: bool, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = texts(folder)
    if not beside:
        moved = (folder / "tokenizer.json").rename(folder.parent / "tokenizer.json")
        given["text"][1] = f"data.tokenizer={moved}"
    losses = []
    for data in given.values():
        assert command(["evaluate", str(folder), *SMALL, *data, "--json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] == losses[1]
    tokens = given["tokens"][0].partition("=")[2]
    np.save(folder.parent / "test.npy", np.load(tokens)[-150:])  # as the share is
    own = [*given["tokens"], f"data.test={folder.parent / 'test.npy'}"]
    assert command(["evaluate", str(folder), *SMALL, *own, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == losses[0]
