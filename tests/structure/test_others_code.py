"""Edits of what others wrote or changed meanwhile: their modules, optimizers, types, and states that are no model's."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from edit_cases import everything, same
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer, RMSprop

from compressm_cli.layers import FeedForward, Residual
from compressm_cli.structure.edits import Edit, Keep, MaskEntries, Park, Train, Wake
from compressm_cli.structure.map import tensors_of
from compressm_cli.structure.masks import masks_of
from compressm_cli.structure.modules import Insert, Replace
from compressm_cli.structure.store import ParkedUnits, parked_units, set_parked_units
from compressm_cli.structure.surgery import apply_edits, resize

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


class Remembering(nn.Module):
    """Keeps what it has made, as modules do that show it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.made: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.made = [self.linear(x)]
        return self.made[0]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        hidden = Residual(nn.LayerNorm(4), FeedForward(4, 6))
        self.blocks = nn.ModuleList([hidden, Residual(nn.LayerNorm(4), Remembering())])
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def adamw(parameters: Any) -> Optimizer:
    return AdamW(parameters, lr=1e-2)


def step(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    x = X.to(next(model.parameters()).dtype)
    (model(x) - x).square().mean().backward()
    optimizer.step()


def trained() -> tuple[Net, Optimizer]:
    torch.manual_seed(0)
    model = Net()
    optimizer = adamw(model.parameters())
    step(model, optimizer)
    return model, optimizer


NEURONS, MIDDLE = "blocks.0.inner:neurons", "blocks.0:sublayer"
OTHERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": adamw,
    "amsgrad": lambda p: AdamW(p, amsgrad=True),
    "sgd": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: RMSprop(p, lr=1e-3),
}


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("axis", [NEURONS, MIDDLE])
def test_what_wakes_under_another_optimizer_has_the_moments_that_it_keeps(
    axis: str, name: str, steps: int
) -> None:
    model, optimizer = trained()
    apply_edits(model, optimizer, [Park(axis, [0])])
    other = OTHERS[name](model.parameters())
    for _ in range(steps):
        step(model, other)
    apply_edits(model, other, [Wake(axis, [0])])
    kept = {tuple(sorted(state)) for state in other.state.values() if state}
    assert len(kept) == steps
    step(model, other)


@pytest.mark.parametrize("axis", [NEURONS, MIDDLE])
def test_what_wakes_in_a_model_of_another_type_rounds_nothing(axis: str) -> None:
    model, optimizer = trained()
    apply_edits(model, optimizer, [Park(axis, [0])])
    model.double()
    optimizer = adamw(model.parameters())
    step(model, optimizer)
    before = {n: t.clone() for n, t in tensors_of(model).items()}
    apply_edits(model, optimizer, [Wake(axis, [0])])
    after = tensors_of(model)
    assert {t.dtype for t in after.values()} == {torch.float64}
    for name, old in before.items():
        now = after[name]
        for dim, size in enumerate(old.shape):
            now = now.narrow(dim, now.shape[dim] - size, size)
        assert torch.equal(now, old)
    step(model, optimizer)


def test_a_mask_follows_its_parameter_into_another_module() -> None:
    model, optimizer = trained()
    keep = torch.eye(4).bool()
    apply_edits(model, optimizer, [MaskEntries("head.weight", keep)])

    def build(old: nn.Module) -> nn.Module:
        assert isinstance(old, nn.Linear)
        new = nn.Linear(4, 4, bias=False)
        new.weight = old.weight
        return nn.Sequential(nn.Identity(), new)

    apply_edits(model, optimizer, [Replace("head", build)])
    assert list(masks_of(model)) == ["head.1.weight"]
    assert torch.equal(masks_of(model)["head.1.weight"], keep)
    apply_edits(model, optimizer, [Replace("head", lambda _: nn.Linear(4, 4))])
    assert masks_of(model) == {}


