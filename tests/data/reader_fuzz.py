"""Mutated files of all formats: each is refused in one line, or read as an independent reader reads it.

    python tests/data/reader_fuzz.py --files 2000

prints, of each format, how many files were refused and how many read, and whatever was neither.
"""

import argparse
import csv
import gzip
import io
import json
import math
import random
import struct
import sys
import tempfile
import traceback
import wave
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.layout import Layout
from compressm_cli.data.rows import Rows
from compressm_cli.data.smnist import SequentialMnist
from compressm_cli.data.token_files import TokenFiles

WORDS = [
    "a",
    "ü",
    "plain",
    "two words",
    'q"uote',
    "com,ma",
    "line\nbreak",
    "1",
    "1.0",
    "yes",
    "yes ",
    "null",
    "a/b",
]
NUMBERS = ["0", "1", "-2.5", "1e3", "1700000000", "0.1", "3.0000000001"]
MNIST = [f"{name}-{kind}-ubyte" for name in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
SEPARATOR = b"\n=== the next file ===\n"
PIECES = [
    b'"', b"\n", b"\r\n", b"\r", b"\x00", b",", b";", b"\t", b"\xef\xbb\xbf", b"NaN", b"1e999", b"Infinity", b"null",
    b"{", b"}", b"[", b"]", b":", b"\\u0000", b"\xff", b"\xc3", b"0x1", b"1_000", b" ", b"true", b"'", b"-", b"..",
    b"99999999999999999999999", "\u2028".encode(), "\u0661".encode(),
    b"?", b"\n@missing false\n", b"\n@seriesLength 2\n", b"\n@equalLength true\n", b"@dimension 1\n",
]  # fmt: skip


@dataclass
class Case:
    """A format: how a valid file is made, how ours and an independent reader read it."""

    suffix: str
    make: Callable[[random.Random], bytes]
    ours: Callable[[Path], Any]
    other: Callable[[bytes], Any]
    """Raises anything where the file cannot be read; what it gives must be what ``ours`` gives."""


@dataclass
class Outcome:
    """What became of the files of a format."""

    refused: int = 0
    read: int = 0
    faults: list[str] = field(default_factory=list)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """The same with one to three bytes, pieces or lines changed."""
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        place, end = sorted(chance.randrange(len(content) + 1) for _ in "ab")
        end = min(end, place + 40)
        kind = chance.randrange(7)
        if kind == 0 and content:
            place = min(place, len(content) - 1)
            content = (
                content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]
            )
        elif kind == 1:
            content = content[:place] + content[end:]
        elif kind == 2:
            content = content[:place] + chance.choice(PIECES) + content[place:]
        elif kind == 3:
            content = content[:end] + content[place:end] + content[end:]
        elif kind == 4:
            content = content[:place] + chance.choice(PIECES) + content[end:]
        elif kind == 5:
            lines = content.splitlines(keepends=True)
            chance.shuffle(lines)
            content = b"".join(lines)
        else:
            content = content[:end]
    return content


def plain(rows: Rows) -> list[tuple[Any, Any]]:
    """Content and label of each row, as plain values."""
    labels = rows.labels or [None] * len(rows)
    content = [c if isinstance(c, bytes) else np.asarray(c).tolist() for c in rows.content]
    return list(zip(content, labels, strict=True))


def _table(chance: random.Random, numbers: bool) -> list[list[str]]:
    rows = chance.randint(2, 6)
    if numbers:
        return [
            ["x", "y", "label"],
            *([*chance.choices(NUMBERS, k=2), chance.choice("ab")] for _ in range(rows)),
        ]
    return [["text", "label"], *([chance.choice(WORDS), chance.choice(WORDS)] for _ in range(rows))]


def _as_csv(table: list[list[str]], **form: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, **form).writerows(table)
    return text.getvalue().encode()


def _column(table: list[list[str]], name: str) -> list[str]:
    header, *rows = table
    if header.count(name) != 1 or any(len(row) != len(header) for row in rows):
        raise ValueError("no such table")
    return [row[header.index(name)] for row in rows]


