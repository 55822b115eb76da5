import hashlib
import re

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.corpus import generated_text
from compressm_cli.data.corpus_words import PREPOSITIONS
from compressm_cli.data.sources.text import not_utf8
from compressm_cli.data.text_lm import TextLm


@pytest.fixture(scope="module")
def corpus():
    return generated_text(300_000)


@pytest.fixture(scope="module")
def prose(corpus):
    return corpus.decode("ascii")


def splits(dataset):
    return dataset.train, dataset.validation, dataset.test


def written(path, content):
    path.write_bytes(content)
    return str(path)


# Windows.


@pytest.mark.parametrize(
    ("size", "length", "stride"),
    [(1000, 7, None), (1003, 10, 3), (4001, 1, None), (999, 40, 100), (1000, 49, 1), (5000, 100, 100)],
)
def test_windows_are_the_text_and_labels_the_bytes_that_follow(tmp_path, size, length, stride):
    content = np.random.RandomState(size).bytes(size)
    path = written(tmp_path / "bytes", content)
    task = TextLm(path=path, length=length, stride=stride, validation_share=0.06, test_share=0.1)
    validation, test = round(0.06 * size), round(0.1 * size)
    stretches = (content[: size - validation - test], content[-validation - test : -test], content[-test:])
    dataset = task.load()
    assert dataset.spec == task.spec()
    assert dataset.spec.rows == tuple(len(s) for s in splits(dataset))
    for split, stretch, step in zip(
        splits(dataset), stretches, (stride or length, length, length), strict=True
    ):
        assert split.inputs.dtype == split.labels.dtype == torch.int16
        assert split.inputs.is_contiguous()
        assert split.labels.is_contiguous()
        assert split.inputs.shape == split.labels.shape == (len(split), length)
        for row, (inputs, labels) in enumerate(
            zip(split.inputs.tolist(), split.labels.tolist(), strict=True)
        ):
            start = row * step
            assert bytes(t - 1 for t in inputs) == stretch[start : start + length]
            assert bytes(t - 1 for t in labels) == stretch[start + 1 : start + length + 1]
        assert len(split) * step + length + 1 > len(stretch), "another window would not fit"


def test_without_stride_every_byte_but_the_first_is_a_label_once(tmp_path):
    content = bytes(range(256)) * 4
    task = TextLm(path=written(tmp_path / "a.txt", content), length=9, validation_share=0.1, test_share=0.1)
    for split, first, size in zip(splits(task.load()), (0, 820, 922), (820, 102, 102), strict=True):
        labels = bytes((split.labels.flatten() - 1).tolist())
        assert labels == content[first + 1 : first + 1 + len(labels)]
        assert size - len(labels) <= 9


def test_splits_share_no_byte(tmp_path):
    """Every position has a number of its own, four bytes each."""
    content = np.arange(2000, dtype=">u4").tobytes()
    task = TextLm(path=written(tmp_path / "n", content), length=24, stride=4)
    seen = []
    for split in splits(task.load()):
        windows = torch.cat([split.inputs, split.labels[:, -1:]], dim=1).sub(1).to(torch.uint8).numpy()
        seen.append({int.from_bytes(w[i : i + 4].tobytes(), "big") for w in windows for i in range(0, 24, 4)})
    train, validation, test = (s & set(range(2000)) for s in seen)
    assert len(train) > 1500
    assert max(train) < 1801
    assert not validation & test
    assert not train & (validation | test)


def test_a_batch_is_of_bytes_in_int64():
    batch = TextLm(max_bytes=6000, length=33).load().validation.rows(torch.tensor([3, 0]))
    assert batch.inputs.shape == batch.labels.shape == (2, 33)
    assert batch.inputs.dtype == batch.labels.dtype == torch.int64
    assert torch.equal(batch.inputs[:, 1:], batch.labels[:, :-1])


def test_the_embedded_corpus_is_described_without_writing_it(monkeypatch):
    monkeypatch.setattr("compressm_cli.data.text_lm.generated_text", lambda size: pytest.fail("generated"))
    spec = TextLm().spec()
    assert (spec.classes, spec.vocabulary, spec.length, spec.features) == (257, 257, 256, None)
    assert spec.per_step
    assert spec.rows == (3515, 195, 195)
    assert TextLm(max_bytes=2_000_000, length=1024, stride=512).spec().rows == (3514, 97, 97)


# Files.


OTHERS = (".git/no.txt", "__MACOSX/no.txt", "picture.png")
"""What is no text of the user's."""


