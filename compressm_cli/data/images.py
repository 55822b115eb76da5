"""The tasks that read published sets of images: as sequences of their pixels, or as images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import hub
from compressm_cli.data.augmentation import ImageTaskConfig
from compressm_cli.data.columns import Labels
from compressm_cli.data.encoded import encoded
from compressm_cli.data.encodings import Classes, Encoding, Pixels
from compressm_cli.data.file_cells import FileCells
from compressm_cli.data.interface import Dataset, DataSpec
from compressm_cli.data.labels import class_names
from compressm_cli.data.report import Report, report_of
from compressm_cli.data.rows import Rows
from compressm_cli.data.sources.images import ImageRows, read_image_folder
from compressm_cli.data.splits import Seed, hold_out
from compressm_cli.data.tables import Table


@dataclass(frozen=True)
class ImageSet:
    """What is known of a published set of images."""

    repository: str
    image_column: str
    side: int
    mean: tuple[float, ...]
    """Of each channel, on the scale 0 to 1."""
    std: tuple[float, ...]
    train_rows: int
    test_rows: int
    original: Callable[[Path], dict[str, Rows] | None]
    """What reads the original files of the train and test splits in a folder; None where there are none."""
    originals: str
    """Which these are, for messages."""
    classes: int = 10


class ImageTask(ImageTaskConfig):
    """The base of the tasks that read a published set of images."""

    published: ClassVar[ImageSet]

    path: str | None = None
    """A folder to read instead of the hub's copy: ``train*.parquet`` and ``test*.parquet`` as they are on the
    hub, ``train`` and ``test`` with one folder of images a class, or the original files (of MNIST the four idx files,
    packed or not; of CIFAR-10 the binary version, or the one for Python). It may hold fewer rows."""
    split_seed: Seed = 0
    """Which tenth of the training rows is the validation split."""

    def load(self) -> Dataset:
        """Decode all images to tensors.

        Raises BadInputError, with how to supply the data, where it is neither at hand nor to be had.
        """
        found = self.published.original(Path(self.path)) if self.path is not None else None
        if found is None:
            sources = hub.locate(self.published.repository, self.path, self.published.originals)
            found = {split: self._rows(sources[split]) for split in hub.SPLITS}
        train, test = (self._sized(found[split]) for split in hub.SPLITS)
        classes = class_names(train.labels or [])
        if len(classes) != self.published.classes:
            raise BadInputError(
                f"{train.source}: {len(classes)} classes; "
                f"{self.published.repository} has {self.published.classes}"
            )
        return self._dataset(train, test, self._inputs(), Classes(names=classes))

    def spec(self) -> DataSpec:
        """Known without the data, but for the number of rows of a folder of the user's own."""
        if self.path is not None:
            return super().spec()
        held = self.published.train_rows // hub.HELD_OUT
        return self._spec((self.published.train_rows - held, held, self.published.test_rows))

    def described(self) -> tuple[DataSpec, Report | None]:
        if self.path is None:
            return self.spec(), None
        dataset = self.dataset()
        return dataset.spec, dataset.report

    def _inputs(self) -> Pixels:
        published = self.published
        return Pixels(
            height=published.side,
            width=published.side,
            mean=list(published.mean),
            deviation=list(published.std),
            any_colours=True,
            as_images=self.as_images,
        )

    def _rows(self, source: hub.SplitSource) -> Rows:
        """The images of one split, and their classes."""
        if not source.files:
            rows = read_image_folder(source.folder)
        else:
            column = self.published.image_column
            cells, labels = FileCells("image"), Labels()
            Table.opened(str(source), source.builder, source.files).read({column: cells, "label": labels})
            images = ImageRows([cell.source for cell in cells.values], [cell.place for cell in cells.values])
            rows = Rows(str(source), "images", images, names=cells.names, labels=labels.values)
        return rows

    def _sized(self, rows: Rows) -> Rows:
        """The same; BadInputError where the first image is of another size than those of the set."""
        first, side = rows.content[0], self.published.side
        assert isinstance(first, np.ndarray), "images are arrays"
        if first.shape[:2] != (side, side):
            raise BadInputError(
                f"{rows.source}: images of {first.shape[0]} x {first.shape[1]} pixels; "
                f"{self.published.repository} has {side} x {side}"
            )
        return rows

    def _dataset(self, train: Rows, test: Rows, inputs: Pixels, outputs: Classes) -> Dataset:
        labels = outputs.encode(train)
        held, kept = hold_out(labels, [hub.held_out_rows(len(labels))], self.split_seed)
        spec = self._spec((len(kept), len(held), len(test)))
        if self.path is None:
            hub.check_rows(self.published.repository, spec.rows, self.spec().rows)
        parts = {"train": train.taken(kept.numpy()), "validation": train.taken(held.numpy()), "test": test}
        encoding = Encoding(inputs=inputs, outputs=outputs)
        splits = encoded(parts, encoding)
        report = None
        if self.path is not None:
            report = report_of({"train": train, "test": test}, splits, encoding, {}, hub.SPLITS)
        return Dataset(spec, **splits, class_names=None, encoding=encoding, report=report)

    def _spec(self, rows: tuple[int, int, int]) -> DataSpec:
        published = self.published
        channels, side = len(published.mean), published.side
        return DataSpec(
            classes=published.classes,
            length=side**2,
            features=channels,
            rows=rows,
            image=(channels, side, side) if self.as_images else None,
        )