def _from_csv(content: bytes, delimiter: str, numbers: bool) -> list[tuple[Any, Any]]:
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    table = [row for row in csv.reader(lines, delimiter=delimiter, strict=True) if row]
    labels = _column(table, "label")
    if numbers:
        values = [[float(cell) for cell in _column(table, name)] for name in "xy"]
        return [([[one], [two]], label) for one, two, label in zip(*values, labels, strict=True)]
    return [(text.encode(), label) for text, label in zip(_column(table, "text"), labels, strict=True)]


def _csv_case(suffix: str, delimiter: str, numbers: bool, packed: bool = False) -> Case:
    form = "tsv" if delimiter == "\t" else "csv"
    columns: dict[str, Any] = {"feature_columns": ["x", "y"]} if numbers else {"text_column": "text"}
    layout = Layout(format=form, label_column="label", **columns)  # type: ignore[arg-type]

    def make(chance: random.Random) -> bytes:
        content = _as_csv(_table(chance, numbers), delimiter=delimiter)
        return gzip.compress(content, mtime=0) if packed else content

    def other(content: bytes) -> list[tuple[Any, Any]]:
        return _from_csv(gzip.decompress(content) if packed else content, delimiter, numbers)

    return Case(suffix, make, lambda path: plain(layout.read(str(path))), other)


def _objects(chance: random.Random) -> list[dict[str, Any]]:
    labels: list[list[Any]] = [["pos", "neg"], [0, 1], WORDS]
    kind = chance.choice(labels)
    return [{"text": chance.choice(WORDS), "label": chance.choice(kind)} for _ in range(chance.randint(2, 6))]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _of_objects(objects: Any) -> list[tuple[Any, Any]]:
    found = []
    for one in objects:
        text, label = one["text"], one["label"]
        if not isinstance(text, str) or not isinstance(label, str | int) or isinstance(label, bool):
            raise TypeError("other types")
        found.append((text.encode("utf-8", "surrogatepass"), str(label)))
    if len({type(one["label"]) for one in objects}) > 1:
        raise TypeError("labels of several types")
    return found


def _read_json(content: bytes) -> list[tuple[Any, Any]]:
    text = content.decode("utf-8-sig")
    try:
        objects = json.loads(text, object_pairs_hook=_unique)
        objects = [objects] if isinstance(objects, dict) else objects
    except ValueError:
        objects = [json.loads(line, object_pairs_hook=_unique) for line in text.split("\n") if line.strip()]
    return _of_objects(objects)


def _json_case(suffix: str) -> Case:
    layout = Layout(format=suffix, text_column="text", label_column="label")  # type: ignore[arg-type]

    def make(chance: random.Random) -> bytes:
        objects = _objects(chance)
        ascii_ = chance.random() < 0.5
        if suffix == "json":
            return json.dumps(objects, ensure_ascii=ascii_, indent=chance.choice([None, 1])).encode()
        return "".join(json.dumps(one, ensure_ascii=ascii_) + "\n" for one in objects).encode()

    return Case(suffix, make, lambda path: plain(layout.read(str(path))), _read_json)


def _series_case() -> Case:
    layout = Layout(format="jsonl", sequence_column="s", label_column="label")

    def make(chance: random.Random) -> bytes:
        wide = chance.randint(1, 2)
        rows = [
            {"s": [[chance.randint(-9, 9) / 4 for _ in range(wide)] for _ in range(chance.randint(1, 4))],
             "label": chance.choice("ab")}
            for _ in range(chance.randint(2, 5))
        ]  # fmt: skip
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    def other(content: bytes) -> list[tuple[Any, Any]]:
        text, found = content.decode("utf-8-sig"), []
        for line in text.split("\n"):
            if line.strip():
                one = json.loads(line, object_pairs_hook=_unique)
                steps = [step if isinstance(step, list) else [step] for step in one["s"]]
                if not all(type(v) in (int, float, type(None)) for step in steps for v in step):
                    raise TypeError("no numbers")
                values = [[math.nan if v is None else float(v) for v in step] for step in steps]
                found.append((values, str(one["label"])))
        return list(zip(_unfilled([row for row, _ in found]), (label for _, label in found), strict=True))

    return Case("series.jsonl", make, lambda path: plain(layout.read(str(path))), other)


