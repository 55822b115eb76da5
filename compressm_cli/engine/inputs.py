"""The rows of a file that a model is to be used on: read as those that it was trained on, or as the user says."""

import gzip
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.standard_input import standard_input
from compressm_cli.core.text import shorten
from compressm_cli.data.encodings import Encoding, Series
from compressm_cli.data.files import Files, Place, Places, Share
from compressm_cli.data.interface import SPLITS, expanded
from compressm_cli.data.layout import (
    FOLDERS,
    INPUTS,
    SUFFIXES,
    WITHOUT_COLUMNS,
    Format,
    Layout,
    format_of,
    in_format,
)
from compressm_cli.data.patterns import files_of, is_pattern
from compressm_cli.data.reading import LONGEST, reading
from compressm_cli.data.rows import Kind, Rows
from compressm_cli.data.sources import SOURCES, Form
from compressm_cli.data.sources.packed import MARK, PACKED
from compressm_cli.data.sources.text import plain_text
from compressm_cli.engine.prediction import encoding_of
from compressm_cli.recipe.loading import config_from_mapping

STDIN = "-"
STANDARD_INPUT = "standard input"
COLUMNS: dict[Kind, str] = {
    "texts": "data.text_column=NAME",
    "pairs": "data.text_column=[NAME, NAME]",
    "images": "data.image_column=NAME",
    "audio": "data.audio_column=NAME",
    "series": "data.feature_columns=[NAME, ...] (of lists data.sequence_column=NAME)",
}
"""What names the columns of a table that a model takes."""


class InputSettings(Config):
    """What ``KEY=VALUE`` may say of an input."""

    data: Layout


@contextmanager
def opened_input(
    checkpoint: Checkpoint, places: Sequence[str], settings: Sequence[str] = ()
) -> Iterator[Rows]:
    """Within, the rows of a file, a folder, or standard input (``-``), without labels; some are read when asked for.

    Of tables there may be several, also by patterns such as ``part-*.csv``, whose rows follow one another.

    ``settings`` are changes such as ``data.text_column=review`` of the layout that the model's own data have. Raises
    BadInputError where nothing is there, or it cannot be read so.
    """
    takes = encoding_of(checkpoint).inputs.takes
    told = next(
        (text.partition("=")[2].strip() for text in settings if text.startswith("data.format=")), None
    )
    if STDIN not in places:
        yield _of_places(checkpoint, takes, told, places, settings)
    elif len(places) > 1:
        raise BadInputError(f"{STDIN}: standard input is read alone; give it without other files")
    elif told is None:
        yield _of_lines(takes)
    else:
        with _copied_stdin() as file:
            rows = _layout(checkpoint, told, STDIN, settings).read(str(file), labelled=False)
            yield replace(rows, source=file.name)


def _of_places(
    checkpoint: Checkpoint, takes: Kind, told: str | None, places: Sequence[str], settings: Sequence[str]
) -> Rows:
    place, is_there = places[0], len(places) == 1 and Path(places[0]).exists()
    if len(places) == 1 and not is_there and not is_pattern(place):
        raise BadInputError(f"{place}: no such file or folder (paths start at {Path.cwd()})")
    paths = [Path(place)] if is_there else files_of(places, "readable")
    found = told or _one_format(paths, takes)
    if found is None and takes == "texts" and len(paths) == 1 and paths[0].is_file():
        with reading(place, "cannot be read", "make it readable"):
            return _texts(place, [plain_text(_unpacked(paths[0].read_bytes()), paths[0])], [paths[0].name])
    layout = _layout(checkpoint, found, str(paths[0]), settings)
    return layout.read(str(paths[0]) if len(paths) == 1 else places, labelled=False)


def _one_format(paths: Sequence[Path], takes: Kind) -> Format | None:
    """That of all of some files; None where their names do not tell it."""
    formats = {format_of(path, takes): path for path in paths}
    if len(formats) > 1:
        one, other = list(formats.values())[:2]
        raise BadInputError(f"{one} and {other} are of two formats; give the files of each by themselves")
    return next(iter(formats))


def _layout(checkpoint: Checkpoint, found: str | None, place: str, settings: Sequence[str]) -> Layout:
    """How the input is laid out: as the model's own data, but for its format and for what the settings say."""
    task = checkpoint.recipe.data
    own: dict[str, Any] = {}
    if isinstance(task, Layout):
        own = {
            key: value for key, value in task.model_dump(mode="json").items() if key in Layout.model_fields
        }
    if found is None and own.get("format") is None:
        raise BadInputError(
            f"{place}: not known how to read it; write data.format=NAME, of {', '.join(SUFFIXES.values())}"
        )
    if found is not None:
        own = in_format(found, own)
    own = _by_name(encoding_of(checkpoint), own)
    _require_columns(checkpoint, own, place, settings)
    return config_from_mapping(InputSettings, {"data": own}, f"{place}: how it is read", settings).data