def test_the_texts_of_a_folder_follow_each_other_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    content = {"b/one.md": b"one" * 20, "a.TXT": b"two" * 20, "c.txt": "ö".encode() * 20, "empty.rst": b""}
    for name, text in (content | dict.fromkeys(OTHERS, b"no" * 20)).items():
        written(tmp_path / name, text)
    whole = b"\n".join(content[name] for name in ("a.TXT", "b/one.md", "c.txt", "empty.rst"))
    shares = {"validation_share": 0.2, "test_share": 0.2}
    dataset = TextLm(path=str(tmp_path), length=1, **shares).load()
    read = [bytes((s.labels.flatten() - 1).tolist()) for s in splits(dataset)]
    third = round(0.2 * len(whole))
    assert read == [whole[1 : -2 * third], whole[-2 * third + 1 : -third], whole[-third + 1 :]]
    for limit in (59, 60, 61, 62, 130):
        dataset = TextLm(path=str(tmp_path), length=1, max_bytes=limit, **shares).load()
        third = round(0.2 * limit)
        assert bytes((dataset.test.labels.flatten() - 1).tolist()) == whole[limit - third + 1 : limit]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            lambda p: p / "none.txt",
            {},
            r"none\.txt: no such file or folder; correct data\.path, or leave it out",
        ),
        (lambda p: p, {}, r"no text in this folder; put files \*\.txt.* into it, or name one file"),
        (lambda p: written(p / "e", b""), {}, r"e: there is no text in it; put one there"),
        (
            lambda p: written(p / "s", b"x" * 1000),
            {},
            r"s: of 1,000 bytes, the validation part is 50, and a window of length 256 takes 257; "
            r"write a length of at most 49, other shares, or take a longer text",
        ),
        (
            lambda p: written(p / "s", b"xy"),
            {"length": 1},
            r"part is 0, .*; write other shares, or take a longer",
        ),
        (
            lambda p: written(p / "s", b"x" * 1000),
            {"test_share": 0.49, "validation_share": 0.49},
            r"the training part is 20, .* at most 19",
        ),
        (lambda p: written(p / "s", b"x" * 9000), {"max_bytes": 1000}, r"of 1,000 bytes"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_in_one_line(tmp_path, make, options, message):
    task = TextLm(path=str(make(tmp_path)), **options)
    for use in (task.load, task.spec):
        with pytest.raises(BadInputError, match=message) as refused:
            use()
        assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch):
    path = written(tmp_path / "a.txt", b"x" * 100)

    def refuse(self, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(BadInputError, match=r"a\.txt: cannot be read \(Permission denied\)"):
        TextLm(path=path, length=1).load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bytes": 1000}, "write a length of at most 49, other shares, or a larger max_bytes"),
        ({"length": 50_000}, "write a length of at most 49999"),
        ({"length": 0}, "greater than or equal to 1"),
        ({"stride": 0}, "greater than or equal to 1"),
        ({"test_share": 0.5}, "less than 0.5"),
        ({"path": ""}, "at least 1 character"),
    ],
)
def test_bad_options_are_refused_with_what_to_write(options, message):
    with pytest.raises(ValidationError, match=message):
        TextLm(**options)
    assert TextLm(length=49_999).spec().rows == (18, 1, 1)


# The embedded corpus.


def test_the_corpus_is_the_same_everywhere(corpus):
    """Its hash is pinned: what was measured on it must stay comparable."""
    assert (
        hashlib.sha256(corpus).hexdigest()
        == "cf1cde2c0e69920e2b3f81dcb4674e6eb9e85711630d3a7357abe06867684942"
    )


def test_a_longer_corpus_starts_with_the_shorter_one(corpus):
    for size in (1, 999, 123_456):
        assert generated_text(size) == corpus[:size]


def test_every_sum_is_right(prose):
    sums = re.findall(r"(\d+) ([+x-]) (\d+) = (\d+)", prose)
    assert len(sums) > 300
    for first, sign, second, result in sums:
        a, b = int(first), int(second)
        assert {"+": a + b, "-": a - b, "x": a * b}[sign] == int(result)


def test_every_running_total_is_right(prose):
    ledgers = re.findall(r"The purse of (\w+):\n((?:- .*\n)+)(\w+) paid (\d+) coins\.", prose)
    assert len(ledgers) > 60
    for buyer, lines, payer, paid in ledgers:
        total = 0
        for count, price, product, so_far in re.findall(r"- (\d) .* at (\d) make (\d+), so far (\d+)", lines):
            assert int(count) * int(price) == int(product)
            total += int(product)
            assert total == int(so_far)
        assert (payer, int(paid)) == (buyer, total)


def test_what_is_said_of_a_list_stands_in_it(prose):
    ordinals = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh"]
    lists = re.findall(r"had to bring (\w+) things:\n((?:\d\. .*\n)+)The (\w+) was (.*)\.", prose)
    assert len(lists) > 60
    for _, lines, ordinal, thing in lists:
        things = dict(re.findall(r"(\d)\. (.*)", lines))
        assert list(things) == [str(n + 1) for n in range(len(things))]
        assert things[str(ordinals.index(ordinal) + 1)] == thing


