"""Pairs of texts: of a grammar and of the user's own files, as rows of tokens and back."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import translation
from compressm_cli.data.encodings import Bytes, Encoding, SourceTarget, Texts, Words
from compressm_cli.data.encodings.source_target import pairs_of
from compressm_cli.data.files import Files
from compressm_cli.data.interface import IGNORE, Dataset, Split
from compressm_cli.data.rows import Rows
from compressm_cli.data.translation import Translation

FEW: dict[str, Any] = {"train_rows": 300, "validation_rows": 20, "test_rows": 30}
SENTENCES = [
    ("because a green bird seeks a new cat", "weil ein grüner Vogel eine neue Katze sucht"),
    ("sometimes the book finds a woman", "manchmal findet das Buch eine Frau"),
    ("the dogs seek the old ships", "die Hunde suchen die alten Schiffe"),
    (
        "sometimes sixty three houses draw forty six birds",
        "manchmal zeichnen drei und sechzig Häuser sechs und vierzig Vögel",
    ),
    ("forty nine books find the flowers", "neun und vierzig Bücher finden die Blumen"),
    ("because ninety dogs see the ships", "weil neunzig Hunde die Schiffe sehen"),
    ("sometimes the big child sees the new ship", "manchmal sieht das große Kind das neue Schiff"),
    ("nine cats draw the new dog", "neun Katzen zeichnen den neuen Hund"),
    ("a flower loves the lamp", "eine Blume liebt die Lampe"),
]
"""The first of training, which a speaker of both languages has read."""
VERBS = {form for verb in translation.VERBS for form in verb[2:]}
PAIRS = [
    ("guten Tag", "bonjour"),
    ("ja", "oui"),
    ("schön", "très beau"),
    ("nein", "non"),
    ("danke", "merci"),
    ("bitte", "s'il vous plaît"),
]
COLUMNS = {"text_column": "de", "target_text_column": "fr"}


def texts(dataset: Dataset, split: Split) -> list[tuple[str, str]]:
    """What rows say, read off their inputs; their labels say the same."""
    assert dataset.encoding is not None
    inputs = dataset.encoding.inputs
    assert isinstance(inputs, SourceTarget)
    found = []
    for row, labels in zip(split.inputs.tolist(), split.labels.tolist(), strict=True):
        source, target = row[: inputs.source], row[inputs.source :]
        assert (target[0], source.count(inputs.end)) == (inputs.beginning, 1)
        said = [label for label in labels if label != IGNORE]
        assert said[-1] == inputs.end
        assert labels[: inputs.source] == [IGNORE] * inputs.source
        assert target[1 : len(said)] == said[:-1]
        assert not any(target[len(said) :])
        assert inputs.text(target) == inputs.text(said)
        found.append((inputs.text(source), inputs.text(said)))
    assert split.lengths is not None
    assert torch.equal(split.lengths, (split.labels != IGNORE).sum(1) + inputs.source)
    return found


def test_the_grammar_is_english_and_german() -> None:
    task, random, known = Translation(), np.random.RandomState(0), dict[str, str]()
    for _ in range(2000):
        english, german = task.sentence(random)
        assert known.setdefault(" ".join(english), " ".join(german)) == " ".join(german)
        for article, word in pairwise(english):
            assert article not in ("a", "an") or (article == "an") == (word[0] in "aeiou")
        places = [place for place, word in enumerate(german) if word in VERBS]
        assert len(places) == 1
        assert (places[0] == len(german) - 1) == (english[0] == "because")
        assert (places[0] == 1 and german[0].islower()) >= (
            english[0] in ("today", "often", "here", "sometimes")
        )
    assert {"einen", "den", "dem", "fünfzehn", "rotes"} - {w for g in known.values() for w in g.split()} == {
        "dem"
    }


def test_the_first_sentences_are_what_they_were() -> None:
    dataset = Translation(**FEW).dataset()
    assert texts(dataset, dataset.train)[: len(SENTENCES)] == SENTENCES


@pytest.mark.parametrize("clauses", [1, 3])
def test_no_sentence_is_there_twice_and_test_rows_stay(clauses: int) -> None:
    dataset = Translation(clauses=clauses, **FEW).dataset()
    splits = [texts(dataset, split) for split in (dataset.train, dataset.validation, dataset.test)]
    sources = [source for split in splits for source, _ in split]
    assert [len(split) for split in splits] == [300, 20, 30]
    assert len(set(sources)) == len(sources)
    assert any(" and " in source for source in sources) == (clauses > 1)
    more = Translation(clauses=clauses, **{**FEW, "train_rows": 400}).dataset()
    assert more.fingerprint.checksums["test"] == dataset.fingerprint.checksums["test"]
    assert texts(more, more.train)[:300] == splits[0]
    assert dataset.spec.length == dataset.train.length == clauses * 28


def test_rows_of_a_batch_are_cut_after_the_longest_target() -> None:
    dataset = Translation(**FEW).dataset()
    batch = dataset.train.rows(torch.arange(5))
    assert batch.inputs.shape == batch.labels.shape == (5, int(batch.lengths.max()))
    assert batch.length < dataset.spec.length


def test_a_word_that_is_not_known_is_told() -> None:
    encoding = Translation().encoding
    rows = Rows("lines", "texts", [b"the dog sees a cat", "the dög sees a cat".encode()])
    with pytest.raises(BadInputError, match=r"lines, row 2: the model does not know the word 'dög'"):
        encoding.inputs.encode(rows)
    with pytest.raises(
        BadInputError, match=r"lines, row 1: its source has 20 tokens, and the model takes at most 12"
    ):
        encoding.inputs.encode(Rows("lines", "texts", [b"the " * 20]))


def test_an_encoding_comes_back_from_what_is_written_of_it() -> None:
    for encoding in (Translation().encoding, Encoding(inputs=pairs_of([_rows()]), outputs=Texts())):
        again = Encoding.model_validate(encoding.model_dump(mode="json"))
        assert again == encoding
        inputs = again.inputs
        assert isinstance(inputs, SourceTarget)
        assert again.misfit(encoding.spec(inputs.source + inputs.target, (1, 1, 1))) is None
        assert "steps" in str(again.misfit(encoding.spec(99, (1, 1, 1))))
    with pytest.raises(ValidationError, match="inputs are bytes, and outputs texts"):
        Encoding(inputs=Bytes(), outputs=Texts())
    with pytest.raises(ValidationError, match="is no word"):
        Words(names=["a b"])
    with pytest.raises(ValidationError, match="a word is there twice"):
        Words(names=["a", "a"])


def test_words_come_one_at_a_time_as_their_text() -> None:
    words = Words(names=["a", "b"])
    stream = words.stream()
    assert [stream.add(token) for token in (1, 0, 2)] == ["a", "", " b"]
    assert words.decode([1, 0, 2]) == "a b"
    assert words.stream([1]).add(2) == " b"


def _rows() -> Rows:
    sources, targets = zip(*PAIRS, strict=True)
    return Rows("pairs", "texts", [source.encode() for source in sources], labels=list(targets))


def _written(folder: Path, format_: str) -> Path:
    file = folder / f"pairs.{format_}"
    lines = [{"de": source, "fr": target} for source, target in PAIRS]
    if format_ == "jsonl":
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        sign = "\t" if format_ == "tsv" else ","
        file.write_text(
            "".join(f"{one}{sign}{two}\n" for one, two in [("de", "fr"), *PAIRS]), encoding="utf-8"
        )
    return file


@pytest.mark.parametrize("format_", ["tsv", "csv", "jsonl"])
def test_pairs_of_the_users_own_files(tmp_path: Path, format_: str) -> None:
    task = Files(train=str(_written(tmp_path, format_)), format=format_, **COLUMNS)
    dataset = task.dataset()
    found = [
        pair for split in ("train", "validation", "test") for pair in texts(dataset, getattr(dataset, split))
    ]
    assert sorted(found) == sorted(PAIRS)
    assert (task.default_objective(), dataset.spec.vocabulary) == ("translation", 259)
    longest = [max(len(text.encode()) for text in side) + 1 for side in zip(*PAIRS, strict=True)]
    assert (dataset.spec.source, dataset.spec.length) == (longest[0], sum(longest))
    assert task.target_text([ord("a") + 1, 0]) == "a"
    assert dataset.report is not None


def test_rows_that_are_longer_than_those_of_training_are_told(tmp_path: Path) -> None:
    task = Files(train=str(_written(tmp_path, "tsv")), format="tsv", **COLUMNS)
    encoding = task.dataset().encoding
    long = tmp_path / "long.tsv"
    long.write_text("de\tfr\nja\toui\nja\t" + "o" * 40 + "\n")
    other = task.model_copy(update={"test": str(long)})
    with pytest.raises(
        BadInputError, match=r"long.tsv, row 2: its target has 40 tokens, and the model takes at most"
    ):
        other.encoded_split("test", encoding)


def test_a_row_without_a_target_is_told(tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("de\tfr\nja\toui\nnein\t\n")
    with pytest.raises(BadInputError, match=r"pairs.tsv, row 2, column 'fr': the target text is missing"):
        Files(train=str(file), format="tsv", **COLUMNS).load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_column": None, "feature_columns": ["de"]}, "target_text_column goes with text_column"),
        ({"label_column": "c"}, "target_text_column is what is to be said"),
        ({"max_length": 5}, "texts of pairs are read whole"),
        ({"target_text_column": "de"}, "column 'de' is used twice"),
    ],
)
def test_what_does_not_fit_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Files(train="a.tsv", format="tsv", **{**COLUMNS, **changes})
