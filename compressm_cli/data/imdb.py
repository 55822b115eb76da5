"""IMDB: is a film review positive? Read byte by byte, as in Long Range Arena."""

from typing import Annotated, Literal

from pydantic import Field

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import hub
from compressm_cli.data.columns import Labels, Texts
from compressm_cli.data.encodings import Bytes, Classes, Encoding
from compressm_cli.data.interface import Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.labels import class_names
from compressm_cli.data.rows import Rows
from compressm_cli.data.sources.texts import read_text_folder
from compressm_cli.data.splits import Seed, hold_out
from compressm_cli.data.tables import Table
from compressm_cli.data.tokens import BYTE_VOCABULARY, byte_tokens

REPOSITORY = "stanfordnlp/imdb"
FOLDERS = ["neg", "pos"]
ROWS = 25_000
"""Of the training part and of the test part, each."""


class Imdb(TaskConfig):
    """``data: {task: imdb}``: reviews as bytes, 2 classes (Maas et al., 2011; hub: stanfordnlp/imdb)."""

    task: Literal["imdb"] = "imdb"
    max_length: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """Bytes of a review that are read; what follows is left out."""
    path: str | None = None
    """A folder to read instead of the hub's copy: ``train*.parquet`` and ``test*.parquet`` as they are on the
    hub, or ``train`` and ``test`` with ``neg/*.txt`` and ``pos/*.txt``. It may hold fewer rows."""
    split_seed: Seed = 0
    """Which tenth of the training rows is the validation split."""

    def load(self) -> Dataset:
        """Read all reviews.

        Raises BadInputError, with how to supply the data, where it is neither at hand nor to be had.
        """
        sources = hub.locate(REPOSITORY, self.path)
        train, test = _reviews(sources["train"]), _reviews(sources["test"])
        classes = class_names(train.labels or [])
        if len(classes) != len(FOLDERS):
            raise BadInputError(
                f"{sources['train']}: {len(classes)} classes; {REPOSITORY} has {len(FOLDERS)}"
            )
        outputs = Classes(names=classes)
        labels = outputs.encode(train)
        inputs, lengths = byte_tokens(list(map(bytes, train.content)), self.max_length)
        held, kept = hold_out(labels, [hub.held_out_rows(len(labels))], self.split_seed)
        spec = self._spec((len(kept), len(held), len(test)))
        if self.path is None:
            hub.check_rows(REPOSITORY, spec.rows, self.spec().rows)
        test_inputs, test_lengths = byte_tokens(list(map(bytes, test.content)), self.max_length)
        return Dataset(
            spec,
            train=Split(inputs[kept], labels[kept], lengths[kept]),
            validation=Split(inputs[held], labels[held], lengths[held]),
            test=Split(test_inputs, outputs.encode(test), test_lengths),
            encoding=Encoding(inputs=Bytes(max_length=self.max_length), outputs=outputs),
        )

    def spec(self) -> DataSpec:
        """Known without the data, but for the number of rows of a folder of the user's own."""
        if self.path is not None:
            return super().spec()
        held = ROWS // hub.HELD_OUT
        return self._spec((ROWS - held, held, ROWS))

    def _spec(self, rows: tuple[int, int, int]) -> DataSpec:
        return DataSpec(classes=2, length=self.max_length, vocabulary=BYTE_VOCABULARY, rows=rows)


def _reviews(source: hub.SplitSource) -> Rows:
    """Texts and classes of one split."""
    if not source.files:
        return read_text_folder(source.folder, classes=FOLDERS)
    texts, labels = Texts(), Labels()
    Table.opened(str(source), source.builder, source.files).read({"text": texts, "label": labels})
    return Rows(str(source), "texts", texts.values, labels=labels.values)