def test_persons_and_passwords_are_what_was_said(prose):
    """Within each chapter, as it was introduced; over the whole text, a person stays the same."""
    known = {}
    answers = 0
    for chapter in re.split(r"Chapter \d+: ", prose)[1:-1]:
        facts = re.findall(r"(\w+) of (\w+) was an? (\w+), and (she|he) had an? (\w+ \w+)\.", chapter)
        assert len(facts) >= 2
        for name, *rest in facts:
            assert known.setdefault(name, rest) == rest
        (password,) = re.findall(r"The word for the gate was (\w+)\.", chapter)
        for said in re.findall(r'"The word is (\w+),"|At the gate s?he said (\w+)\.', chapter):
            assert password in said
        for question, answer, name in re.findall(r'"(.*)\?" asked \w+\.\n"(.*)," said (\w+)', chapter):
            town, trade, _, thing = known[name]
            if "come from" in question:
                assert answer == f"I come from {town}"
            elif "trade" in question:
                assert answer.split()[-1] == trade
            elif "have there" in question:
                assert answer == f"It is my {thing}"
            elif answer.endswith("has it"):
                assert known[answer.split()[0]][3] in question
            answers += 1
        for name, possessive, thing in re.findall(r"(\w+) looked for (her|his) (\w+ \w+)\.", chapter):
            assert (possessive == "her", thing) == (known[name][2] == "she", known[name][3])
    assert answers > 300


def test_brackets_and_quotes_close_and_nest(prose):
    deepest = 0
    for paragraph in prose.split("\n\n")[:-1]:
        assert paragraph.count('"') % 2 == 0
        depth = 0
        for character in paragraph:
            depth += (character == "(") - (character == ")")
            assert depth >= 0
            deepest = max(deepest, depth)
        assert depth == 0
    assert deepest == 3


def test_verbs_agree_with_their_subjects(prose):
    links = "|".join(PREPOSITIONS)
    found = re.findall(rf"[.] The (?:\w+ )?(\w+) (?:{links}) the (?:\w+ )?(\w+) (is|are) \w+[.,]", prose)
    assert len(found) > 150
    singular, plural = ({noun for noun, _, verb in found if verb == wanted} for wanted in ("is", "are"))
    assert singular & plural <= {"fish"}
    assert all(noun.endswith("s") for noun in plural - {"children", "fish"})
    assert {noun + "s" for noun in singular} & plural
    misleading = [verb for _, other, verb in found if other in (singular if verb == "are" else plural)]
    assert len(misleading) > 50, "the nearest noun does not tell"


def test_sentences_start_with_capitals(prose):
    assert not re.findall(r"[^\d]\. [a-z]", prose)
    assert not re.findall(r"\ban (?!honest)[bchdfgjklmnpqrstvwxyz]|\ba [aeiou]", prose)


def test_words_follow_a_heavy_tail(prose):
    words = re.findall(r"[a-z]+", prose.lower())
    names, counts = np.unique(words, return_counts=True)
    counts = np.sort(counts)[::-1]
    assert len(names) > 1500
    ranks = np.arange(10, 1000)
    slope = np.polyfit(np.log(ranks), np.log(counts[ranks]), 1)[0]
    assert -1.6 < slope < -0.6


def test_bytes_that_are_no_text_are_learned_and_told(tmp_path):
    path = written(tmp_path / "latin.txt", "caf\u00e9 ".encode("latin-1") * 100)
    task = TextLm(path=path, length=5)
    assert task.load().train.inputs[0].tolist() == [byte + 1 for byte in b"caf\xe9 "]
    spec, report = task.described()
    assert spec.rows == tuple(split.rows for split in report.splits.values())
    assert [line.partition(";")[0] for line in report.warnings] == [
        f"{path}: the byte 0xe9 at position 4 is not UTF-8"
    ]
    text = written(tmp_path / "text.txt", "café ".encode() * 100)
    assert TextLm(path=text, length=5, max_bytes=304).described()[1] is None  # ends within a sign


def test_where_a_text_stops_being_one(monkeypatch):
    monkeypatch.setattr("compressm_cli.data.sources.text.CHUNK", 4)
    for text in (
        b"abc\xffdefgh",
        "abcüdef".encode() + b"\xe9 ",
        "aaa\U0001f642".encode()[:5] + b"x",
        b"\xe9",
        b"\xe9x",
    ):
        try:
            text.decode()
            expected = None
        except UnicodeDecodeError as error:
            expected = None if "unexpected end" in error.reason else error.start
        assert not_utf8(text) == expected
