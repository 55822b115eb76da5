"""Axes that are found in networks that declare none: which, and that their cuts are exact.

``python tests/structure/test_discovery.py`` writes what is found anew.
"""

import copy
import logging
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_units import (
    assert_cut_is_silence,
    assert_surgery_follows,
    axes_of,
    numbers,
    randomized,
    removals,
    silenced,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from strangers import LENGTH, STRANGERS, WIDTH
from torch import Tensor, nn

from compressm_cli.layers.feed_forward import FeedForward
from compressm_cli.structure.discovery import Discovery, TraceError, discover
from compressm_cli.structure.discovery.attached import detach
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.surgery import apply_edits

GOLDEN = Path(__file__).parents[1] / "golden" / "discovery"
OF_TRANSFORMERS = {"llama", "mistral", "qwen3", "gpt2", "opt", "mamba2", "bert", "vit", "resnet", "convnext"}


def skip_without_transformers(name: str) -> None:
    if name in OF_TRANSFORMERS:
        pytest.importorskip("transformers")


@cache
def searched(name: str) -> tuple[nn.Module, Discovery]:
    """A network with its axes, and what is told of them; to be copied before it is changed."""
    stranger = STRANGERS[name]
    torch.manual_seed(0)
    model = stranger.build().eval()
    return model, discover(model, stranger.args, stranger.kwargs)


def text_of(found: Discovery) -> str:
    """What is found, without what errors of other libraries say."""
    return re.sub(r"(fails: \w+): .*", r"\1", str(found)) + "\n"


class Rotary(nn.Module):
    """Llama's positions in float64; theirs computes in float32, whatever the model is in."""

    def __init__(self, inv_freq: Tensor) -> None:
        super().__init__()
        self.register_buffer("inv_freq", inv_freq)
        self.register_buffer("original_inv_freq", inv_freq.clone())

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = position_ids[..., None].to(x.dtype) * self.get_buffer("inv_freq")
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


class Root(nn.Module):
    """An RMS norm in the type that it is given."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        if gate is not None:
            x = x * nn.functional.silu(gate)
        return nn.functional.rms_norm(x, x.shape[-1:], self.weight, 1e-6)


def in_float64(model: nn.Module) -> nn.Module:
    """The network with its parts that compute in float32 alone put into float64."""
    for name, module in list(model.named_modules()):
        place, _, leaf = name.rpartition(".")
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "weight"):
            setattr(model.get_submodule(place), leaf, Root(module.weight))
        elif type(module).__name__.endswith("RotaryEmbedding"):
            setattr(model.get_submodule(place), leaf, Rotary(module.inv_freq.clone()))
    return model


def call(name: str, inputs: Tensor) -> Any:
    """Runs a network with real inputs; gives back its scores."""
    stranger = STRANGERS[name]
    others = {k: v for k, v in stranger.kwargs.items() if k != "input_ids"}

    def run(model: nn.Module) -> Tensor:
        result = model(inputs) if stranger.real is None else model(**{stranger.real: inputs}, **others)
        scores: Tensor = getattr(result, "logits", result)
        return scores

    return run


def inputs_of(name: str) -> Tensor:
    stranger = STRANGERS[name]
    return numbers(2, LENGTH, WIDTH) if stranger.real else numbers(*stranger.args[0].shape)


@pytest.mark.parametrize("name", STRANGERS)
def test_which_axes_are_found(name: str) -> None:
    skip_without_transformers(name)
    found = text_of(searched(name)[1])
    assert found == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8"), (
        "run python tests/structure/test_discovery.py"
    )


@pytest.mark.parametrize("name", STRANGERS)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_a_cut_of_what_is_found_is_the_same_as_silence(name: str, data: Any) -> None:
    skip_without_transformers(name)
    model = randomized(in_float64(copy.deepcopy(searched(name)[0])).eval())
    inputs = inputs_of(name)
    removed = data.draw(removals(model))
    assert_cut_is_silence(model, removed, inputs, call(name, inputs))


@pytest.mark.parametrize("name", STRANGERS)
def test_every_unit_counts(name: str) -> None:
    skip_without_transformers(name)
    model = randomized(in_float64(copy.deepcopy(searched(name)[0])).eval())
    run = call(name, inputs_of(name))
    whole = run(model)
    for axis in axes_of(model).values():
        half = {axis.name: list(range(axis.size // 2))}
        assert not torch.allclose(run(silenced(model, half, True)), whole, rtol=1e-6), axis.name


@pytest.mark.parametrize("name", ["gpt2", "resnet", "crossed"])
def test_an_optimizer_follows_and_parked_units_come_back(name: str) -> None:
    skip_without_transformers(name)
    model = randomized(copy.deepcopy(searched(name)[0]).train())
    removed = {axis.name: [0, axis.size - 1][: axis.size - 1] for axis in axes_of(model).values()}
    run = call(name, inputs_of(name))

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = run(self.inner)
            return scores

    called = Called()
    assert_surgery_follows(
        called, {f"inner.{axis}": units for axis, units in removed.items()}, inputs_of(name)
    )


def test_integers_follow_the_cuts_and_the_network_is_as_it_was() -> None:
    torch.manual_seed(0)
    model = STRANGERS["crossed"].build().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    discover(model, STRANGERS["crossed"].args)
    assert model.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert (model.heads, model.rank) == (3, 5)
    apply_edits(model, None, [Keep("mix:neurons", [0, 2]), Keep("into:neurons", [4, 1, 3])])
    assert (model.heads, model.rank) == (2, 3)
    assert StructureMap.of(model).sizes() == {"mix:neurons": 2, "into:neurons": 3, "mix:neurons_2": 7}
    with pytest.raises(ValueError, match="no axis"):
        apply_edits(model, None, [Keep("mix:neurons", [0]), Keep("out:neurons", [0])])
    assert (model.heads, model.rank) == (2, 3)


def test_searching_twice_is_searching_once() -> None:
    model, args = STRANGERS["unet"].build(), STRANGERS["unet"].args
    assert str(discover(model, args)) == str(discover(model, args))
    names = set(model.state_dict())
    detach(model)
    assert set(model.state_dict()) < names
    assert not StructureMap.of(model)


def test_what_cannot_be_followed_says_why() -> None:
    class Undecided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.down(self.up(x))
            return y if float(y.sum()) > 0 else -y

    with pytest.raises(TraceError, match=r"torch\.export cannot follow Undecided: "):
        discover(Undecided(), (torch.randn(2, 3),))


def test_sizes_that_do_not_fit_are_told_without_a_traceback() -> None:
    class Misfit(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.ones(4)

    logged: list[logging.LogRecord] = []
    handler, logger = logging.Handler(), logging.getLogger("torch._subclasses.fake_tensor")
    handler.emit = logged.append  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        with pytest.raises(TraceError, match=r"torch\.export cannot follow Misfit: "):
            discover(Misfit(2, 3), (torch.randn(2, 2),))
    finally:
        logger.removeHandler(handler)
    assert not logged
    assert not logger.disabled


def test_a_cut_that_the_code_does_not_bear_is_pinned_with_the_reason() -> None:
    class Counting(nn.Module):
        """Divides by the size of what it sums over."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.up(x))
            z: Tensor = self.down(y / y.shape[-1])
            return z

    found = discover(Counting(), (torch.randn(2, 3),))
    assert not found.axes
    why = "the network without a unit is not the one in which that is silent"
    assert why in {reason for _, reason in found.pinned.values()}


def test_weights_that_are_zero_still_prove_nothing_wrong() -> None:
    class Gated(nn.Module):
        """What it adds begins at zero, and is divided by the size of what it sums over."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(3, 4), nn.Linear(4, 3)
            self.gain = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.up(x))
            z: Tensor = x + self.gain * self.down(y / y.shape[-1])
            return z

    assert not discover(Gated(), (torch.randn(2, 3),)).axes


def test_matrices_that_are_turned_and_lengths_that_are_taken() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(3, 5))
            self.unit = nn.Linear(3, 7)
            self.out = nn.Linear(7, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = x + torch.sin(x @ self.up.t()) @ self.down.permute(1, 0)
            z: Tensor = self.out(nn.functional.normalize(self.unit(y), dim=-1))
            return z

    found = discover(Turned(), (torch.randn(2, 3),))
    assert found.axes == {"up:neurons": ("neuron", 5)}
    assert found.pinned["unit:neurons"] == (7, "what is computed over it counts its entries")


def test_layers_that_are_built_alike_are_tried_once() -> None:
    pytest.importorskip("transformers")
    _, found = searched("llama")
    first, second = (found.pinned[f"model.layers.{i}.self_attn:ranks"][1] for i in (0, 1))
    assert second == f"like model.layers.0.self_attn:ranks: {first}"


def test_a_network_that_declares_its_axes_has_nothing_to_discover() -> None:
    with pytest.raises(ValueError, match="FeedForward declares its axes"):
        discover(FeedForward(3, 4), (torch.randn(2, 5, 3),))


if __name__ == "__main__":
    for each in sys.argv[1:] or STRANGERS:
        (GOLDEN / f"{each}.txt").write_text(text_of(searched(each)[1]), encoding="utf-8")
        print(GOLDEN / f"{each}.txt")
