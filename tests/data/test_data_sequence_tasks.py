"""Tasks with a label for each step: every label against what plain Python reads off the inputs."""

from collections import Counter

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressm_cli.data import IGNORE, TASKS, DataSpec, Split
from compressm_cli.data.generated import distinct
from compressm_cli.data.induction_heads import InductionHeads
from compressm_cli.data.mqar import Mqar
from compressm_cli.data.selective_copying import SelectiveCopying

FEW = {"train_rows": 60, "validation_rows": 7, "test_rows": 13}
EXAMPLES = [
    ("selective_copying", {}),
    ("selective_copying", {"length": 37, "memorize": 5, "tokens": 3}),
    ("selective_copying", {"length": 6, "memorize": 6}),
    ("selective_copying", {"length": 1, "memorize": 1, "tokens": 500}),
    ("induction_heads", {}),
    ("induction_heads", {"length": 3, "tokens": 2}),
    ("induction_heads", {"length": 51, "tokens": 40_000}),
    ("mqar", {}),
    ("mqar", {"length": 4, "pairs": 1, "vocabulary": 4}),
    ("mqar", {"length": 31, "pairs": 7, "vocabulary": 17}),
    ("mqar", {"length": 64, "pairs": 4, "vocabulary": 8192, "power_a": 1.0}),
]


def splits(dataset):
    return dataset.train, dataset.validation, dataset.test


def copied(task, tokens):
    """Labels of selective copying: the data, which are not noise, at the markers, in order."""
    data = [t for t in tokens if t <= task.tokens]
    assert len(data) == task.memorize
    assert Counter(tokens)[task.tokens + 1] == task.length - task.memorize
    assert tokens[task.length :] == [task.tokens + 2] * task.memorize
    return [data.pop(0) if t == task.tokens + 2 else IGNORE for t in tokens]


def induced(task, tokens):
    """Labels of induction heads: at the end, what followed the special token the first time."""
    special = task.tokens + 1
    assert Counter(tokens)[special] == 2
    assert tokens[-1] == special
    return [IGNORE] * (len(tokens) - 1) + [tokens[tokens.index(special) + 1]]


def recalled(task, tokens, labels):
    """Labels of recall: the values of the keys. Filling may repeat a key, so the scored steps are taken as given."""
    context = tokens[: 2 * task.pairs]
    keys, values = context[0::2], context[1::2]
    assert len(set(keys)) == len(set(values)) == task.pairs
    assert max(keys) < task.vocabulary // 2 <= min(values)
    scored = [step for step, label in enumerate(labels) if label != IGNORE]
    assert sorted(tokens[step] for step in scored) == sorted(keys)
    assert all(step >= len(context) and (step - len(context)) % 2 == 0 for step in scored)
    value = dict(zip(keys, values, strict=True))
    return [value[t] if step in scored else IGNORE for step, t in enumerate(tokens)]


@pytest.mark.parametrize(("name", "options"), EXAMPLES)
def test_every_label_is_what_the_inputs_say(name, options):
    task = TASKS[name](**FEW, **options)
    for split in splits(task.load()):
        for tokens, labels in zip(split.inputs.tolist(), split.labels.tolist(), strict=True):
            assert min(tokens) > 0, "no step is padding"
            if name == "selective_copying":
                assert labels == copied(task, tokens)
            elif name == "induction_heads":
                assert labels == induced(task, tokens)
            else:
                assert labels == recalled(task, tokens, labels)


@pytest.mark.parametrize(("name", "options"), EXAMPLES)
def test_the_description_agrees_with_the_rows(name, options):
    task = TASKS[name](**FEW, **options)
    spec, dataset = task.spec(), task.load()
    assert dataset.spec == spec
    assert spec.per_step
    assert spec.classes == spec.vocabulary
    assert spec.features is None
    assert tuple(len(s) for s in splits(dataset)) == spec.rows == (60, 7, 13)
    for split in splits(dataset):
        assert split.inputs.shape == split.labels.shape == (len(split), spec.length)
        assert split.inputs.is_contiguous()
        assert split.inputs.max() < spec.vocabulary
        assert split.lengths is None
        batch = split.rows(torch.tensor([4, 1]))
        assert batch.inputs.dtype == batch.labels.dtype == torch.int64
        assert torch.equal(batch.labels, split.labels[[4, 1]].long())
        scored = batch.labels[batch.labels != IGNORE]
        assert len(scored) > 0
        assert 0 < scored.min() <= scored.max() < spec.classes


@pytest.mark.parametrize("name", ["selective_copying", "induction_heads", "mqar"])
def test_rows_depend_on_the_seed_alone_and_splits_differ(name):
    options = {"train_rows": 20, "validation_rows": 20, "test_rows": 20}
    first, again = TASKS[name](**options).load(), TASKS[name](**options).load()
    for a, b in zip(splits(first), splits(again), strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.labels, b.labels)
    other = TASKS[name](**options, split_seed=1).load()
    rows = torch.cat([s.inputs for d in (first, other) for s in splits(d)])
    assert len(rows.unique(dim=0)) == len(rows), "no row comes twice, in whatever split"
    longer = TASKS[name](**(options | {"train_rows": 21})).load()
    assert torch.equal(longer.test.inputs, first.test.inputs), "each split has a stream of its own"