def _parquet_case() -> Case:
    layout = Layout(format="parquet", text_column="text", label_column="label")

    def make(chance: random.Random) -> bytes:
        rows = chance.randint(2, 6)
        columns = {"text": chance.choices(WORDS, k=rows), "label": chance.choices([0, 1], k=rows)}
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer, compression=chance.choice(["none", "snappy"]))
        return buffer.getvalue()

    return Case(
        "parquet",
        make,
        lambda path: plain(layout.read(str(path))),
        lambda content: _of_objects(pq.read_table(io.BytesIO(content)).to_pylist()),
    )


def _of_a_class(layout: Layout) -> Callable[[Path], Any]:
    """How a file is read that lies alone in the folder of a class."""

    def ours(path: Path) -> Any:
        folder = path.parent / layout.format / "a"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"x{path.suffix}").write_bytes(path.read_bytes())
        return plain(layout.read(str(folder.parent)))

    return ours


def _image_case() -> Case:
    layout = Layout(format="image_folder")

    def make(chance: random.Random) -> bytes:
        size = (chance.randint(1, 5), chance.randint(1, 5), *chance.choice([(), (3,)]))
        pixels = np.frombuffer(chance.randbytes(int(np.prod(size))), dtype=np.uint8).reshape(size)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        return buffer.getvalue()

    def other(content: bytes) -> Any:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            if image.mode not in ("L", "RGB", "1") or "transparency" in image.info or image.getexif():
                return None  # other tests know what these are
            array = np.asarray(image.convert("L") if image.mode == "1" else image)
        return [((array if array.ndim == 3 else array[:, :, None]).tolist(), "a")]

    return Case("png", make, _of_a_class(layout), other)


def _tokens_case() -> Case:
    def ours(path: Path) -> Any:
        task = TokenFiles(vocabulary=50, length=2, path=str(path), validation_share=0.3, test_share=0.3)
        dataset = task.dataset()
        return [s.inputs.tolist() for s in (dataset.train, dataset.validation, dataset.test)]

    def make(chance: random.Random) -> bytes:
        tokens = np.array(
            [chance.randrange(50) for _ in range(30)], dtype=chance.choice(["<u2", "<i4", "<i8"])
        )
        buffer = io.BytesIO()
        np.save(buffer, tokens)
        return buffer.getvalue()

    def other(content: bytes) -> Any:
        return _stretches(np.load(io.BytesIO(content), allow_pickle=False), 50)

    return Case("npy", make, ours, other)


def _npz_case() -> Case:
    layout = Layout(format="npz", sequence_column="x", label_column="y")

    def make(chance: random.Random) -> bytes:
        rows, steps = chance.randint(2, 5), chance.randint(1, 4)
        values = [[chance.randint(-9, 9) / 4 for _ in range(steps)] for _ in range(rows)]
        buffer = io.BytesIO()
        save = chance.choice([np.savez, np.savez_compressed])
        save(buffer, x=np.array(values, dtype=chance.choice(["<f4", "<f8"])), y=np.arange(rows) % 2)
        return buffer.getvalue()

    def other(content: bytes) -> Any:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            x, y = stored["x"], stored["y"]
        wide = x if x.ndim == 3 else x[:, :, None]
        if not np.isfinite(wide.astype(np.float32)).all() or len(x) != len(y) or y.dtype.kind not in "iuU":
            raise ValueError("no such arrays")
        return list(zip(wide.astype(np.float64).tolist(), map(str, y.tolist()), strict=True))

    return Case("npz", make, lambda path: plain(layout.read(str(path))), other)


