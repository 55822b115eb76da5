"""Images as sequences of pixels, and the tasks that read published sets of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import hub
from compressm_cli.data.encodings import Classes, Encoding, Pixels
from compressm_cli.data.encodings.images import pixel_sequences, size_of
from compressm_cli.data.interface import Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.labels import class_names, class_numbers
from compressm_cli.data.reading import reading
from compressm_cli.data.splits import Seed, hold_out
from compressm_cli.data.tables import read_columns, read_image_folder

if TYPE_CHECKING:
    from PIL.Image import Image

GREY, COLOUR = {"1", "L"}, {"RGB", "RGBA", "P"}


def decode_images(cells: Sequence[Any], source: str, channels: int | None = None) -> np.ndarray:
    """Mappings of ``bytes`` or ``path`` -> (rows, height, width, channels) uint8.

    ``channels`` 1 or 3 converts all to grey or colour; None takes them as they are. Raises
    BadInputError where an image cannot be read or differs from the first in size or channels.
    """
    pixels = np.empty(0, dtype=np.uint8)
    for row, cell in enumerate(cells):
        place = f"{source}, image {row + 1}"
        if not isinstance(cell, dict) or (cell["bytes"] is None and cell["path"] is None):
            raise BadInputError(f"{place}: the image is missing; leave out the row")
        if cell["path"]:
            place += f" ({cell['path']})"
        image = _decoded(cell, place, channels)
        if row == 0:
            pixels = np.empty((len(cells), *image.shape), dtype=np.uint8)
        elif image.shape != pixels.shape[1:]:
            raise BadInputError(
                f"{place}: {size_of(image.shape)}, but the first image is {size_of(pixels.shape[1:])}; "
                "bring all images to the same size and colours"
            )
        pixels[row] = image
    return pixels


def _decoded(cell: dict[str, Any], place: str, channels: int | None) -> np.ndarray:
    from PIL import Image

    source = cell["path"] if cell["bytes"] is None else BytesIO(cell["bytes"])
    with reading(place, "not a readable image", "remove or replace it"), Image.open(source) as image:
        array = np.asarray(image.convert(_mode(image, place, channels)))
    return array if array.ndim == 3 else array[:, :, None]


def _mode(image: "Image", place: str, channels: int | None) -> str:
    if image.mode not in GREY | COLOUR:
        raise BadInputError(f"{place}: pixels of kind {image.mode!r}; save it as 8-bit grey or RGB")
    if channels is not None:
        return "L" if channels == 1 else "RGB"
    return "L" if image.mode in GREY else "RGB"


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
    classes: int = 10


class ImageTask(TaskConfig):
    """The base of the tasks that read a published set of images as sequences of pixels."""

    published: ClassVar[ImageSet]

    path: str | None = None
    """A folder to read instead of the hub's copy: ``train*.parquet`` and ``test*.parquet`` as they are on the
    hub, or ``train`` and ``test`` with one folder of images a class. It may hold fewer rows."""
    split_seed: Seed = 0
    """Which tenth of the training rows is the validation split."""

    def load(self) -> Dataset:
        """Decode all images to tensors.

        Raises BadInputError, with how to supply the data, where it is neither at hand nor to be had.
        """
        splits = hub.locate(self.published.repository, self.path)
        pixels, names = self._images(splits["train"])
        test_pixels, test_names = self._images(splits["test"])
        classes = class_names(names)
        if len(classes) != self.published.classes:
            raise BadInputError(
                f"{splits['train']}: {len(classes)} classes; "
                f"{self.published.repository} has {self.published.classes}"
            )
        labels = class_numbers(names, classes, str(splits["train"]))
        test_labels = class_numbers(test_names, classes, str(splits["test"]))
        return self._dataset(pixels, labels, test_pixels, test_labels, classes)

    def spec(self) -> DataSpec:
        """Known without the data, but for the number of rows of a folder of the user's own."""
        if self.path is not None:
            return super().spec()
        held = self.published.train_rows // hub.HELD_OUT
        return self._spec((self.published.train_rows - held, held, self.published.test_rows))

    def _images(self, source: hub.SplitSource) -> tuple[np.ndarray, list[str]]:
        """Pixels (rows, side, side, channels) uint8 and class names of one split."""
        published = self.published
        if source.files:
            columns = read_columns(source.builder, source.files, [published.image_column, "label"])
            cells = columns[published.image_column].values.tolist()
            names = columns["label"].labels()
        else:
            cells, names = read_image_folder(source.folder)
        pixels = decode_images(cells, str(source), len(published.mean))
        if pixels.shape[1:3] != (published.side, published.side):
            raise BadInputError(
                f"{source}: images of {pixels.shape[1]} x {pixels.shape[2]} pixels; "
                f"{published.repository} has {published.side} x {published.side}"
            )
        return pixels, names

    def _dataset(
        self,
        pixels: np.ndarray,
        labels: Tensor,
        test_pixels: np.ndarray,
        test_labels: Tensor,
        classes: list[str],
    ) -> Dataset:
        held, kept = hold_out(labels, [hub.held_out_rows(len(labels))], self.split_seed)
        spec = self._spec((len(kept), len(held), len(test_labels)))
        if self.path is None:
            hub.check_rows(self.published.repository, spec.rows, self.spec().rows)
        side, mean, std = self.published.side, self.published.mean, self.published.std
        inputs = Pixels(height=side, width=side, mean=list(mean), deviation=list(std))
        return Dataset(
            spec,
            train=Split(pixel_sequences(pixels[kept.numpy()], mean, std), labels[kept]),
            validation=Split(pixel_sequences(pixels[held.numpy()], mean, std), labels[held]),
            test=Split(pixel_sequences(test_pixels, mean, std), test_labels),
            encoding=Encoding(inputs=inputs, outputs=Classes(names=classes)),
        )

    def _spec(self, rows: tuple[int, int, int]) -> DataSpec:
        published = self.published
        return DataSpec(published.classes, published.side**2, features=len(published.mean), rows=rows)
