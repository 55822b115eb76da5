"""Plans that exchange modules: two edits never meet in one, and what fails leaves everything as it was."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from edit_cases import everything, same
from torch import Tensor, nn
from torch.optim import LBFGS, Adafactor, AdamW, Optimizer

from compressm_cli.core.axes import Axis, Slot
from compressm_cli.structure.edits import Edit, Keep, MaskEntries, Park, Train, Wake
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.modules import Insert, Replace
from compressm_cli.structure.surgery import apply_edits


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))

    def axes(self) -> Iterator[Axis]:
        slots = Slot("up.weight", 0), Slot("up.bias", 0), Slot("down.weight", 1, role="out")
        yield Axis(":neurons", "neuron", len(self.up.bias), slots, "")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f: nn.Module | None = Hidden()

    def forward(self, x: Tensor) -> Tensor:
        return x if self.f is None else x + self.f(x)

    def axes(self) -> Iterator[Axis]:
        yield Axis(":sublayer", "sublayer", int(self.f is not None), (), "", minimum=0, modules=("f",))


class Net(nn.Module):
    """Three blocks, the last of which has another name, too."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual() for _ in range(3))
        self.last = self.blocks[2]
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def step(model: nn.Module, optimizer: Optimizer) -> None:
    def loss() -> float:
        optimizer.zero_grad()
        value = (model(X) - X).square().mean()
        value.backward()
        return value.item()

    optimizer.step(loss)


def trained(make: Callable[[Any], Optimizer] = lambda p: AdamW(p, lr=1e-2)) -> tuple[Net, Optimizer]:
    torch.manual_seed(0)
    model = Net()
    optimizer = make(model.parameters())
    step(model, optimizer)
    return model, optimizer


def gelu(_: nn.Module) -> nn.Module:
    return nn.GELU()


def module_names(model: nn.Module) -> list[tuple[str, str]]:
    return [(name, type(part).__name__) for name, part in model.named_modules(remove_duplicate=False)]


BOTH = "would both change"
MEETING: dict[str, tuple[list[Edit], str]] = {
    "in what is cut out": ([Keep("blocks.1:sublayer", []), Replace("blocks.1.f.act", gelu)], BOTH),
    "in what is parked": ([Park("blocks.1:sublayer", [0]), Replace("blocks.1.f.act", gelu)], BOTH),
    "around what is parked": ([Park("blocks.1:sublayer", [0]), Replace("blocks.1", gelu)], BOTH),
    "in what is replaced": ([Replace("blocks.1.f", gelu), Replace("blocks.1.f.act", gelu)], BOTH),
    "the same twice": ([Replace("blocks.1.f.act", gelu), Replace("blocks.1.f.act", gelu)], BOTH),
    "by two names": ([Replace("blocks.2.f.act", gelu), Replace("last.f.act", gelu)], BOTH),
    "in a list that grows": ([Insert("blocks", 0, Residual), Replace("blocks.0.f.act", gelu)], BOTH),
    "by another name in a list that grows": (
        [Insert("blocks", 0, Residual), Replace("last.f.act", gelu)],
        BOTH,
    ),
    "a list that grows twice": ([Insert("blocks", 0, Residual), Insert("blocks", 3, Residual)], BOTH),
    "cut within": ([Replace("blocks.1.f", gelu), Keep("blocks.1.f:neurons", [0])], BOTH),
    "a mask within": (
        [Replace("blocks.1", gelu), MaskEntries("blocks.1.f.up.bias", torch.tensor(False))],
        BOTH,
    ),
    "trained within": (
        [Insert("blocks", 0, Residual), Train(["blocks.0.*"], False)],
        "another one exchanges",
    ),
}


@pytest.mark.parametrize("order", [1, -1], ids=["in order", "reversed"])
@pytest.mark.parametrize("case", MEETING)
def test_two_edits_do_not_meet_in_a_module(case: str, order: int) -> None:
    edits, message = MEETING[case]
    model, optimizer = trained()
    before, names = everything(model, optimizer), module_names(model)
    with pytest.raises(ValueError, match=message):
        apply_edits(model, optimizer, edits[::order])
    assert same(before, everything(model, optimizer))
    assert module_names(model) == names
    assert model(X).shape == X.shape


def test_edits_of_several_modules_are_made_together() -> None:
    model, optimizer = trained()
    apply_edits(
        model,
        optimizer,
        [Replace("blocks.0.f.act", gelu), Keep("blocks.0.f:neurons", [1, 2]), Park("blocks.1:sublayer", [0])],
    )
    first = model.blocks[0].f
    assert isinstance(first, Hidden)
    assert isinstance(first.act, nn.GELU)
    assert first.up.weight.shape == (2, 4)
    assert model.blocks[1].f is None
    step(model, optimizer)


class Spoiled(nn.Linear):
    """A module whose axes cannot be told where it has come to be in a model."""

    def axes(self) -> list[Axis]:
        raise KeyError("spoiled")


