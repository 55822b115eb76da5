"""CIFAR-10, colour photographs of 32 x 32 pixels: one pixel a step, or as images."""

from typing import ClassVar, Literal

from compressm_cli.data.images import ImageSet, ImageTask
from compressm_cli.data.sources.cifar import read_cifar


class SequentialCifar(ImageTask):
    """``data: {task: scifar}``: 1,024 steps of 3 features, 10 classes (Krizhevsky, 2009; uoft-cs/cifar10).

    A step is the red, green and blue of one pixel, as in the experiments on in-training compression;
    Long Range Arena's image task differs, it reads the pixels in grey.
    With ``as_images: true`` a row is the photograph, 3 channels of 32 x 32 pixels.
    """

    published: ClassVar[ImageSet] = ImageSet(
        repository="uoft-cs/cifar10",
        image_column="img",
        side=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        train_rows=50_000,
        test_rows=10_000,
        original=read_cifar,
        originals="data_batch_1.bin to data_batch_5.bin and test_batch.bin, or the same of the version for Python",
    )

    task: Literal["scifar"] = "scifar"