def _unfilled(rows: list[list[list[float]]]) -> list[list[list[float]]]:
    """Series (steps, channels) without the steps of NaN that fill them up to one length; ValueError for other NaN."""
    found = []
    for row in rows:
        kept = list(row)
        while kept and all(value != value for value in kept[-1]):
            kept.pop()
        if not kept or any(value != value for step in kept for value in step):
            raise ValueError("a gap")
        found.append(kept)
    if found != rows and len(set(map(len, rows))) > 1:
        raise ValueError("filled up to several lengths")
    return found


def _filled_case() -> Case:
    layout = Layout(format="tsv", header=False, label_column="1", feature_columns=["*"])

    def make(chance: random.Random) -> bytes:
        steps, lines = chance.randint(2, 5), []
        for _ in range(chance.randint(2, 5)):
            end = chance.randint(1, steps)
            cells = [*chance.choices(NUMBERS, k=end), *[chance.choice(["NaN", "nan", ""])] * (steps - end)]
            lines.append([chance.choice("ab"), *cells])
        return _as_csv(lines, delimiter="\t")

    def other(content: bytes) -> list[tuple[Any, Any]]:
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
        table = [row for row in csv.reader(lines, delimiter="\t", strict=True) if row]
        if len(set(map(len, table))) != 1 or not all(label for label, *_ in table):
            raise ValueError("no such table")
        rows = [[[float(cell) if cell.strip() else math.nan] for cell in cells] for _, *cells in table]
        return list(zip(_unfilled(rows), (label for label, *_ in table), strict=True))

    return Case("filled.tsv", make, lambda path: plain(layout.read(str(path))), other)


def _ts_header(lines: list[str]) -> dict[str, str]:
    """What is said once of each key; ValueError where it is said in two ways, or has no sense."""
    said: dict[str, str] = {}
    for line in lines:
        if line.startswith("@"):
            key, _, value = line[1:].partition(" ")
            key, value = key.lower().replace("dimensions", "dimension"), value.strip() or "false"
            if said.setdefault(key, value) != value:
                raise ValueError("said twice")
        elif line and not line.startswith("#"):
            raise ValueError("a line before the series")
    for key in ("univariate", "equallength", "missing", "timestamps", "classlabel", "targetlabel"):
        if said.get(key, "true").split()[0].lower() not in ("true", "false"):
            raise ValueError("neither true nor false")
    for key in ("serieslength", "dimension"):
        if not said.get(key, "1").isdecimal():
            raise ValueError("no number")
    return said


def _require_said(said: dict[str, str], rows: list[list[list[float]]], labels: list[str]) -> None:
    def says(key: str, value: str) -> bool:
        return said.get(key, "").lower().split()[:1] == [value]

    lengths, widths = set(map(len, rows)), {len(step) for row in rows for step in row}
    wanted = [
        not says("univariate", "true") or widths == {1},
        not says("univariate", "false") or 1 not in widths,
        not says("equallength", "true") or len(lengths) == 1,
        says("equallength", "false")
        or {int(said.get("serieslength", min(lengths)))} == lengths
        or "serieslength" not in said,
        "dimension" not in said or widths == {int(said["dimension"])},
        not says("missing", "false") or not any(v != v for row in rows for step in row for v in step),
        says("classlabel", "true") and not says("targetlabel", "true") and not says("timestamps", "true"),
        not said.get("classlabel", "").split()[1:] or set(labels) <= set(said["classlabel"].split()[1:]),
    ]
    if not all(wanted):
        raise ValueError("not as the header says")


