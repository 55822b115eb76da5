"""Encodings: rows of files become the tensors that a model was trained on, with nothing but what is stored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.digits import Digits
from compressm_cli.data.encodings import Bytes, Classes, Encoding, Numbers, Pixels, Series, Standardization
from compressm_cli.data.files import Files
from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.data.mnist1d import Mnist1D
from compressm_cli.data.rows import Rows
from compressm_cli.data.tokens import of_one_length


def test_standardization_is_fitted_in_double_precision_and_undone() -> None:
    # Unix seconds a second apart: in single precision they would all be the same number.
    seconds = 1_700_000_000.0 + np.arange(60.0)
    values = np.stack([seconds, np.full(60, 7.0), np.linspace(-1e-9, 1e-9, 60)], axis=1)
    scale = Standardization.fitted(values)
    standard = scale.apply(values)
    assert standard[:, 1].tolist() == [0.0] * 60
    np.testing.assert_allclose(standard[:, [0, 2]].mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(standard[:, [0, 2]].std(axis=0), 1.0, rtol=1e-12)
    np.testing.assert_allclose(scale.undo(standard), values, rtol=1e-15)
    rows = Rows("x.csv", "series", [values], channels=["t", "c", "x"])
    encoded, lengths = Series(channels=["t", "c", "x"], standardization=scale).encode(rows)
    assert lengths is None
    assert len(encoded[0, :, 0].unique()) == 60


def test_series_of_unequal_lengths_are_padded() -> None:
    rows = Rows("x.npz", "series", [np.ones((2, 1)), np.ones((3, 1))])
    inputs, lengths = Series(channels=["x"]).encode(rows)
    assert inputs[:, :, 0].tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert lengths is not None
    assert lengths.tolist() == [2, 3]
    short = Split(torch.ones(1, 2, 1), torch.zeros(1))
    both = of_one_length({"a": short, "b": Split(inputs, torch.zeros(2), lengths)})
    assert both["a"].inputs.shape == (1, 3, 1)
    assert both["a"].lengths.tolist() == [2]  # type: ignore[union-attr]
    assert of_one_length({"a": short})["a"] is short


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (np.ones((2, 3)), "x.npz, row b: 3 channels, and the model takes 1: x"),
        (np.array([[1.0], [1e39]]), r"x.npz, row b, step 2, channel 'x': 1e\+39 is not finite in single"),
        (np.array([[np.nan]]), "x.npz, row b, step 1, channel 'x': nan is not finite"),
    ],
)
def test_what_cannot_be_encoded_is_told(content: np.ndarray, told: str) -> None:
    rows = Rows("x.npz", "series", [np.ones((1, 1)), content], names=["a", "b"])
    with pytest.raises(BadInputError, match=told):
        Series(channels=["x"]).encode(rows)


def test_rows_of_another_kind_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"x.csv: holds texts, and the model takes images"):
        Pixels(height=1, width=1, mean=[0.5], deviation=[0.5]).encode(Rows("x.csv", "texts", [b"a"]))


def test_the_embedded_sets_are_encoded_as_they_were_for_training() -> None:
    for task, tolerance in ((Mnist1D(train_rows=50, validation_rows=9, test_rows=9), 0.0), (Digits(), 1e-7)):
        dataset = task.load()
        assert dataset.encoding is not None
        inputs = dataset.encoding.inputs
        assert isinstance(inputs, Series)
        assert inputs.standardization is not None
        raw = inputs.standardization.undo(dataset.test.inputs.numpy())
        again, _ = inputs.encode(Rows("x", "series", list(raw)))
        torch.testing.assert_close(again, dataset.test.inputs, rtol=1e-6, atol=max(tolerance, 1e-6))
        assert dataset.encoding.misfit(dataset.spec) is None


def test_numbers_are_told_in_their_own_unit() -> None:
    targets = np.array([[10.0, 1e9], [30.0, 1e9 + 4]])
    outputs = Numbers(names=["a", "b"], standardization=Standardization.fitted(targets))
    encoded = outputs.encode(Rows("x", "series", [np.ones((1, 1))] * 2, targets=targets))
    assert encoded.tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    np.testing.assert_array_equal(outputs.decode(encoded), targets)


def test_an_encoding_is_written_and_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"a{i},{'xy'[i % 2]}\n" for i in range(20)))
    task = Files(
        format="csv", train=str(tmp_path / "rows.csv"), text_column="text", label_column="label", max_length=2
    )
    encoding = task.load().encoding
    assert encoding == Encoding(inputs=Bytes(max_length=2), outputs=Classes(names=["x", "y"]))
    assert Encoding.model_validate(encoding.model_dump(mode="json")) == encoding


@pytest.mark.parametrize("names", [["a", "b", "a"], ["a", "\ud800"]])
def test_names_of_outputs_are_distinct_and_can_be_written(names: list[str]) -> None:
    for outputs in (Classes, Numbers):
        with pytest.raises(ValidationError, match=r"there twice|UTF-8"):
            outputs(names=names)


def test_pixels_are_as_many_as_the_steps_of_the_data() -> None:
    outputs = Classes(names=["a", "b"])
    inputs = Pixels(height=4, width=5, mean=[0.5], deviation=[0.5])
    spec = DataSpec(2, 20, features=1, rows=(1, 1, 1))
    assert Encoding(inputs=inputs, outputs=outputs).misfit(spec) is None
    larger = Encoding(inputs=inputs.model_copy(update={"height": 100_000}), outputs=outputs)
    assert larger.misfit(spec) == "100000 x 5 pixels, and the data have 20"


def test_bytes_come_back_as_text_a_character_at_a_time() -> None:
    stream, text = Bytes().stream(), "aü🙂"
    pieces = [stream.add(byte + 1) for byte in text.encode()]
    assert pieces == ["a", "", "ü", "", "", "", "🙂"]
    assert stream.end() == ""
    assert [stream.add(0xC3 + 1), stream.add(ord("x") + 1), stream.add(0xF0 + 1), stream.end()] == [
        "",
        "\ufffdx",
        "",
        "\ufffd",
    ]
    with pytest.raises(BadInputError, match="whose inputs are series writes no text"):
        Series(channels=["x"]).stream()


def test_targets_are_taken_by_name() -> None:
    outputs, targets = Numbers(names=["p", "q"]), np.array([[1.0, 2.0]])

    def encoded(outputs: Numbers, names: list[str]) -> list[list[float]]:
        rows = Rows(
            "x.csv", "series", [np.ones((1, 1))], targets=targets[:, : len(names)], target_names=names
        )
        return outputs.encode(rows).tolist()

    assert encoded(outputs, ["p", "q"]) == [[1.0, 2.0]]
    assert encoded(outputs, ["q", "p"]) == [[2.0, 1.0]]
    assert encoded(Numbers(names=["p"]), ["renamed"]) == [[1.0]]
    for names in (["p", "r"], ["p"]):
        with pytest.raises(
            BadInputError, match=r"x\.csv: its targets are .*, and the model says \['p', 'q'\]"
        ):
            encoded(outputs, names)