@pytest.mark.parametrize(
    "edit",
    [
        Replace("blocks.0", lambda old: nn.Sequential(old)),
        Insert("blocks", 0, lambda: MADE[0], silent=("inner.down.weight",)),
    ],
    ids=str,
)
def test_a_plan_that_is_refused_changes_nothing_of_what_is_built_in(edit: Edit) -> None:
    model, optimizer = trained()
    model.blocks[0].eval()
    model.head.double()
    model.blocks[1].double()
    MADE[:] = [model.blocks[0]]
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=r"parameters of its own|no axis 'none'"):
        apply_edits(model, optimizer, [edit, Keep("none", [0])])
    after = everything(model, optimizer)
    assert same(before, after)
    assert all(t.dtype == before[n].dtype for n, t in after.items() if isinstance(t, Tensor))
    assert not model.blocks[0].training


MADE: list[Any] = []
"""What an edit's function gives, which is of the model that a test makes."""


def test_what_modules_hold_beside_their_weights_is_in_nobodys_way() -> None:
    model, optimizer = trained()

    class Watcher:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def see(self, *_: Any) -> None:
            pass

    for block in model.blocks:
        assert isinstance(block, Residual)
        assert block.inner is not None
        block.inner.register_forward_hook(Watcher().see)
    before = everything(model, optimizer)
    parking = [Park(f"blocks.{i}:sublayer", [0]) for i in range(2)]
    apply_edits(model, optimizer, parking)
    apply_edits(model, optimizer, [Wake(edit.axis, [0]) for edit in parking])
    assert same(before, everything(model, optimizer))
    step(model, optimizer)


def test_what_is_said_of_a_parameter_is_said_of_the_one_in_its_place() -> None:
    model, optimizer = trained()
    model.blocks[0].inner.up.weight.no_decay = True  # type: ignore[union-attr]
    apply_edits(model, optimizer, [Keep(NEURONS, [1, 2])])
    assert model.blocks[0].inner.up.weight.no_decay  # type: ignore[union-attr]


def test_parameters_of_whole_numbers_are_not_trained() -> None:
    model, optimizer = trained()
    model.codes = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    apply_edits(model, optimizer, [Train(["*"], False), Keep(NEURONS, [1])])
    apply_edits(model, optimizer, [Train(["*"], True)])
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["codes"]
    with pytest.raises(ValueError, match=r"codes is of torch\.int8, which is not trained"):
        apply_edits(model, optimizer, [Train(["codes"], True)])


STATES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "of a wrapper": lambda state: {f"module.{name}": value for name, value in state.items()},
    "of a file": lambda state: {"model": state, "step": 3},
    "of less": lambda state: {name: value for name, value in state.items() if name != "head.bias"},
    "of nothing": lambda _: {},
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_of_another_model_gives_no_shapes(case: str) -> None:
    model, optimizer = trained()
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="the weights are not those of the model: there is no") as caught:
        resize(model, optimizer, STATES[case](model.state_dict()))
    assert "\n" not in str(caught.value)
    assert same(before, everything(model, optimizer))


def grouped(model: nn.Module, optimizer: Optimizer) -> list[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for p in optimizer.param_groups[0]["params"]]


@pytest.mark.parametrize("copied", [False, True], ids=["as it is", "by way of a state"])
def test_what_an_optimizer_has_not_it_gets_at_no_edit(copied: bool) -> None:
    """As where only a head is trained, or another optimizer has the rest."""
    torch.manual_seed(0)
    model = Net()
    optimizer = adamw([model.head.weight, model.blocks[0].inner.up.weight])  # type: ignore[union-attr]
    step(model, optimizer)
    before = everything(model, optimizer)
    apply_edits(model, optimizer, [Park(MIDDLE, [0])])
    assert grouped(model, optimizer) == ["head.weight"]
    if copied:
        set_parked_units(model, ParkedUnits.of_state(parked_units(model).state_dict()))
    apply_edits(model, optimizer, [Wake(MIDDLE, [0])])
    assert same(before, everything(model, optimizer))
    apply_edits(model, optimizer, [Replace("head", lambda _: nn.Linear(4, 4)), Keep("blocks.1:sublayer", [])])
    assert sorted(grouped(model, optimizer)) == ["blocks.0.inner.up.weight", "head.weight"]
    apply_edits(model, optimizer, [Insert("blocks", 0, lambda: nn.Linear(4, 4))])
    assert sorted(grouped(model, optimizer)) == [
        "blocks.0.bias",
        "blocks.0.weight",
        "blocks.1.inner.up.weight",
        "head.weight",
    ]