def _ts_case() -> Case:
    layout = Layout(format="ts")

    def make(chance: random.Random) -> bytes:
        wide, rows = chance.randint(1, 2), chance.randint(2, 5)
        lengths = (
            chance.choices(range(1, 5), k=rows) if chance.random() < 0.5 else [chance.randint(1, 4)] * rows
        )
        one, lines, missing = len(set(lengths)) == 1, [], False
        for steps in lengths:
            end = chance.randint(1, steps) if one else steps
            missing |= end < steps
            dims = [[*chance.choices(NUMBERS, k=end), *["?"] * (steps - end)] for _ in range(wide)]
            lines.append(":".join([*map(",".join, dims), chance.choice("ab")]))
        header = ["# a comment", "@problemName Toy", "@timeStamps false", "@classLabel true a b"]
        more = [f"@univariate {str(wide == 1).lower()}", f"@missing {str(missing).lower()}"]
        more += [f"@equalLength {str(one).lower()}", f"@dimensions {wide}"]
        header += chance.sample(
            [*more, f"@seriesLength {lengths[0]}"] if one else more, k=chance.randint(0, 4)
        )
        return "\n".join([*header, "@data", *lines]).encode()

    def other(content: bytes) -> Any:
        text = io.StringIO(content.decode("utf-8-sig"), newline=None).read()
        lines = [line.strip() for line in text.split("\n")]
        start = next(i for i, line in enumerate(lines) if line.lower().split(" ")[0] == "@data")
        rows, labels = [], []
        for line in lines[start + 1 :]:
            if line and not line.startswith("#"):
                *dims, label = line.split(":")
                values = [
                    [math.nan if c.strip() in ("?", "") else float(c) for c in dim.split(",")] for dim in dims
                ]
                rows.append([list(step) for step in zip(*values, strict=True)])
                labels.append(label.strip())
        _require_said(_ts_header(lines[:start]), rows, labels)
        return list(zip(_unfilled(rows), labels, strict=True))

    return Case("ts", make, lambda path: plain(layout.read(str(path))), other)


def _sound_case() -> Case:
    layout = Layout(format="audio_folder")

    def make(chance: random.Random) -> bytes:
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(chance.choice([4000, 8000]))
            file.writeframes(chance.randbytes(2 * chance.randint(1, 40)))
        return buffer.getvalue()

    def other(content: bytes) -> Any:
        try:
            with wave.open(io.BytesIO(content)) as file:
                width, channels = file.getsampwidth(), file.getnchannels()
                frames = file.readframes(file.getnframes())
        except (wave.Error, RuntimeError):
            return None  # of many kinds of wav files it reads one
        if width != 2 or channels != 1:
            return None
        return [((np.frombuffer(frames, dtype="<i2") / 2**15).tolist(), "a")]

    return Case("wav", make, _of_a_class(layout), other)


