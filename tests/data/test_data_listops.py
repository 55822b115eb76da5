import statistics
import time

import numpy as np
import pytest
import torch

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.listops import ListOps
from compressm_cli.data.listops_expressions import draw_expressions

SHORT = {"min_length": 20, "max_length": 100, "train_rows": 8000, "validation_rows": 1000, "test_rows": 1000}
WORDS = ["<pad>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]"]
RULES = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda values: int(statistics.median(values)),
    "[SM": lambda values: sum(values) % 10,
}


def evaluate(words, depth=1):
    """Value of the expression at the head of ``words`` (consumed), its depth, its numbers of arguments."""
    word = words.pop(0)
    if word not in RULES:
        return int(word), depth, []
    values, deepest, counts = [], depth, []
    while words[0] != "]":
        value, reached, inner = evaluate(words, depth + 1)
        values.append(value)
        deepest = max(deepest, reached)
        counts += inner
    words.pop(0)
    return RULES[word](values), deepest, [*counts, len(values)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _use_cache(cache, monkeypatch):
    monkeypatch.setenv("COMPRESSM_CACHE", str(cache))


@pytest.fixture(scope="module")
def dataset(cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESSM_CACHE", str(cache))
        return ListOps(**SHORT).load()


def rows_of(split):
    for tokens, length, label in zip(
        split.inputs.tolist(), split.lengths.tolist(), split.labels, strict=True
    ):
        assert not any(tokens[length:])
        yield [WORDS[t] for t in tokens[:length]], label


def test_labels_are_the_values_of_the_expressions(dataset):
    deepest, counts = 0, []
    for words, label in rows_of(dataset.train):
        value, depth, arguments = evaluate(words)
        assert not words
        assert value == label
        deepest = max(deepest, depth)
        counts += arguments
    assert deepest <= 10
    assert set(counts) == set(range(2, 11))


def test_an_expression_is_an_operator_a_quarter_of_the_time():
    rows = 2000
    tokens = np.zeros((rows, 10_000), dtype=np.uint8)
    lengths, values = np.zeros(rows, dtype=np.int32), np.zeros(rows, dtype=np.uint8)
    filled = draw_expressions(np.array([1], dtype=np.uint64), 0, rows, tokens, lengths, values)
    assert filled > 0.99 * rows
    assert (lengths[:filled] > 1).mean() == pytest.approx(0.25, abs=0.03)
    assert np.bincount(values[lengths == 1], minlength=10).min() > 100


def test_operators_are_equally_frequent(dataset):
    words = [word for row, _ in rows_of(dataset.train) for word in row]
    share = [words.count(name) / sum(words.count(n) for n in RULES) for name in RULES]
    assert share == pytest.approx([0.25] * 4, abs=0.01)


def test_lengths_lie_strictly_between_the_bounds(dataset):
    lengths = torch.cat([s.lengths for s in (dataset.train, dataset.validation, dataset.test)])
    assert lengths.min() == 21
    assert lengths.max() <= 99
    assert dataset.spec.length == 99


def test_all_rows_differ_within_and_between_splits(dataset):
    rows = torch.cat([s.inputs for s in (dataset.train, dataset.validation, dataset.test)])
    assert len(rows.unique(dim=0)) == 10_000


def test_rows_are_kept_and_read_back(dataset, cache, monkeypatch):
    path = ListOps(**SHORT).cache_path()
    assert path.parent == cache
    assert path.is_file()
    monkeypatch.setattr("compressm_cli.data.listops._generate", lambda task: pytest.fail("generated again"))
    again = ListOps(**SHORT).load()
    assert torch.equal(again.train.inputs, dataset.train.inputs)
    assert torch.equal(again.test.labels, dataset.test.labels)


def test_the_same_seed_gives_the_same_rows_in_another_cache(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path))
    started = time.monotonic()
    again = ListOps(**SHORT).load()
    assert time.monotonic() - started < 5.0
    assert torch.equal(again.train.inputs, dataset.train.inputs)
    assert not list(tmp_path.glob(".*")), "a temporary file was left behind"


def test_parameters_have_files_of_their_own():
    configs = [{}, {"seed": 1}, {"max_length": 101}, {"min_length": 19}, {"train_rows": 8001}]
    assert len({ListOps(**(SHORT | c)).cache_path() for c in configs}) == len(configs)


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("COMPRESSM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ListOps().cache_path().parent == tmp_path / "compressm"


def test_a_damaged_cache_is_made_anew_and_said_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path))
    config = ListOps(min_length=5, max_length=20, train_rows=30, validation_rows=5, test_rows=5)
    first = config.load()
    config.cache_path().write_bytes(config.cache_path().read_bytes()[:100])
    assert torch.equal(config.load().train.inputs, first.train.inputs)
    assert "cannot be read" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path / "file"))
    config = ListOps(min_length=5, max_length=20, train_rows=30, validation_rows=5, test_rows=5)
    assert len(config.load().train) == 30
    assert "cannot be kept" in capsys.readouterr().err


def test_more_rows_than_there_are_expressions_are_refused():
    with pytest.raises(BadInputError, match="only 10 different sequences of 1 to 1 steps"):
        ListOps(min_length=0, max_length=2, train_rows=1000, validation_rows=1, test_rows=1).load()
