"""One self-describing file a model: shapes first, then weights, then (perhaps) the state of training."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from compressm_cli import plugins
from compressm_cli.checkpoint.archive import ArchiveError, check_archive, read_archive
from compressm_cli.checkpoint.parked import read_parked, require_modules_fit
from compressm_cli.checkpoint.skeleton import grown, orders_of, skeleton, start_sizes, with_weights
from compressm_cli.checkpoint.training_state import require_training
from compressm_cli.checkpoint.validation import (
    MISFIT,
    read_encoding,
    read_fingerprint,
    read_orders,
    read_plugins,
    read_recipe,
    read_spec,
    read_tensors,
    require_fit,
    require_orders_kept,
)
from compressm_cli.checkpoint.versions import FORMAT, UnknownFormatError, migrated
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import write_atomically
from compressm_cli.core.registry import Origin
from compressm_cli.core.validation import LATEST, DamagedError, is_count, part, require
from compressm_cli.data.encodings import Encoding
from compressm_cli.data.interface import DataSpec, Fingerprint
from compressm_cli.recipe import Recipe, recipe_to_mapping
from compressm_cli.structure import surgery
from compressm_cli.structure.masks import masks_of
from compressm_cli.structure.store import ParkedUnits, parked_units, set_parked_units


class OtherPluginError(BadInputError):
    """A checkpoint is whole, as far as is known, and a plug-in is another one than it was made with."""


@dataclass
class Checkpoint:
    """A model, how to build it, and optionally how to go on training it."""

    recipe: Recipe
    data: DataSpec
    sizes: dict[str, int]
    """How many units each axis of the model has, by its name."""
    weights: dict[str, Tensor]
    masks: dict[str, Tensor] = field(default_factory=dict)
    frozen: list[str] = field(default_factory=list)
    parked: ParkedUnits = field(default_factory=ParkedUnits)
    step: int = 0
    training: dict[str, Any] | None = None
    """Optimizer, scheduler, random state, method and clocks; None in a finished model."""
    fingerprint: Fingerprint | None = None
    """Of the data that the recipe names, as they were; None where it is not known."""
    encoding: Encoding | None = None
    """What makes inputs of other files, and names of what the model says; None where it is not known."""

    @classmethod
    def of(
        cls,
        model: nn.Module,
        recipe: Recipe,
        data: DataSpec,
        step: int,
        training: dict[str, Any] | None = None,
        fingerprint: Fingerprint | None = None,
        encoding: Encoding | None = None,
    ) -> "Checkpoint":
        """A snapshot of a model; the tensors are copies."""
        return cls(
            recipe=recipe,
            data=data,
            sizes=surgery.sizes(model),
            weights={name: value.detach().cpu().clone() for name, value in model.state_dict().items()},
            masks={name: mask.cpu().clone() for name, mask in masks_of(model).items()},
            frozen=surgery.frozen(model),
            parked=parked_units(model).to(torch.device("cpu")),
            step=step,
            training=training,
            fingerprint=fingerprint,
            encoding=encoding,
        )

    @property
    def orders(self) -> dict[str, int]:
        """State dimension of every state space layer, by module name."""
        return orders_of(self.sizes)

    @cached_property
    def start_sizes(self) -> dict[str, int]:
        """The ``sizes`` before any cut."""
        return start_sizes(grown(self.recipe.model, self.sizes), self.data)

    @property
    def start_orders(self) -> dict[str, int]:
        """The ``orders`` before any cut."""
        return orders_of(self.start_sizes)

    @property
    def is_outline(self) -> bool:
        """Whether the values of all tensors of the model are left out."""
        return any(weight.is_meta for weight in self.weights.values())

    def outline(self) -> "Checkpoint":
        """The same without the values of the model's and its optimizer's tensors, now and before a trial began."""
        training = self.training
        if training is not None:
            trial = training["trial"]
            if trial is not None:
                trial = {**trial, "saved": _outlined(trial["saved"])}
            training = {**_outlined(training), "trial": trial}
        return replace(
            self,
            weights=surgery.outlined(self.weights),
            masks=surgery.outlined(self.masks),
            parked=self.parked.outline(),
            training=training,
        )

    def save(self, path: Path) -> int:
        """Write the file atomically; returns its size in bytes."""
        buffer = io.BytesIO()
        torch.save(self._content, buffer)
        data = buffer.getvalue()
        write_atomically(path, data)
        return len(data)

    def require_readable(self, path: Path) -> None:
        """DamagedError for what ``load`` would refuse if it were saved there; copies no tensor."""
        self._of_content(self._content, path)

    @cached_property
    def _content(self) -> dict[str, Any]:
        """What is in the file: plain data and tensors, all on the CPU, as they are read."""
        return {
            "format": FORMAT,
            "recipe": recipe_to_mapping(self.recipe),
            "data": asdict(self.data),
            "sizes": self.sizes,
            "weights": self.weights,
            "masks": self.masks,
            "frozen": self.frozen,
            "parked": self.parked.state_dict(),
            "step": self.step,
            "plugins": [asdict(origin) for origin in plugins.needed(self.recipe)],
            "training": tree_map_only(Tensor, Tensor.cpu, self.training),
            "fingerprint": None if self.fingerprint is None else asdict(self.fingerprint),
            "encoding": None if self.encoding is None else self.encoding.model_dump(mode="json"),
        }

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """Read a checkpoint of this tool and validate all of it; no model is built.

        Raises BadInputError, in one line, where it is none, or not what was written.
        """
        try:
            content = read_archive(path)
        except FileNotFoundError as error:
            raise BadInputError(f"{path}: no such checkpoint") from error
        except ArchiveError as error:
            raise BadInputError(f"{path}: not a readable checkpoint: {error}") from error
        if not isinstance(content, dict) or "format" not in content:
            raise BadInputError(f"{path}: not a compressm checkpoint (no format number in it)")
        return cls.of_content(content, path)

    @classmethod
    def of_content(cls, content: Mapping[str, Any], path: Path) -> "Checkpoint":
        """A checkpoint of plain data and tensors, validated; BadInputError naming ``path`` where it is damaged."""
        try:
            return cls._of_content(migrated(dict(content)), path)
        except UnknownFormatError as error:
            raise BadInputError(f"{path}: {error}") from error
        except DamagedError as error:
            if others := _other_plugins(content):
                raise OtherPluginError(
                    f"{path}: cannot be used with the plug-in {others[0]} as it is here, which is another one than it "
                    f"was made with: {error}; put that one back"
                ) from error
            raise BadInputError(f"{path}: damaged checkpoint: {error}") from error

    @classmethod
    def _of_content(cls, content: Mapping[str, Any], path: Path) -> "Checkpoint":
        """The same of this version's content; DamagedError where it is damaged. Copies no tensor."""
        plugins.require(read_plugins(content), path)
        recipe = read_recipe(content, str(path))
        data, sizes = read_spec(content, recipe), read_orders(content, "sizes")
        fingerprint, encoding = read_fingerprint(content), read_encoding(content, data)
        weights, masks = read_tensors(content, "weights"), read_tensors(content, "masks")
        frozen = part(content, "frozen", list)
        step = part(content, "step", int)
        require(is_count(step, 0, LATEST), "step", f"from 0 to {LATEST}", step)
        model = _skeleton(recipe, data, sizes, weights)
        surgery.require_constraints(model, masks, frozen)
        parked = read_parked(content, model)
        require_modules_fit(parked, recipe, data, sizes, weights)
        if "training" not in content:
            raise DamagedError("training is missing")
        if content["training"] is not None:
            require_training(content["training"], model, recipe, data)
        training = content["training"]
        return cls(recipe, data, sizes, weights, masks, frozen, parked, step, training, fingerprint, encoding)

    def build_model(self) -> nn.Module:
        """The model, of the shapes it had when saved, with its weights; on the CPU, in training mode.

        Takes no random numbers. Raises BadInputError where weights and sizes are not those of one model. Of an
        outline it has no memory.
        """
        if self.is_outline:
            model = skeleton(self.recipe, self.data, self.sizes, self.weights)
            self._constrain(model)
            return model
        try:
            model = _skeleton(self.recipe, self.data, self.sizes, self.weights)
        except DamagedError as error:
            raise BadInputError(str(error)) from error
        model = with_weights(model, self.weights)
        self._constrain(model)
        return model

    def _constrain(self, model: nn.Module) -> None:
        surgery.restore_constraints(model, self.masks, self.frozen)
        set_parked_units(model, self.parked.copy())


