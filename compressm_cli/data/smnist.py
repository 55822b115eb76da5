"""MNIST, handwritten digits of 28 x 28 pixels: one pixel a step, or as images."""

from typing import ClassVar, Literal

from compressm_cli.data.images import ImageSet, ImageTask
from compressm_cli.data.sources.idx import read_idx


class SequentialMnist(ImageTask):
    """``data: {task: smnist}``: 784 steps of one feature, 10 classes (LeCun et al., 1998; ylecun/mnist).

    With ``as_images: true`` a row is the image, one channel of 28 x 28 pixels.
    """

    published: ClassVar[ImageSet] = ImageSet(
        repository="ylecun/mnist",
        image_column="image",
        side=28,
        mean=(0.1307,),
        std=(0.3081,),
        train_rows=60_000,
        test_rows=10_000,
        original=read_idx,
        originals="train-images-idx3-ubyte and the three others of the original",
    )

    task: Literal["smnist"] = "smnist"
