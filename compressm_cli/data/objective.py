"""What is learned: the labels' cross-entropy, over sequences or over the scored steps of them."""

from typing import Literal

from torch import Tensor
from torch.nn import functional

from compressm_cli.data.interface import IGNORE


def cross_entropy(logits: Tensor, labels: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """In nats. logits (..., classes) in any floating type; labels (...), IGNORE where nothing is scored."""
    flat = logits.reshape(-1, logits.shape[-1]).float()
    return functional.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORE, reduction=reduction)
