import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import Split
from compressm_cli.data.labels import class_names, class_numbers, first_order
from compressm_cli.data.splits import hold_out
from compressm_cli.data.tokens import byte_tokens


@given(st.lists(st.integers(0, 4), min_size=4, max_size=200), st.integers(0, 1000), st.data())
def test_held_out_rows_are_disjoint_of_exact_size_and_in_proportion(labels, seed, data):
    first = data.draw(st.integers(1, len(labels) // 2))
    second = data.draw(st.integers(1, len(labels) - first))
    tensor = torch.tensor(labels)
    parts = hold_out(tensor, [first, second], seed)
    assert [len(p) for p in parts] == [first, second, len(labels) - first - second]
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    share = tensor[parts[0]].bincount(minlength=5) / first
    whole = tensor.bincount(minlength=5) / len(labels)
    assert ((share - whole).abs() * first).max() <= 3.0
    assert all(torch.equal(a, b) for a, b in zip(parts, hold_out(tensor, [first, second], seed), strict=True))


def test_classes_that_are_numbers_are_ordered_as_numbers():
    assert class_names(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert class_names(["10.0", "2.0", "1e-3", "-.5", "10"]) == ["-.5", "1e-3", "2.0", "10", "10.0"]
    assert class_names(["10", "9", "09"]) == ["09", "9", "10"]
    assert class_names(["10", "9", "x"]) == ["10", "9", "x"]
    assert class_names(["10", "9", "1e9999", "nan"]) == ["10", "1e9999", "9", "nan"]
    assert class_names(["9" * 20, "9" * 19 + "8", "9e19"]) == ["9e19", "9" * 19 + "8", "9" * 20]
    assert first_order(["2.0", "10.0"]) == ["10.0", "2.0"]
    assert first_order(["2", "10"]) == ["2", "10"]


def test_which_rows_are_held_out_stays_as_it_was():
    labels = torch.arange(40) % 3
    assert hold_out(labels, [4, 3], 1)[0].tolist() == [9, 22, 11, 21]


def test_each_row_may_be_a_class_of_its_own():
    held, kept = hold_out(torch.arange(200_000), [20_000], 0)
    assert sorted([*held.tolist(), *kept.tolist()]) == list(range(200_000))


def test_an_unknown_class_is_named_with_its_row():
    assert class_numbers(["b", "a", "b"], ["a", "b"], "f.csv").tolist() == [1, 0, 1]
    with pytest.raises(BadInputError, match=r"f\.csv, row 2: label 'c' does not occur .* 'a', 'b'"):
        class_numbers(["a", "c"], ["a", "b"], "f.csv")


def test_texts_become_bytes_after_the_padding():
    inputs, lengths = byte_tokens([b"\x00\xff", b"abcdef"], 4)
    assert inputs.tolist() == [[1, 256, 0, 0], [98, 99, 100, 101]]
    assert lengths.tolist() == [2, 4]


def test_a_batch_of_tokens_is_wide_enough_for_its_longest_row_only():
    inputs, lengths = byte_tokens([b"a", b"ab", b"abcdef"], 6)
    batch = Split(inputs, torch.tensor([0, 1, 2]), lengths).rows(torch.tensor([1, 0]))
    assert batch.inputs.tolist() == [[98, 99], [98, 0]]
    assert batch.inputs.dtype == torch.int64
    assert batch.labels.tolist() == [1, 0]
