"""Rows that are images: the same values as the sequences of their pixels, wherever they are, and changed at random."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from compressm_cli.data import encoded
from compressm_cli.data.augmentation import Augmentation, drawn
from compressm_cli.data.digits import Digits
from compressm_cli.data.encodings.images import to_pixels
from compressm_cli.data.files import Files
from compressm_cli.data.interface import Dataset, DataSpec
from compressm_cli.data.rows import Rows
from compressm_cli.data.split import Split
from compressm_cli.engine.batches import Batches

ROWS = torch.tensor([5, 0, 3])


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Colour images of two classes, higher than wide."""
    for number in range(8):
        place = tmp_path / "rows" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(number).integers(0, 256, (5, 3, 3), dtype=np.uint8)
        Image.fromarray(values).save(place)
    return str(tmp_path / "rows")


def both(task: type[Any], **settings: Any) -> tuple[Dataset, Dataset]:
    return task(**settings, as_images=True).dataset(), task(**settings).dataset()


def assert_same_values(images: Dataset, sequences: Dataset) -> None:
    assert images.spec.image is not None
    assert images.spec.reads == "images"
    assert images.spec.length == images.train.length == sequences.spec.length
    for name in ("train", "validation", "test"):
        one, other = getattr(images, name), getattr(sequences, name)
        assert one.inputs.shape == (len(other), *images.spec.image)
        assert torch.equal(to_pixels(one.inputs), other.rows(torch.arange(len(other))).inputs)
        assert torch.equal(one.labels, other.labels)
    batch = images.train.rows(ROWS)
    assert torch.equal(batch.inputs, images.train.inputs[ROWS])
    assert batch.inputs.stride() == torch.empty(batch.inputs.shape).stride()
    assert torch.equal(batch.rows(torch.tensor([1])).inputs, batch.inputs[1:2])
    assert images.fingerprint.differences(sequences.fingerprint)


@pytest.mark.parametrize("upsample", [1, 2])
def test_digits(upsample: int) -> None:
    images, sequences = both(Digits, upsample=upsample)
    assert images.spec == Digits(as_images=True, upsample=upsample).spec()
    assert_same_values(images, sequences)