def _other_plugins(content: Mapping[str, Any]) -> list[Origin]:
    """The plug-ins of a checkpoint that are others here."""
    try:
        return plugins.changed(read_plugins(content))
    except DamagedError:
        return []


def _outlined(saved: dict[str, Any]) -> dict[str, Any]:
    """A state without the values of what has the size of the model."""
    found = {
        key: surgery.outlined(value) if key in ("weights", "masks", "optimizer", "parameters") else value
        for key, value in saved.items()
    }
    if saved.get("parked") is not None:
        found["parked"] = ParkedUnits.of_state(saved["parked"]).outline().state_dict()
    return found


def verify(path: Path) -> None:
    """Read a checkpoint's archive through and compare its checksums; BadInputError where one is wrong."""
    # torch.load does not look at them.
    try:
        check_archive(path)
    except FileNotFoundError as error:
        raise BadInputError(f"{path}: no such checkpoint") from error
    except ArchiveError as error:
        raise BadInputError(f"{path}: not a readable checkpoint: {error}") from error


def _skeleton(
    recipe: Recipe, data: DataSpec, sizes: Mapping[str, int], weights: Mapping[str, Tensor]
) -> nn.Module:
    """The model without memory, which the weights fit; DamagedError where they do not."""
    try:
        model = skeleton(recipe, data, sizes, weights)
    except (ValueError, BadInputError) as error:
        raise DamagedError(f"{MISFIT}: {error}") from error
    require_fit(weights, model.state_dict())
    require_orders_kept(model, weights)
    return model
