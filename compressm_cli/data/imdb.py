"""IMDB: is a film review positive? Read byte by byte, as in Long Range Arena."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import hub
from compressm_cli.data.columns import Labels, Texts
from compressm_cli.data.encodings import Bytes, Classes, Encoding
from compressm_cli.data.interface import Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.labels import class_names, first_order
from compressm_cli.data.layout import SUFFIXES, format_of
from compressm_cli.data.report import Report, report_of
from compressm_cli.data.rows import Rows
from compressm_cli.data.sources import SOURCES
from compressm_cli.data.sources.texts import read_text_folder
from compressm_cli.data.splits import Seed, hold_out
from compressm_cli.data.tables import Table
from compressm_cli.data.tokens import BYTE_VOCABULARY, byte_tokens

REPOSITORY = "stanfordnlp/imdb"
FOLDERS = ["neg", "pos"]
ROWS = 25_000
"""Of the training part and of the test part, each."""
MINIMUM = 8
"""Rows of one table that is split."""


class Imdb(TaskConfig):
    """``data: {task: imdb}``: reviews as bytes, 2 classes (Maas et al., 2011; hub: stanfordnlp/imdb)."""

    task: Literal["imdb"] = "imdb"
    max_length: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Bytes of a review that are read; what follows is left out."""
    path: str | None = None
    """A folder to read instead of the hub's copy: ``train*.parquet`` and ``test*.parquet`` as they are on the
    hub, the original ``train`` and ``test`` with ``neg/*.txt`` and ``pos/*.txt``, or tables such as ``train.jsonl`` and
    ``test.jsonl`` (json, jsonl, csv, tsv; a review a row). Or one table of all reviews, of which half are the test
    split. It may hold fewer rows."""
    text_column: Annotated[str, Field(min_length=1)] = "text"
    """Of tables: the review."""
    label_column: Annotated[str, Field(min_length=1)] = "label"
    """Of tables: whether it is positive."""
    split_seed: Seed = 0
    """Which tenth of the training rows is the validation split; of one table also which half is the test split."""

    def load(self) -> Dataset:
        """Read all reviews.

        Raises BadInputError, with how to supply the data, where it is neither at hand nor to be had.
        """
        train, test = self._halves()
        classes = class_names(train.labels or [])
        if len(classes) != len(FOLDERS):
            raise BadInputError(f"{train.source}: {len(classes)} classes; {REPOSITORY} has {len(FOLDERS)}")
        outputs = Classes(names=classes)
        labels = outputs.encode(train)
        inputs, lengths = byte_tokens(list(map(bytes, train.content)), self.max_length)
        held, kept = hold_out(labels, [hub.held_out_rows(len(labels))], self.split_seed)
        spec = self._spec((len(kept), len(held), len(test)))
        if self.path is None:
            hub.check_rows(REPOSITORY, spec.rows, self.spec().rows)
        test_inputs, test_lengths = byte_tokens(list(map(bytes, test.content)), self.max_length)
        splits = {
            "train": Split(inputs[kept], labels[kept], lengths[kept]),
            "validation": Split(inputs[held], labels[held], lengths[held]),
            "test": Split(test_inputs, outputs.encode(test), test_lengths),
        }
        encoding = Encoding(inputs=Bytes(max_length=self.max_length), outputs=outputs)
        report = None
        if self.path is not None:
            report = report_of({"train": train, "test": test}, splits, encoding, {}, hub.SPLITS)
        return Dataset(spec, **splits, class_names=None, encoding=encoding, report=report)

    def spec(self) -> DataSpec:
        """Known without the data, but for the number of rows of a folder of the user's own."""
        if self.path is not None:
            return super().spec()
        held = ROWS // hub.HELD_OUT
        return self._spec((ROWS - held, held, ROWS))

    def described(self) -> tuple[DataSpec, Report | None]:
        if self.path is None:
            return self.spec(), None
        dataset = self.dataset()
        return dataset.spec, dataset.report

    def _spec(self, rows: tuple[int, int, int]) -> DataSpec:
        return DataSpec(classes=2, length=self.max_length, vocabulary=BYTE_VOCABULARY, rows=rows)

    def _halves(self) -> tuple[Rows, Rows]:
        """The training and the test reviews."""
        place = Path(self.path) if self.path is not None else None
        if place is not None and place.is_file():
            whole = self._table(str(place), format_of(place, "texts") or "", [place])
            if len(whole) < MINIMUM:
                raise BadInputError(f"{place}: {len(whole)} rows are too few; give {MINIMUM} or more")
            labels = Classes(names=first_order(class_names(whole.labels or []))).encode(whole)
            test, train = hold_out(labels, [len(whole) // 2], self.split_seed)
            return whole.taken(train.tolist()), whole.taken(test.tolist())
        if place is not None and (files := _split_tables(place)):
            train_rows, test_rows = (self._table(str(f), format_of(f, "texts") or "", [f]) for f in files)
            return train_rows, test_rows
        sources = hub.locate(REPOSITORY, self.path, "train.jsonl and test.jsonl (also json, csv or tsv)")
        first, second = (self._reviews(sources[split]) for split in hub.SPLITS)
        return first, second

    def _reviews(self, source: hub.SplitSource) -> Rows:
        """Texts and classes of one split."""
        if not source.files:
            return read_text_folder(source.folder, classes=FOLDERS)
        return self._table(str(source), source.builder, source.files)

    def _table(self, place: str, format_: str, files: list[Path]) -> Rows:
        if format_ not in SOURCES:
            raise BadInputError(f"{place}: no table of reviews; give one of {', '.join(SUFFIXES)}")
        texts, labels = Texts(), Labels()
        Table.opened(place, format_, files).read({self.text_column: texts, self.label_column: labels})
        return Rows(place, "texts", texts.values, labels=labels.values)


def _split_tables(folder: Path) -> list[Path] | None:
    """The tables of the training and of the test reviews; None where there are no two of a kind."""
    for suffix in SUFFIXES:
        files = [folder / f"{split}{suffix}" for split in hub.SPLITS]
        if suffix != ".parquet" and all(file.is_file() for file in files):
            return files
    return None
