"""On which parameters weight decay falls, and what becomes of runs that began when it fell on others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm_cli import exchange
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import RunFailedError
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine import experiment, train_state
from compressm_cli.engine.optimizer import build_optimizer
from compressm_cli.engine.view import SilentView
from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import parameter_groups, parameter_roles, state_space_layers
from compressm_cli.models import build_model
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.recipe import Recipe, load_recipe, recipe_from_mapping
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.runs.folder import Run

TIED = DataSpec(classes=11, length=12, vocabulary=11, per_step=True)
FEATURES = DataSpec(classes=3, length=12, features=2)
SIZES: dict[str, dict[str, Any]] = {"mamba2": {"head_dim": 4}, "gla": {"heads": 2}}
DECAYED_OF_LAYERS = {
    "lru": {"C_re", "C_im"},
    "s4d": {"C_re", "C_im"},
    "s5": {"C_re", "C_im"},
    "mamba": {"in_proj", "conv1d", "x_proj", "dt_proj", "out_proj"},
    "mamba2": {"in_proj", "conv1d", "out_proj"},
    "gla": {"q_proj", "k_proj", "v_proj", "g_proj", "o_proj", "gk_proj.0", "gk_proj.1"},
}
"""Matrices that a layer holds, and modules whose weights are such."""


def model(kind: str, data: DataSpec = FEATURES, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    layer = {"kind": kind, "state_dim": 4, **SIZES.get(kind, {})}
    settings = {"norm": "rms", "final_norm": True, **settings}
    return build_model(SequenceConfig(layer=layer, model_dim=8, depth=2, **settings), data)


def decayed(found: nn.Module) -> set[str]:
    return {name for name, role in parameter_roles(found).items() if role == "matrix"}


def expected(kind: str, found: nn.Module, *beside: str) -> set[str]:
    names = set(beside)
    for prefix, layer in state_space_layers(found).items():
        own = dict(layer.named_parameters())
        names |= {f"{prefix}.{n if n in own else n + '.weight'}" for n in DECAYED_OF_LAYERS[kind]}
        if not layer.gated:
            names.add(f"{prefix.removesuffix('.layer')}.mix.weight")
    return names


@pytest.mark.parametrize("norm", ["rms", "layer", "batch", "none"])
@pytest.mark.parametrize("kind", LAYERS)
def test_only_matrices_decay(kind: str, norm: str) -> None:
    plain = model(kind, norm=norm)
    assert decayed(plain) == expected(kind, plain, "encoder.weight", "head.weight")
    tokens = model(kind, TIED, norm=norm)
    assert decayed(tokens) == expected(kind, tokens, "head.weight")  # the encoder is an embedding
    tied = model(kind, TIED, norm=norm, tie_embeddings=True)
    assert decayed(tied) == expected(kind, tied)


@pytest.mark.parametrize("kind", LAYERS)
def test_each_parameter_is_in_one_group_in_the_order_of_the_model(kind: str) -> None:
    found = model(kind, TIED, tie_embeddings=True)
    order = [name for name, _ in found.named_parameters()]
    for count in (2, 3):
        groups = parameter_groups(found, count)
        assert sorted(name for names in groups for name in names) == sorted(order)
        assert all(names == sorted(names, key=order.index) for names in groups)
    with pytest.raises(ValueError, match="not 4"):
        parameter_groups(found, 4)


@pytest.mark.parametrize("kind", LAYERS)
def test_without_a_gradient_only_matrices_shrink(kind: str) -> None:
    found = model(kind, TIED)
    optimizer = build_optimizer(found, TrainConfig(steps=1, learning_rate=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in found.named_parameters()}
    for parameter in found.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in found.named_parameters():
        factor = 0.95 if name in decayed(found) else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


@pytest.mark.parametrize("layer", ["mamba", "mamba2"])
def test_models_of_others_are_no_exception(layer: str, tmp_path: Path) -> None:
    ours = model(layer, TIED)
    recipe = {
        "name": "tiny",
        "data": {"task": "tokens", "vocabulary": 11, "length": 12},
        "model": {
            "layer": {"kind": layer, "state_dim": 4, **SIZES.get(layer, {})},
            "model_dim": 8,
            "depth": 2,
            "norm": "rms",
            "final_norm": True,
        },
        "train": {"steps": 1},
        "compression": {"method": "none"},
    }
    checkpoint = Checkpoint.of(ours, recipe_from_mapping(recipe, "test"), TIED, 1)
    exchange.export(checkpoint, "mamba-ssm", tmp_path / "theirs")
    theirs = exchange.load(tmp_path / "theirs").build_model()
    assert decayed(theirs) == expected(layer, theirs, "head.weight")


# ---- groups ---------------------------------------------------------------------------------------------


def trained(kind: str, count: int) -> dict[str, Tensor]:
    """The weights after some fused steps without weight decay, clipped, with a rate of their own for recurrences."""
    found = model(kind)
    config = TrainConfig(steps=1, learning_rate=0.01, recurrent_lr_factor=0.3)
    optimizer = build_optimizer(found, config, count)
    generator = torch.Generator().manual_seed(1)
    for _ in range(12):
        inputs = torch.randn(5, 12, 2, generator=generator)
        found(inputs).square().sum().backward()
        nn.utils.clip_grad_norm_(found.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {name: p.detach() for name, p in found.named_parameters()}


@pytest.mark.parametrize("kind", LAYERS)
def test_without_weight_decay_the_number_of_groups_changes_no_bit(kind: str) -> None:
    three, two = trained(kind, 3), trained(kind, 2)
    assert all(torch.equal(three[name], value) for name, value in two.items())


# ---- states of training of earlier versions ----------------------------------------------------------------

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]


class Ending(SilentView):
    """Lets the run fail where it evaluates at a step."""

    def __init__(self, step: int) -> None:
        self.at = step

    def evaluation(self, step: int, loss: float, value: float | None) -> None:
        if step == self.at:
            raise RunFailedError("as if killed")


def earlier(model: nn.Module, config: TrainConfig, count: int = 2, *_: Any) -> Optimizer:
    """As optimizers were: all parameters that are not recurrent decay."""
    return build_optimizer(model, config, 2)


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("kind", ["lru", "mamba", "mamba2"])
@pytest.mark.parametrize("stop", [10, 20])
def test_a_run_begun_with_other_groups_goes_on_with_them(
    tiny: Maker,
    train: Trainer,
    same_weights: Callable[[Run, Run], bool],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    stop: int,
) -> None:
    """Through a cut, which gives Mamba and Mamba-2 parameters that were not there, and a trial that is undone."""
    recipe = tiny(
        compression={
            "method": "hankel",
            "keep_fraction": 0.5,
            "schedule": {"kind": "listed", "at_steps": [8, 18]},
            "safety": {"trial_steps": 4, "tolerance": 0.0},
            "moments": "transport",
        },
        train={"weight_decay": 0.3, "checkpoint_every": 5, "eval_every": 5},
        model={"layer": {"kind": kind, "state_dim": 4, **SIZES.get(kind, {})}, "norm": "rms"},
    )
    with monkeypatch.context() as before:
        before.setattr(train_state, "build_optimizer", earlier)
        whole = train(recipe)
        with pytest.raises(RunFailedError):
            train(recipe, view=Ending(stop))
    part = Run.find(Path(recipe.output.root) / recipe.name)[-1]
    newest = Checkpoint.load(part.last_checkpoints()[-1])
    assert newest.training is not None
    assert len(newest.training["optimizer"]["param_groups"]) == 2
    experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test resume")
    assert same_weights(whole, part)
    now = train(recipe)
    assert not same_weights(whole, now)
    last = Checkpoint.load(now.last_checkpoints()[-1]).training
    assert last is not None
    assert [g["weight_decay"] for g in last["optimizer"]["param_groups"]] == [0.0, 0.3, 0.0]
