"""Recordings: decoded, brought to one rate, cut, standardized, and the coefficients of their short stretches."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import soundfile
import torch
from pydantic import ValidationError

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Encoding, Standardization
from compressm_cli.data.encodings.audio import Audio, resampled
from compressm_cli.data.encodings.cepstrum import cepstrum
from compressm_cli.data.files import Files
from compressm_cli.data.layout import Layout
from compressm_cli.data.rows import Rows
from compressm_cli.engine.inputs import opened_input
from compressm_cli.engine.prediction import Inference
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sine(hertz: float, rate: int, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def put(name: str, samples: np.ndarray, rate: int = 8000, **options: Any) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(name, samples, rate, **options)
    return name


def read(place: str) -> Rows:
    return Layout(format="audio_folder").read(place, labelled=False)


def put_classes(folder: str = "rows", count: int = 6, seconds: float = 0.05, rate: int = 8000) -> None:
    for place, name in enumerate(("high", "low")):
        for number in range(count):
            tone = sine(1000 / (1 + place), rate, seconds * (1 + number / 10))
            put(f"{folder}/{name}/{number}.wav", (0.1 + number / 100) * tone + 0.02, rate)


STEREO = np.array([[0.5, -0.25], [1.0, 0.5], [-1.0, -0.5]])


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("wav", {"subtype": "PCM_U8"}, 1 / 100),
        ("wav", {"subtype": "PCM_16"}, 1 / 30000),
        ("WAV", {"subtype": "PCM_24", "format": "WAV"}, 1e-6),
        ("wav", {"subtype": "PCM_32"}, 1e-9),
        ("wav", {"subtype": "FLOAT"}, 0.0),
        ("wav", {"subtype": "DOUBLE"}, 0.0),
        ("flac", {"subtype": "PCM_16"}, 1 / 30000),
        ("flac", {"subtype": "PCM_24"}, 1e-6),
    ],
)
def test_samples_are_from_minus_one_to_one_and_the_mean_of_the_channels(
    suffix: str, options: dict[str, Any], tolerance: float
) -> None:
    rows = read(put(f"x.{suffix}", STEREO, **options))
    np.testing.assert_allclose(rows.content[0], [0.125, 0.75, -0.75], atol=tolerance)
    assert rows.names == [f"x.{suffix}"]


@pytest.mark.parametrize(("rate", "wanted"), [(16000, 8000), (44100, 8000), (8000, 16000), (11025, 8000)])
def test_a_tone_keeps_its_pitch_and_strength_at_another_rate(rate: int, wanted: int) -> None:
    found = resampled(sine(440, rate, 1.0), rate, wanted)
    assert len(found) == math.ceil(rate * wanted / rate)
    inner = slice(200, -200)  # the ends are next to silence
    np.testing.assert_allclose(found[inner], sine(440, wanted, 1.0)[inner], atol=2e-3)
    if wanted < rate:
        beyond = resampled(sine(0.7 * wanted, rate, 1.0), rate, wanted)
        assert np.abs(beyond[inner]).max() < 0.01
    same = sine(440, rate, 0.1)
    assert resampled(same, rate, rate) is same


def by_hand(samples: np.ndarray, rate: int) -> list[list[float]]:
    """What ``cepstrum`` says it is, sum by sum."""
    size, hop, length = round(0.025 * rate), round(0.010 * rate), 512
    count = 1 + max(0, math.ceil((len(samples) - size) / hop))
    found = []
    for start in range(0, count * hop, hop):
        stretch = [samples[i] if i < len(samples) else 0.0 for i in range(start, start + size)]
        stretch = [x * (0.5 - 0.5 * math.cos(2 * math.pi * i / size)) for i, x in enumerate(stretch)]
        power = []
        for k in range(length // 2 + 1):
            angles = [2 * math.pi * k * i / length for i in range(size)]
            real = sum(x * math.cos(a) for x, a in zip(stretch, angles, strict=True))
            imaginary = sum(x * math.sin(a) for x, a in zip(stretch, angles, strict=True))
            power.append(real**2 + imaginary**2)
        top = 2595 * math.log10(1 + rate / 2 / 700)
        edges = [700 * (10 ** (top * i / 41 / 2595) - 1) for i in range(42)]
        energies = []
        for low, own, high in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k, value in enumerate(power):
                hertz = k * rate / length
                if low < hertz <= own:
                    total += value * (hertz - low) / (own - low)
                elif own < hertz < high:
                    total += value * (high - hertz) / (high - own)
            energies.append(math.log(max(total, 1e-10)))
        scales = [math.sqrt((1 if k == 0 else 2) / 40) for k in range(13)]
        found.append(
            [
                s * sum(e * math.cos(math.pi * k * (n + 0.5) / 40) for n, e in enumerate(energies))
                for k, s in enumerate(scales)
            ]
        )
    return found


def test_coefficients_are_what_they_are_said_to_be() -> None:
    random = np.random.default_rng(0)
    samples = sine(300, 4000, 0.05) + 0.1 * random.standard_normal(200)
    samples[120:] = 0.0
    found = cepstrum(samples, 4000)
    assert found.shape == (4, 13)
    np.testing.assert_allclose(found, by_hand(samples, 4000), rtol=1e-9, atol=1e-9)
    assert cepstrum(samples[:7], 4000).shape == (1, 13)
    assert np.isfinite(cepstrum(np.zeros(9000), 44100)).all()


@pytest.mark.parametrize(("features", "count"), [("raw", 1), ("mfcc", 13)])
def test_features_are_standardized_by_the_training_rows_and_padded(features: Any, count: int) -> None:
    put_classes()
    put_classes("other", count=2, seconds=0.1)
    dataset = Files(format="audio_folder", train="rows", test="other", features=features).load()
    assert dataset.spec.features == count
    assert dataset.spec.rows == (11, 1, 4)
    train = dataset.train
    assert train.lengths is not None
    assert int(train.lengths.max()) < train.inputs.shape[1] == dataset.spec.length  # the test rows are longer
    steps = torch.cat([row[:n] for row, n in zip(train.inputs, train.lengths.tolist(), strict=True)])
    torch.testing.assert_close(steps.mean(0), torch.zeros(count), atol=1e-4, rtol=0)
    torch.testing.assert_close(steps.std(0, correction=0), torch.ones(count), atol=1e-4, rtol=0)
    assert not train.inputs[0, train.lengths[0] :].any()
    assert dataset.test.inputs.mean().abs() > 1e-3
    assert dataset.encoding is not None
    stored = Encoding.model_validate(dataset.encoding.model_dump(mode="json"))
    assert stored == dataset.encoding
    again, lengths = stored.inputs.encode(read("other"))
    assert lengths is not None
    assert torch.equal(again, dataset.test.inputs[:, : again.shape[1]])


def test_standardization_needs_no_two_parts_at_once() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal((500, 3)) * [1.0, 1e-3, 0.0] + [1e6, 5.0, 0.1]
    whole, parts = Standardization.fitted(values), Standardization.over(np.split(values, [1, 7, 300]))
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.deviation, whole.deviation, rtol=1e-9)
    assert parts.deviation[2] == 1.0


def test_pieces_have_the_label_of_their_file_and_stay_in_its_split() -> None:
    for name, level in (("a", 0.25), ("b", -0.5)):
        for number in range(5):
            put(f"rows/{name}/{number}.wav", np.full(1000, level + number / 100), 1000, subtype="DOUBLE")
    put("rows/a/short.wav", np.full(300, 0.3), 1000, subtype="DOUBLE")
    task = Files(format="audio_folder", train="rows", validation=0.2, test=0.2, chunk_seconds=0.4)
    dataset = task.load()
    assert dataset.spec.length == 400
    assert dataset.encoding is not None
    inputs = dataset.encoding.inputs
    assert isinstance(inputs, Audio)
    assert inputs.standardization is not None
    levels = []
    for split, files in ((dataset.train, 7), (dataset.validation, 2), (dataset.test, 2)):
        assert split.lengths is not None
        first = inputs.standardization.undo(split.inputs[:, :1, 0].numpy())
        levels.append(set(first.round(2).ravel().tolist()))
        assert len(levels[-1]) == files
        assert ((first > 0).ravel() == (split.labels == 0).numpy()).all()
        assert set(split.lengths.tolist()) <= {400, 200, 300}
    assert not levels[0] & levels[1]
    assert not levels[0] & levels[2]
    pieces = inputs.pieces(task.read("rows"))
    assert pieces.names is not None
    assert pieces.names[:3] == ["a/0.wav#1", "a/0.wav#2", "a/0.wav#3"]
    assert pieces.names[15] == "a/short.wav"
    assert [len(pieces.content[row]) for row in (0, 1, 2, 15)] == [400, 400, 200, 300]


def test_the_end_is_left_out_where_that_is_asked_for() -> None:
    put_classes(seconds=0.1)
    dataset = Files(format="audio_folder", train="rows", max_seconds=0.05).load()
    assert dataset.train.lengths is None
    assert dataset.spec.length == 400


def test_rates_differ_only_where_one_is_named() -> None:
    put_classes()
    put("rows/low/x.flac", sine(500, 16000, 0.1), 16000)
    keys: dict[str, Any] = {"format": "audio_folder", "train": "rows"}
    with pytest.raises(
        BadInputError, match=r"samples a second, and the first has .*data\.sampling_rate=8000"
    ):
        Files(**keys).load()
    dataset = Files(**keys, sampling_rate=4000).load()
    assert dataset.spec.length == 400


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"RIFF and no more", "is cut short|cannot be read as sound"),
        (b"", "cannot be read as sound"),
        ("cut", "is cut short: .* bytes of .*; replace it"),
        ("empty", "there is no sound in it"),
        ("nan", "has samples that are not finite"),
        ("flac", "cannot be read as sound|is cut short"),
    ],
)
def test_what_cannot_be_read_is_told(content: bytes | str, told: str) -> None:
    put_classes()
    put("rows/low/9.wav", sine(440, 8000, 0.5))
    whole = Path("rows/low/9.wav").read_bytes()
    if content == "empty":
        put("rows/low/9.wav", np.zeros(0))
    elif content == "nan":
        put("rows/low/9.wav", np.array([0.0, math.nan]), subtype="FLOAT")
    elif content == "flac":
        put("x.flac", np.random.default_rng(0).uniform(-1, 1, 90000))
        Path("rows/low/9.wav").write_bytes(Path("x.flac").read_bytes()[:60000])
    else:
        Path("rows/low/9.wav").write_bytes(whole[:-100] if content == "cut" else bytes(content))  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match=rf"^rows, recording low/9\.wav: ({told})"):
        Files(format="audio_folder", train="rows").load()


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "flac"])
def test_a_file_that_is_cut_short_is_refused_and_a_stream_is_not(kind: str) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 20001)
    whole = Path(put(f"x.{kind}", samples)).read_bytes()
    assert len(read(f"x.{kind}").content[0]) == 20001
    Path(f"x.{kind}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInputError, match=r"(is cut short|cannot be read as sound)"):
        list(read(f"x.{kind}").content)
    if kind in ("wav", "au"):  # of unknown length, from a program that writes to a pipe
        place = slice(4, 8) if kind == "wav" else slice(8, 12)
        streamed = bytearray(whole)
        streamed[place] = b"\xff" * 4
        Path(f"x.{kind}").write_bytes(streamed)
        assert len(read(f"x.{kind}").content[0]) == 20001


@pytest.mark.parametrize(
    ("claimed", "told"),
    [(2**35, "do not hold the 34,359,738,368 samples"), (2**22, "(is cut short|cannot be read)")],
)
def test_a_head_is_not_believed(claimed: int, told: str) -> None:
    put_classes()
    whole = bytearray(Path(put("x.flac", np.random.default_rng(0).uniform(-1, 1, 500))).read_bytes())
    whole[21] = whole[21] & 0xF0 | claimed >> 32  # 36 bits of the first block of metadata
    whole[22:26] = (claimed % 2**32).to_bytes(4, "big")
    Path("rows/low/9.flac").write_bytes(whole)
    with pytest.raises(BadInputError, match=rf"^rows, recording low/9\.flac: .*{told}"):
        Files(format="audio_folder", train="rows", chunk_seconds=0.01).load()


def test_without_the_library_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    put_classes()
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(BadInputError, match=r"write: pip install 'compressm\[audio\]'"):
        Files(format="audio_folder", train="rows").load()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"format": "image_folder", "sampling_rate": 8000}, "sampling_rate is for recordings; leave it out"),
        ({"resize": "fit", "image_size": [1, 1]}, "image_size is for images; leave it out"),
        ({"chunk_seconds": 1, "max_seconds": 1}, "give one of them"),
        ({"chunk_seconds": 0}, "greater than 0"),
    ],
)
def test_impossible_combinations_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Files(**{"format": "audio_folder", "train": "a", **options})


def test_a_table_names_its_recordings_or_holds_them() -> None:
    put_classes()
    lines = [f"rows/{name}/{number}.wav,{name}" for name in ("high", "low") for number in range(6)]
    Path("list.csv").write_text("\n".join(["file,pitch", *lines]) + "\n")
    keys: dict[str, Any] = {"audio_column": "file", "label_column": "pitch", "max_seconds": 0.05}
    table = Files(format="csv", train="list.csv", **keys).load()
    folder = Files(format="audio_folder", train="rows", max_seconds=0.05).load()
    assert table.fingerprint == folder.fingerprint
    assert table.encoding == folder.encoding
    held = [{"bytes": Path(line.split(",")[0]).read_bytes(), "path": None} for line in lines]
    labels = [line.split(",")[1] for line in lines]
    pandas.DataFrame({"file": held, "pitch": labels}).to_parquet("list.parquet")
    assert Files(format="parquet", train="list.parquet", **keys).load().fingerprint == folder.fingerprint
    held[4] = {"bytes": held[4]["bytes"][:-9], "path": None}
    pandas.DataFrame({"file": held, "pitch": labels}).to_parquet("list.parquet")
    with pytest.raises(BadInputError, match=r"^list\.parquet, recording 5: is cut short"):
        Files(format="parquet", train="list.parquet", **keys).load()
    Path("list.csv").write_text("file,pitch\ngone.wav,low\n")
    with pytest.raises(
        BadInputError, match=r"list\.csv, row 1, column 'file': gone\.wav: no such file in \.; correct"
    ):
        Files(format="csv", train="list.csv", **keys).load()


def test_predictions_of_pieces_are_called_by_their_file() -> None:
    put_classes(seconds=0.1)
    wanted = recipe_from_mapping(
        {
            "name": "tiny",
            "data": {"task": "files", "format": "audio_folder", "train": "rows", "chunk_seconds": 0.06},
            "model": {"layer": {"kind": "lru", "state_dim": 2}, "model_dim": 4},
            "train": {"steps": 1, "batch_size": 2},
        },
        "test",
    )
    dataset = wanted.data.dataset()
    model = build_model(wanted.model, dataset.spec)
    checkpoint = Checkpoint.of(model, wanted, dataset.spec, 1, encoding=dataset.encoding)
    put("new/x.flac", sine(440, 8000, 0.15))
    put("new/y.wav", sine(440, 16000, 0.05), 16000)
    with opened_input(checkpoint, ["new"]) as rows:
        said = Inference(checkpoint, "cpu")(rows)
    assert said.names == ["x.flac#1", "x.flac#2", "x.flac#3", "y.wav"]
    assert said.probabilities is not None
    assert said.probabilities.shape == (4, 2)
    with opened_input(checkpoint, ["new/y.wav"]) as rows:
        assert Inference(checkpoint, "cpu")(rows).names == ["y.wav"]
