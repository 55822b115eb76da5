"""A recipe's training step on random data, to be timed: the same arithmetic, with no data set and nothing learned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from compressm_cli.checkpoint.skeleton import fresh_model
from compressm_cli.core.modes import in_evaluation_mode
from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.engine.batches import Share, share_of
from compressm_cli.engine.forms import choose_forms, costs_here
from compressm_cli.engine.optimizer import build_optimizer, set_learning_rate
from compressm_cli.engine.precision import autocast, prepare, resolve_device
from compressm_cli.engine.step import training_step
from compressm_cli.engine.teaching import taught
from compressm_cli.measure.clock import mean_seconds
from compressm_cli.measure.probe import example_batch
from compressm_cli.models import build_model
from compressm_cli.objectives import Objective
from compressm_cli.ops.forms import CostModel
from compressm_cli.recipe import Recipe


@dataclass(frozen=True)
class Setting:
    """What all models of a measurement share."""

    recipe: Recipe
    data: DataSpec
    costs: CostModel | None
    """By which the form of each recurrence is chosen on this machine; None where nothing is to be chosen."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Of the axes of which the models have fewer units than the recipe's, or more; orders go before."""

    @classmethod
    def of(cls, recipe: Recipe, data: DataSpec, sizes: Mapping[str, int] | None = None) -> "Setting":
        """Set PyTorch up for training by this recipe, and learn what forms of recurrences cost here."""
        config, device = recipe.train, resolve_device(recipe.device)
        prepare(device, config.precision)
        with torch.random.fork_rng(devices=[]):
            model = build_model(recipe.model, data)
        costs = costs_here(model, config.form, device, config.precision)
        setting = cls(recipe, data, costs, sizes or {})
        _ = setting.objective  # a teacher that is not there is told of before anything is measured
        return setting

    @cached_property
    def objective(self) -> Objective:
        """By which is trained; a teacher that the recipe names is read once."""
        return taught(self.recipe, self.data, self.device)

    @property
    def device(self) -> torch.device:
        return resolve_device(self.recipe.device)

    @property
    def rows(self) -> int:
        """Of a training batch: the recipe's, or all there are."""
        return min(self.recipe.train.batch_size, self.data.rows[0] or self.recipe.train.batch_size)

    def model(self, orders: dict[str, int] | None) -> nn.Module:
        """The recipe's model at some orders, by module name, None its own, in the forms that training would choose."""
        model = fresh_model(self.recipe.model, self.data, orders, self.sizes)
        train = self.recipe.train
        choose_forms(model, train.form, self.costs, train.rows(self.rows), self.data.length)
        return model


class Trainee:
    """A model with fresh weights, its optimizer, and one random batch, as in training by a recipe.

    The learning rate is zero, which leaves the arithmetic as it is: random labels teach nothing, and a model that
    diverges on them might be timed on numbers that are not finite.
    """

    def __init__(self, setting: Setting, orders: dict[str, int] | None, rows: int | None = None) -> None:
        """``orders`` by module name, None takes the recipe's; ``rows`` None takes the batch of training."""
        self.device, self.config = setting.device, setting.recipe.train
        self.batch = random_batch(setting.data, rows or setting.rows, self.device)
        self.model = setting.model(orders).to(self.device)
        self.forward: Callable[..., torch.Tensor] = (
            torch.compile(self.model) if self.config.compile else self.model
        )
        self.objective = setting.objective
        self.optimizer = build_optimizer(self.model, self.config)
        set_learning_rate(self.optimizer, 0.0)

    def train(self, steps: int) -> float:
        """Mean seconds of so many training steps in a row."""
        self.model.train()
        return mean_seconds(self._step, steps, self.device)

    def infer(self, passes: int) -> float:
        """Mean seconds a sequence of so many forward passes of the batch in a row, as in an evaluation."""
        with torch.no_grad(), in_evaluation_mode(self.model):
            return mean_seconds(self._pass, passes, self.device) / len(self.batch)

    def _share(self) -> Share:
        return share_of(self.batch, 0, 1, self.config.accumulate)

    def _step(self) -> None:
        training_step(
            self.model, self.optimizer, self._share(), self.config, self.forward, objective=self.objective
        )

    def _pass(self) -> None:
        for part in self._share().parts:
            with autocast(self.device, self.config.precision):
                self.objective.forward(self.model, part)


def random_batch(data: DataSpec, rows: int, device: torch.device) -> Split:
    """``rows`` sequences of the longest length, without padding: normal features or uniform tokens, any labels."""
    generator = torch.Generator().manual_seed(0)
    example = example_batch(data, rows)
    shape = example.inputs.shape
    if data.vocabulary is None:
        inputs = torch.randn(shape, generator=generator)
    else:
        inputs = torch.randint(min(1, data.vocabulary - 1), data.vocabulary, shape, generator=generator)
    if data.targets is not None:
        return Split(inputs, torch.randn(example.labels.shape, generator=generator)).to(device)
    return Split(inputs, torch.randint(data.classes, example.labels.shape, generator=generator)).to(device)