def _by_name(encoding: Encoding, own: dict[str, Any]) -> dict[str, Any]:
    """A layout with the columns that the model takes instead of the patterns that chose them: a table may have more.

    Without a header columns are called by their places, where another column may stand.
    """
    inputs = encoding.inputs
    if not (isinstance(inputs, Series) and own.get("feature_columns") and own.get("header", True)):
        return own
    names = inputs.columns or (inputs.channels if inputs.named else None)
    return own if names is None else {**own, "feature_columns": list(names)}


class _Places(Config):
    """What ``data.SPLIT=VALUE`` may say."""

    train: Place | Places | None = None
    validation: Place | Places | Share | None = None
    test: Place | Places | Share | None = None


class _Named(Config):
    data: _Places


def named_place(
    checkpoint: Checkpoint, split: str, changes: Sequence[str], where: str
) -> str | list[str] | None:
    """The file or folder, or the files, that changes name for a split of the user's own files.

    None where they name none, or the share of a file, and for a model whose rows are none of files. Raises
    BadInputError where they name that of another split alone.
    """
    if checkpoint.encoding is None or not isinstance(checkpoint.recipe.data, Files):
        return None
    named = [text for text in changes if text.startswith(tuple(f"data.{key}=" for key in SPLITS))]
    said = config_from_mapping(_Named, {"data": {}}, where, named).data
    places = {key: expanded(value) for key in SPLITS if isinstance(value := getattr(said, key), str | list)}
    if split not in places and (other := next((key for key in places if key != "train"), None)):
        raise BadInputError(
            f"data.{other}: names the rows of the {other} split, and the {split} split is to be judged; write "
            f"data.{split}=FILE, or --split {other}"
        )
    return places.get(split)


def task_for(
    checkpoint: Checkpoint, place: str | Sequence[str], changes: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The settings of a model's own files for others, in the format that their name tells; and what else is changed.

    Only the others are read, so that which files the model was trained and judged on is of no account.
    """
    task, encoding = checkpoint.recipe.data, checkpoint.encoding
    assert isinstance(task, Files)
    assert encoding is not None, "as of any place that is named"
    keys, others = task.model_dump(mode="json"), tuple(f"data.{key}=" for key in SPLITS)
    changes = [text for text in changes if not text.startswith(others)]
    first = Path(place if isinstance(place, str) else place[0])
    is_told = any(text.startswith("data.format=") for text in changes)
    found = None if is_told else format_of(first, encoding.inputs.takes)
    if found not in (None, task.format) and (first.is_dir() or found not in FOLDERS.values()):
        layout = {key: keys.pop(key) for key in Layout.model_fields}
        keys |= in_format(str(found), layout)
    return _by_name(encoding, keys), changes


def _require_columns(
    checkpoint: Checkpoint, own: dict[str, Any], place: str, settings: Sequence[str]
) -> None:
    """BadInputError where nothing says which column of a table the model is to take."""
    takes, format_ = encoding_of(checkpoint).inputs.takes, own.get("format")
    told = [
        key for key in INPUTS if own.get(key) or any(text.startswith(f"data.{key}=") for text in settings)
    ]
    if told or format_ not in SOURCES or format_ in WITHOUT_COLUMNS or takes not in COLUMNS:
        return
    try:
        names = SOURCES[format_](Path(place), Form()).columns
        known = f"; its columns are {shorten(names, LONGEST)}"
    except BadInputError:  # standard input, or it needs other keys to be read
        known = ""
    raise BadInputError(f"{place}: the model takes {takes}; write {COLUMNS[takes]}{known}")


def _of_lines(takes: Kind) -> Rows:
    """A text a line of standard input; empty lines at its end are none."""
    if takes != "texts":
        raise BadInputError(
            "-: standard input has no name to tell its format; write data.format=csv, or another"
        )
    with reading(STANDARD_INPUT, "cannot be unpacked", "give it whole"):
        content = _unpacked(standard_input().read())
    lines = plain_text(content, STANDARD_INPUT).splitlines()
    while lines and not lines[-1]:
        lines.pop()
    return _texts(STANDARD_INPUT, lines)


def _unpacked(content: bytes) -> bytes:
    """Without the packing of gzip, where it has any."""
    return gzip.decompress(content) if content.startswith(MARK) else content


@contextmanager
def _copied_stdin() -> Iterator[Path]:
    """A file with what came by standard input, as long as it is read; messages name no other."""
    with tempfile.TemporaryDirectory(prefix="compressm-") as folder:
        start = standard_input().read(len(MARK))
        file = Path(folder) / (f"{STANDARD_INPUT}{PACKED}" if start == MARK else STANDARD_INPUT)
        with file.open("wb") as copy:
            copy.write(start)
            shutil.copyfileobj(standard_input(), copy)
        try:
            yield file
        except BadInputError as error:
            raise BadInputError(str(error).replace(f"{folder}/", "")) from error


def _texts(source: str, texts: list[bytes], names: list[str] | None = None) -> Rows:
    """Texts as rows; BadInputError where one is empty."""
    if not texts:
        raise BadInputError(f"{source}: there is nothing in it; give a text a line")
    for row, text in enumerate(texts, start=1):
        if not text:
            raise BadInputError(f"{source}, row {row}: the text is empty; correct it, or leave out the row")
    return Rows(source, "texts", texts, names=names)