def test_a_digit_of_a_file_is_that_of_the_task() -> None:
    dataset = Digits(as_images=True).dataset()
    assert dataset.encoding is not None
    pixels = (dataset.test.inputs[0, 0] * 16 + 4.884).round()
    file = (pixels * (255 / 16)).round().to(torch.uint8).numpy()[:, :, None]
    found, lengths = dataset.encoding.inputs.encode(Rows("a file", "images", [file]))
    assert lengths is None
    torch.testing.assert_close(found, dataset.test.inputs[:1], rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize("place", ["in memory", "in a file"])
def test_folders_of_images(folder: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = Files(format="image_folder", train=folder, validation=0.25, test=0.25).dataset()
    if place == "in a file":
        monkeypatch.setattr(encoded, "is_large", lambda _: True)
    images = Files(format="image_folder", train=folder, validation=0.25, test=0.25, as_images=True).dataset()
    assert images.spec.image == (3, 5, 3)
    assert (images.train.pages is not None) == (place == "in a file")
    whole = Split(images.train.inputs, images.train.labels)
    assert torch.equal(whole.padded.values, images.train.inputs)
    split = images.train
    for name in ("train", "validation", "test"):
        one, other = getattr(images, name), getattr(sequences, name)
        assert torch.equal(to_pixels(one.inputs), other.inputs)
    assert split.rows(torch.tensor([1, 0])).inputs.stride() == (45, 15, 3, 1)
    assert images.report is not None
    assert images.report.inputs == "a pixel of 3 channels, and a row an image of 5 x 3"
    assert images.encoding is not None
    assert images.encoding.misfit(images.spec) is None
    assert images.encoding.misfit(sequences.spec) == "image (3, 5, 3), and the data have None"


def test_images_are_for_images(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="as_images is for images; leave it out"):
        Files(format="text_folder", train=str(tmp_path), as_images=True)
    with pytest.raises(ValidationError, match=r"augment is for images; write as_images: true"):
        Digits.model_validate({"augment": {"flip": True}})
    with pytest.raises(ValidationError, match=r"nothing is changed; write crop: 4"):
        Digits.model_validate({"as_images": True, "augment": {}})


def by_hand(images: Tensor, rows: Tensor, seed: int, step: int, crop: int, flip: bool) -> Tensor:
    found = []
    for image, (left, top, mirrored) in zip(images, drawn(rows, seed, step, 3).T.tolist(), strict=True):
        whole = torch.nn.functional.pad(image, [crop] * 4)
        top, left = top % (2 * crop + 1), left % (2 * crop + 1)
        part = whole[:, top : top + image.shape[1], left : left + image.shape[2]]
        found.append(part.flip(2) if flip and mirrored % 2 else part)
    return torch.stack(found)


@pytest.mark.parametrize(("crop", "flip"), [(2, True), (3, False), (0, True)])
def test_images_are_shifted_and_mirrored(crop: int, flip: bool) -> None:
    images, rows = torch.randn(40, 3, 6, 5), torch.arange(100, 140)
    found = Augmentation(crop=crop, flip=flip)(images, rows, 7, 11)
    assert torch.equal(found, by_hand(images, rows, 7, 11, crop, flip))
    assert not torch.equal(found, Augmentation(crop=crop, flip=flip)(images, rows, 7, 12))


def test_a_draw_is_a_function_of_seed_step_and_row() -> None:
    rows = torch.arange(5000)
    numbers = drawn(rows, 0, 1, 3)
    assert torch.equal(drawn(rows.flip(0), 0, 1, 3), numbers.flip(1))
    for values in numbers % 9, drawn(rows, 1, 1, 3) % 9, drawn(rows, 0, 2, 3) % 9:
        counts = torch.stack([row.bincount(minlength=9) for row in values])
        assert counts.shape == (3, 9)
        assert bool(((counts - 5000 / 9).abs() < 120).all())
    pairs = torch.corrcoef(torch.cat([numbers, drawn(rows, 1, 1, 3), drawn(rows, 0, 2, 3)]).double())
    assert float((pairs - torch.eye(9)).abs().max()) < 0.06
    # So that every device, version and machine draws the same.
    assert drawn(torch.tensor([0, 12345]), 0, 1, 2).tolist() == [
        [319679893, 1857165554],
        [987334561, 1514527067],
    ]


def test_only_the_batches_of_steps_are_changed() -> None:
    split = Digits(as_images=True).load().train
    plain, changed = Batches(split, 8, 3), Batches(split, 8, 3, augment=Augmentation(crop=2))
    assert torch.equal(plain.numbers(5), changed.numbers(5))
    assert not torch.equal(plain(5).inputs, changed(5).inputs)
    assert torch.equal(plain(5).labels, changed(5).labels)
    for one, other in zip(plain.calibration(5, 2), changed.calibration(5, 2), strict=True):
        assert torch.equal(one.inputs, other.inputs)
    # Two processes do together what one does.
    whole = changed(5).inputs
    shares = [changed.share(5, rank, 2, 1).parts[0].inputs for rank in (0, 1)]
    assert torch.equal(torch.cat(shares), whole)


def test_a_spec_of_images_is_of_its_pixels() -> None:
    images = Digits(as_images=True).load()
    wrong = DataSpec(classes=10, length=64, features=1, image=(1, 4, 16), rows=images.spec.rows)

    class Task(Digits):
        def load(self) -> Dataset:
            return Dataset(wrong, images.train, images.validation, images.test)

    with pytest.raises(Exception, match=r"inputs of the shape \(1077, 1, 8, 8\), and its spec has images of"):
        Task().dataset()