def test_what_fails_in_the_end_is_put_back() -> None:
    model, optimizer = trained()
    apply_edits(
        model, optimizer, [Park("blocks.1:sublayer", [0]), MaskEntries("head.bias", torch.arange(4) > 0)]
    )
    apply_edits(model, optimizer, [Train(["blocks.2.f.down.bias"], False)])
    step(model, optimizer)
    before, names = everything(model, optimizer), module_names(model)
    parameters, gradients = list(model.parameters()), [p.grad for p in model.parameters()]
    edits = [
        Keep("blocks.0.f:neurons", [0, 1]),
        Wake("blocks.1:sublayer", [0]),
        MaskEntries("head.weight", torch.eye(4).bool()),
        Train(["blocks.2.f.up.*"], False),
        Replace("head", lambda _: Spoiled(4, 4)),
    ]
    with pytest.raises(ValueError, match=BOTH):
        apply_edits(model, optimizer, edits)
    del edits[2]
    with pytest.raises(KeyError, match="spoiled"):
        apply_edits(model, optimizer, edits)
    assert same(before, everything(model, optimizer))
    assert module_names(model) == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(p.grad is g for p, g in zip(parameters, gradients, strict=True))
    assert StructureMap.of(model)["blocks.0.f:neurons"].size == 6
    apply_edits(model, optimizer, edits[:-1])
    step(model, optimizer)
    assert StructureMap.of(model).sizes()["blocks.1:sublayer"] == 1


NEURONS = "blocks.0.f:neurons"
BAD: dict[str, tuple[Any, str]] = {
    "no units": (Keep(NEURONS, None), "the units are a list of their numbers, not None"),  # type: ignore[arg-type]
    "units to park": (Park(NEURONS, None), "the units are a list of their numbers"),  # type: ignore[arg-type]
    "units in words": (Keep(NEURONS, "all"), "the units are a list of their numbers"),  # type: ignore[arg-type]
    "units to wake": (Wake(NEURONS, None), "the units are a list of their numbers"),  # type: ignore[arg-type]
    "a number for an axis": (Keep(3, [0]), "the model has no axis 3; it has"),  # type: ignore[arg-type]
    "no axis": (Wake(None, [0]), "the model has no axis None"),  # type: ignore[arg-type]
    "no such list": (Insert("block", 0, Residual), "no module of this name; it has blocks"),
    "a number for a list": (Insert(3, 0, Residual), "no module of this name"),  # type: ignore[arg-type]
    "before the first": (Insert("blocks", -1, Residual), "at least 0 and at most 3"),
    "half a place": (Insert("blocks", 0.5, Residual), "a whole number"),  # type: ignore[arg-type]
    "nothing built": (Insert("blocks", 0, lambda: None), "an nn.Module, and gave None"),  # type: ignore[arg-type, return-value]
    "text built": (Replace("head", lambda _: "head"), "and gave 'head'"),  # type: ignore[arg-type, return-value]
    "no function": (Replace("head", None), "a function that makes an nn.Module, not None"),  # type: ignore[arg-type]
    "a number for a module": (Replace(3, gelu), "no module of this name"),  # type: ignore[arg-type]
    "no mask": (MaskEntries("head.bias", None), "the mask is a tensor, not NoneType"),  # type: ignore[arg-type]
    "no patterns": (Train(None, False), "a list of names of parameters, not None"),  # type: ignore[arg-type]
    "a pattern alone": (Train("*", False), "a list of names of parameters, not '\\*'"),
    "no edit": (None, "and None is none"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_makes_no_sense_is_refused_in_a_line(case: str) -> None:
    edit, message = BAD[case]
    model, optimizer = trained()
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=message) as caught:
        apply_edits(model, optimizer, [Keep("blocks.1.f:neurons", [0]), edit])
    assert "\n" not in str(caught.value)
    assert same(before, everything(model, optimizer))


@pytest.mark.parametrize(
    "edit",
    [
        Keep(NEURONS, [0]),
        Park(NEURONS, [0]),
        Park("blocks.1:sublayer", [0]),
        Insert("blocks", 0, Residual),
        Replace("blocks.0.f.act", gelu),
        MaskEntries("head.bias", torch.arange(4) > 0),
    ],
    ids=str,
)
def test_state_of_all_parameters_together_is_refused(edit: Edit) -> None:
    """Also before the first step: what such an optimizer has counted is of the parameters that there were."""
    model, optimizer = trained(lambda p: LBFGS(p, lr=0.1))
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="LBFGS keeps one state for all parameters together"):
        apply_edits(model, optimizer, [edit])
    assert same(before, everything(model, optimizer))
    fresh = Net()
    with pytest.raises(ValueError, match="LBFGS keeps one state"):
        apply_edits(fresh, LBFGS(fresh.parameters()), [edit])
    apply_edits(model, optimizer, [Train(["head.*"], False)])


class Blocked(Optimizer):
    """Keeps a list of matrices of each parameter."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for p in self.param_groups[0]["params"]:
            self.state[p] = {"factors": [torch.eye(n) for n in p.shape]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Blocked, "Blocked keeps 'factors' as a list"),
        (lambda p: Adafactor(p), "Adafactor keeps 'row_var' of"),
    ],
    ids=["lists", "factors"],
)
def test_state_that_is_not_one_number_for_an_entry_is_not_cut(
    make: Callable[[Any], Optimizer], message: str
) -> None:
    model, optimizer = trained(make)
    step(model, optimizer)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=message):
        apply_edits(model, optimizer, [Keep(NEURONS, [0])])
    after = everything(model, optimizer)
    assert before.keys() == after.keys()
    assert all(before[n].shape == t.shape for n, t in after.items() if isinstance(t, Tensor))
