"""Vision Transformers: encoders that read the patches of images."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.models.embedding import Positioned
from compressm_cli.models.encoder import BothWaysConfig, EncoderBlock, build_block
from compressm_cli.models.stack import Stack
from compressm_cli.models.transformer import EMBEDDING_STD, norm_of


class VisionConfig(BothWaysConfig):
    """A Transformer over the patches of images (Dosovitskiy et al. 2021, ``model: {kind: vit}``).

    A linear map makes a step of each square patch, row by row. Each block is ``x + attention(norm(x))``, then
    ``x + feed_forward(norm(x))``, with all steps looking at all; at the end there is the normalization once more.
    """

    reads: ClassVar[Literal["images"]] = "images"

    kind: Literal["vit"] = "vit"
    patch: Annotated[int, Field(ge=1, le=4096)] = 4
    """Side of a patch in pixels, which divides height and width of the images."""
    pool: Literal["class", "mean"] = "class"
    """What the head reads: ``class``, a learned step before the patches; ``mean``, the mean over the patches."""
    feed_forward: Literal["swiglu", "gelu", "gelu_tanh", "none"] = "gelu"
    """What follows attention in each block. ``gelu_tanh`` is GPT-2's approximation of GELU."""
    bias: bool = True
    """Whether the linear maps of attention and feed-forward layers have biases."""
    positions: Literal["learned", "none"] = "learned"
    """Whether a learned vector is added to each step; without it the order of patches is not known."""
    norm: Literal["rms", "layer"] = "layer"
    """Normalization before each layer, and at the end."""

    @model_validator(mode="after")
    def _positions_of_patches(self) -> Self:
        if self.context is not None:
            raise ValueError("there are as many positions as images have patches; leave out context")
        return self


class Patches(nn.Module):
    """A linear map of each patch of an image, row by row; before them a learned step, where it is asked for."""

    def __init__(self, channels: int, patch: int, width: int, has_token: bool) -> None:
        super().__init__()
        self.patch = patch
        self.projection = nn.Linear(channels * patch**2, width)
        self.token = nn.Parameter(EMBEDDING_STD * torch.randn(width)) if has_token else None

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, patches [+ 1], H)."""
        tiles = images.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))
        x: Tensor = self.projection(tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))
        return (
            x if self.token is None else torch.cat([self.token.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        )


class VisionTransformer(Stack):
    """Patches, blocks that look at all of them, final normalization, head: images -> (batch, classes)."""

    Config = VisionConfig

    def __init__(
        self,
        encoder: nn.Module,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        head: nn.Linear,
        has_token: bool,
    ) -> None:
        super().__init__(encoder, blocks, norm, head, per_step=False)
        self.has_token = has_token

    @classmethod
    def last_block(cls, config: Any) -> EncoderBlock:
        return build_block(config)

    @classmethod
    def build(cls, config: Any, data: Any, orders: Mapping[str, int] | None = None) -> "VisionTransformer":
        """Raises BadInputError where patches do not tile the images."""
        channels, height, width = data.image
        if height % config.patch or width % config.patch:
            sides = [side for side in range(1, min(height, width) + 1) if not (height % side or width % side)]
            raise BadInputError(
                f"model.patch: {config.patch} does not divide images of {height} x {width} pixels; write one of "
                f"{', '.join(map(str, sides))}"
            )
        has_token = config.pool == "class"
        encoder: nn.Module = Patches(channels, config.patch, config.model_dim, has_token)
        if config.positions == "learned":
            steps = (height // config.patch) * (width // config.patch) + has_token
            encoder = Positioned(encoder, steps, config.model_dim)
            nn.init.normal_(encoder.positions.weight, std=EMBEDDING_STD)
        blocks = [build_block(config) for _ in range(config.depth)]
        head = nn.Linear(config.model_dim, data.outputs)
        model = cls(encoder, blocks, norm_of(config), head, has_token)
        model.grow_as(config)
        return model

    def pooled(self, x: Tensor, real: Tensor | None) -> Tensor:
        return x[:, 0] if self.has_token else super().pooled(x, real)