def _mnist_case() -> Case:
    def ours(path: Path) -> Any:
        folder = path.parent / "mnist"
        folder.mkdir(exist_ok=True)
        parts = path.read_bytes().split(SEPARATOR)
        for name, part in zip(MNIST, parts, strict=False):
            (folder / name).write_bytes(part)
        dataset = SequentialMnist(path=str(folder)).dataset()
        assert dataset.encoding is not None
        grey = ((dataset.test.inputs * 0.3081 + 0.1307) * 255).round().int().flatten(1).tolist()
        return list(zip(grey, dataset.test.labels.tolist(), strict=True)), dataset.spec.rows

    def make(chance: random.Random) -> bytes:
        parts = []
        for rows in (20, 10):
            parts.append(struct.pack(">4i", 2051, rows, 28, 28) + chance.randbytes(rows * 784))
            parts.append(struct.pack(">2i", 2049, rows) + bytes(i % 10 for i in range(rows)))
        return SEPARATOR.join(parts)

    def other(content: bytes) -> Any:
        parts = content.split(SEPARATOR)
        if len(parts) != len(MNIST):
            return None
        sizes = []
        for images, labels in (parts[:2], parts[2:]):
            magic, rows, height, width = struct.unpack(">4i", images[:16])
            if (magic, height, width) != (2051, 28, 28) or struct.unpack(">2i", labels[:8]) != (2049, rows):
                raise ValueError("another head")
            if len(images) != 16 + 784 * rows or len(labels) != 8 + rows or max(labels[8:]) > 9:
                raise ValueError("other contents")
            sizes.append(rows)
        held = max(1, sizes[0] // 10)
        pixels = np.frombuffer(parts[2][16:], dtype=np.uint8).reshape(-1, 784).tolist()
        return list(zip(pixels, parts[3][8:], strict=True)), (sizes[0] - held, held, sizes[1])

    return Case("idx", make, ours, other)


def _raw_tokens_case() -> Case:
    def ours(path: Path) -> Any:
        task = TokenFiles(
            vocabulary=300, length=2, path=str(path), dtype="uint16", validation_share=0.3, test_share=0.3
        )
        dataset = task.dataset()
        return [s.inputs.tolist() for s in (dataset.train, dataset.validation, dataset.test)]

    def make(chance: random.Random) -> bytes:
        return np.array([chance.randrange(300) for _ in range(40)], dtype="<u2").tobytes()

    def other(content: bytes) -> Any:
        return _stretches(np.frombuffer(content, dtype="<u2"), 300)

    return Case("bin", make, ours, other)


def _stretches(tokens: np.ndarray, vocabulary: int) -> list[list[list[int]]]:
    """Windows of two tokens of three stretches, the last two of three tenths each."""
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or tokens.min() < 0 or tokens.max() >= vocabulary:
        raise ValueError("no tokens")
    held = round(0.3 * len(tokens))
    stretches = np.split(tokens, [len(tokens) - 2 * held, len(tokens) - held])
    return [[s[i : i + 2].tolist() for i in range(0, len(s) - 2, 2)] for s in stretches]


CASES = {
    "csv of texts": _csv_case("csv", ",", False),
    "csv of numbers": _csv_case("csv", ",", True),
    "tsv": _csv_case("tsv", "\t", False),
    "csv.gz": _csv_case("csv.gz", ",", False, packed=True),
    "json": _json_case("json"),
    "jsonl": _json_case("jsonl"),
    "series in jsonl": _series_case(),
    "parquet": _parquet_case(),
    "png": _image_case(),
    "tokens in npy": _tokens_case(),
    "raw tokens": _raw_tokens_case(),
    "npz": _npz_case(),
    "ts": _ts_case(),
    "filled tsv": _filled_case(),
    "wav": _sound_case(),
    "mnist": _mnist_case(),
}


def tried(case: Case, content: bytes, folder: Path) -> str:
    """``refused``, ``read``, or what is wrong."""
    path = folder / f"file.{case.suffix}"
    path.write_bytes(content)
    try:
        ours = case.ours(path)
    except BadInputError as error:
        return "refused" if "\n" not in str(error) and str(error).strip() else f"not one line: {error!s:.300}"
    except Exception:
        return "".join(traceback.format_exc(limit=-3))
    try:
        other = case.other(content)
    except Exception as error:
        why = f"{type(error).__name__}: {error!s:.200}"
        return f"read {ours!s:.300}, which the independent reader refuses: {why}"
    return "read" if other is None or ours == other else f"read {ours!s:.300} instead of {other!s:.300}"


def fuzz(files: int, seed: int = 0) -> Iterator[tuple[str, Outcome]]:
    """So many mutated files, in equal parts of each format."""
    with tempfile.TemporaryDirectory() as folder:
        for name, case in CASES.items():
            outcome, chance = Outcome(), random.Random(f"{seed} {name}")
            for number in range(-(-files // len(CASES))):
                content = case.make(chance)
                content = content if number == 0 else mutated(content, chance)
                became = tried(case, content, Path(folder))
                if number == 0 and became == "refused":
                    became = "a valid file is refused"
                if became in ("refused", "read"):
                    setattr(outcome, became, getattr(outcome, became) + 1)
                else:
                    outcome.faults.append(f"file {number}, {content[:200]!r}: {became}")
            yield name, outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    total: Counter[str] = Counter()
    for name, outcome in fuzz(given.files, given.seed):
        print(
            f"{name:20} {outcome.refused:5} refused {outcome.read:5} read {len(outcome.faults):5} faults",
            flush=True,
        )
        for fault in outcome.faults[:5]:
            print(f"    {fault}")
        total.update(refused=outcome.refused, read=outcome.read, faults=len(outcome.faults))
    print(dict(total))
    sys.exit(bool(total["faults"]))


if __name__ == "__main__":
    main()
