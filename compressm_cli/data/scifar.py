"""Sequential CIFAR-10: colour photographs of 32 x 32 pixels, one pixel a step."""

from typing import ClassVar, Literal

from compressm_cli.data.images import ImageSet, ImageTask


class SequentialCifar(ImageTask):
    """``data: {task: scifar}``: 1,024 steps of 3 features, 10 classes (Krizhevsky, 2009; uoft-cs/cifar10).

    A step is the red, green and blue of one pixel, as in the experiments on in-training compression;
    Long Range Arena's image task differs, it reads the pixels in grey.
    """

    published: ClassVar[ImageSet] = ImageSet(
        repository="uoft-cs/cifar10",
        image_column="img",
        side=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        train_rows=50_000,
        test_rows=10_000,
    )

    task: Literal["scifar"] = "scifar"