def test_more_rows_than_are_drawn_in_one_piece():
    task = SelectiveCopying(length=9, memorize=3, train_rows=2500, validation_rows=1, test_rows=1)
    split = task.load().train
    for tokens, labels in zip(split.inputs.tolist(), split.labels.tolist(), strict=True):
        assert labels == copied(task, tokens)
    assert len(split.inputs[:1024].unique(dim=0)) > 1000
    assert not torch.equal(split.inputs[:1024], split.inputs[1024:2048])


def test_tokens_and_places_are_uniform():
    task = SelectiveCopying(length=10, memorize=4, tokens=5, train_rows=6000)
    inputs = task.load().train.inputs.numpy()[:, :10]
    assert (inputs <= 5).mean(axis=0) == pytest.approx([0.4] * 10, abs=0.03)
    assert np.bincount(inputs[inputs <= 5], minlength=6)[1:] / 24_000 == pytest.approx([0.2] * 5, abs=0.02)

    first = (InductionHeads(length=7, train_rows=6000).load().train.inputs == 16).int().argmax(dim=1)
    assert first.bincount().numpy() / 6000 == pytest.approx([0.2] * 5, abs=0.03)


def test_distinct_draws_are_all_the_ordered_choices_alike():
    drawn = distinct(np.random.RandomState(0), 24_000, 3, 4)
    counts = Counter(map(tuple, drawn.tolist()))
    assert len(counts) == 24
    assert all(len(set(choice)) == 3 for choice in counts)
    assert list(counts.values()) == pytest.approx([1000] * 24, rel=0.15)


@pytest.mark.parametrize("power_a", [0.01, 0.5, 1.0])
def test_the_gap_of_a_single_query_follows_the_power_law(power_a):
    task = Mqar(length=42, pairs=1, power_a=power_a, train_rows=20_000)
    places = (task.load().train.labels[:, 2:] != IGNORE).int().argmax(dim=1) // 2
    expected = np.arange(1, 21) ** (power_a - 1)
    expected /= expected.sum()
    error = np.sqrt(expected / 20_000)
    assert (np.abs(np.bincount(places, minlength=20) / 20_000 - expected) < 4.5 * error).all()


def test_several_gaps_are_weighted_draws_without_return():
    """Against NumPy's own draws, one row at a time."""
    task = Mqar(length=20, pairs=3, power_a=0.2, train_rows=8000)
    split = task.load().train
    weights = np.arange(1, 8) ** -0.8
    random = np.random.RandomState(5)
    drawn = [random.choice(7, 3, replace=False, p=weights / weights.sum()) for _ in range(8000)]
    gaps = [
        [(tokens.index(key, 6) - 6) // 2 for key in tokens[0:6:2]]
        for tokens, labels in zip(split.inputs.tolist(), split.labels.tolist(), strict=True)
        # Only where the filling repeats no key, so that queries are known by their tokens alone.
        if all(tokens[6:].count(key) == 1 for key in tokens[0:6:2])
    ]
    assert len(gaps) > 6000
    for place in range(3):
        ours = np.bincount([g[place] for g in gaps], minlength=7) / len(gaps)
        theirs = np.bincount([g[place] for g in drawn], minlength=7) / len(drawn)
        assert ours == pytest.approx(theirs, abs=0.03)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("selective_copying", {"length": 9, "memorize": 10}, "write a length of at least 10"),
        ("selective_copying", {"tokens": 1}, "greater than or equal to 2"),
        ("induction_heads", {"length": 2}, "greater than or equal to 3"),
        ("mqar", {"length": 31, "pairs": 8}, "at least 32, or at most 7 pairs"),
        ("mqar", {"pairs": 8, "vocabulary": 17}, "at least 18, or at most 7 pairs"),
        ("mqar", {"power_a": 0.0}, "greater than 0"),
        ("mqar", {"split_seed": -1}, "greater than or equal to 0"),
    ],
)
def test_bad_options_are_refused_with_what_to_write(name, options, message):
    with pytest.raises(ValidationError, match=message):
        TASKS[name](**options)


@pytest.mark.parametrize("name", ["selective_copying", "induction_heads", "mqar"])
def test_long_sequences_are_described_without_generating_them(name):
    spec = TASKS[name](length=1_000_000, train_rows=10_000_000).spec()
    assert spec.length >= 1_000_000
    assert spec.rows == (10_000_000, 1000, 2000)


def test_labels_of_steps_are_cut_with_the_inputs():
    inputs = torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0], [1, 2, 3, 4]], dtype=torch.int8)
    labels = torch.where(inputs > 0, inputs, IGNORE)
    split = Split(inputs, labels, torch.tensor([2, 1, 4]))
    batch = split.rows(torch.tensor([1, 0]))
    assert batch.inputs.tolist() == [[3, 0], [1, 2]]
    assert batch.labels.tolist() == [[3, IGNORE], [1, 2]]
    assert batch.labels.dtype == torch.int64
    moved = split.to(torch.device("meta"))
    assert moved.labels.device.type == moved.lengths.device.type == "meta"
    assert len(split) == 3


def test_a_description_without_the_key_is_of_whole_sequences():
    assert not DataSpec(classes=2, length=3, features=1).per_step
