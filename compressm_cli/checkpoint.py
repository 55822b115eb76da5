"""One self-describing file a model: shapes first, then weights, then (perhaps) the state of training."""

import io
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.compression import surgery
from compressm_cli.data.interface import DataSpec
from compressm_cli.errors import BadInputError
from compressm_cli.files import write_atomically
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, recipe_from_mapping, recipe_to_mapping

FORMAT = 2


@dataclass
class Checkpoint:
    """A model, how to build it, and optionally how to go on training it."""

    recipe: Recipe
    data: DataSpec
    orders: dict[str, int]
    """State dimension of every compressible layer, by module name."""
    weights: dict[str, Tensor]
    masks: dict[str, Tensor] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    step: int = 0
    training: dict[str, Any] | None = None
    """Optimizer, scheduler, random state, method and clocks; None in a finished model."""

    @classmethod
    def of(
        cls,
        model: nn.Module,
        recipe: Recipe,
        data: DataSpec,
        step: int,
        training: dict[str, Any] | None = None,
    ) -> "Checkpoint":
        """A snapshot of a model; the tensors are copies."""
        return cls(
            recipe=recipe,
            data=data,
            orders=surgery.orders(model),
            weights={name: value.detach().cpu().clone() for name, value in model.state_dict().items()},
            masks={name: mask.cpu().clone() for name, mask in surgery.masks(model).items()},
            frozen=surgery.frozen(model),
            step=step,
            training=training,
        )

    def save(self, path: Path) -> int:
        """Write the file atomically; returns its size in bytes."""
        content = {
            "format": FORMAT,
            "recipe": recipe_to_mapping(self.recipe),
            "data": asdict(self.data),
            "orders": self.orders,
            "weights": self.weights,
            "masks": self.masks,
            "frozen": self.frozen,
            "step": self.step,
            "training": self.training,
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getvalue()
        write_atomically(path, data)
        return len(data)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint of this tool; BadInputError where it is none, or not what was written."""
        verify(path)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            summary = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadInputError(f"{path}: not a readable checkpoint: {summary}") from error
        if not isinstance(content, dict) or "format" not in content:
            raise BadInputError(f"{path}: not a compressm checkpoint (no format number in it)")
        if content["format"] != FORMAT:
            raise BadInputError(f"{path}: checkpoint format {content['format']}; this version reads {FORMAT}")
        try:
            spec = dict(content["data"])
            spec["rows"] = tuple(spec["rows"])
            return cls(
                recipe=recipe_from_mapping(content["recipe"], str(path)),
                data=DataSpec(**spec),
                orders=dict(content["orders"]),
                weights=dict(content["weights"]),
                masks=dict(content["masks"]),
                frozen=list(content["frozen"]),
                step=int(content["step"]),
                training=content["training"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInputError(f"{path}: damaged checkpoint: {error!r}") from error

    def build_model(self) -> nn.Module:
        """The model, of the shapes it had when saved, with its weights; on the CPU, in training mode."""
        model = build_model(self.recipe.model, self.data)
        surgery.resize(model, None, self.weights)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise BadInputError(f"weights do not fit the shapes in the checkpoint: {error}") from error
        if surgery.orders(model) != self.orders:
            raise BadInputError(
                f"weights do not fit the shapes in the checkpoint: orders {surgery.orders(model)}, not {self.orders}"
            )
        surgery.restore_constraints(model, self.masks, self.frozen)
        return model


def verify(path: Path) -> None:
    """Read a checkpoint's archive through and compare its checksums; BadInputError where one is wrong."""
    # torch.load does not look at them.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: no such checkpoint") from error
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BadInputError(f"{path}: not a readable checkpoint: {error}") from error
    if damaged is not None:
        raise BadInputError(f"{path}: not a readable checkpoint: the checksum of {damaged} is wrong")
