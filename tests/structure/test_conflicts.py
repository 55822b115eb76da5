"""Edits that would meet: axes across one another of which one has parked units, shared tensors, one edit twice."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from edit_cases import everything, same
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import AdamW

from compressm_cli.core.axes import Axis, Slot
from compressm_cli.layers import LAYERS
from compressm_cli.layers.attention import Attention
from compressm_cli.layers.feed_forward import FeedForward
from compressm_cli.structure.edits import Edit, Keep, MaskEntries, Park, Train, Wake
from compressm_cli.structure.map import StructureMap, tensors_of
from compressm_cli.structure.projection import Project
from compressm_cli.structure.store import ParkedUnits, parked, parked_units, set_parked_units
from compressm_cli.structure.surgery import apply_edits, sizes

INPUTS = torch.randn(2, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def mamba2(**settings: Any) -> nn.Module:
    made = LAYERS["mamba2"]
    return made(made.Config(kind="mamba2", head_dim=4, **settings), 8, 3)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: Attention(8, 3, head_dim=4),
    "attention in groups": lambda: Attention(8, 6, kv_heads=3, head_dim=3),
    "mamba2": mamba2,
    "mamba2 in groups": lambda: mamba2(groups=2),
}
ACROSS = {
    "attention": [":heads", ":vo_dim", ":qk_dim"],
    "attention in groups": [":kv_groups", ":queries", ":vo_dim"],
    "mamba2": [":heads", ":channels"],
    "mamba2 in groups": [":heads", ":channels"],
}


def build(kind: str) -> nn.Module:
    torch.manual_seed(1)
    model = MODELS[kind]().double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def trained(model: nn.Module, inputs: Tensor = INPUTS) -> AdamW:
    optimizer = AdamW(model.parameters(), lr=1e-2)
    model(inputs).square().mean().backward()
    optimizer.step()
    return optimizer


def silenced(model: nn.Module, dead: dict[str, list[int]]) -> nn.Module:
    """The model with zeros wherever some units write."""
    twin, axes = copy.deepcopy(model), StructureMap.of(model)
    tensors = tensors_of(twin)
    with torch.no_grad():
        for name, units in dead.items():
            for slot in axes[name].slots:
                if slot.role == "out":
                    tensors[slot.tensor].index_fill_(slot.dim, slot.entries(torch.tensor(units).long()), 0.0)
    return twin


def assert_refused(model: nn.Module, optimizer: AdamW | None, edits: list[Edit], message: str) -> None:
    """Readably, in one line, and with every bit left as it was."""
    optimizer = optimizer or AdamW(model.parameters())
    before, shadows = everything(model, optimizer), parked_units(model).tensors()
    with pytest.raises(ValueError, match=message) as found:
        apply_edits(model, optimizer, edits)
    assert "\n" not in str(found.value)
    assert same(before, everything(model, optimizer))
    assert all(a is b for a, b in zip(shadows, parked_units(model).tensors(), strict=True))


# ---- axes across one another -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ACROSS)
def test_axes_across_parked_units_wait_until_they_are_awake(kind: str) -> None:
    first, second = ACROSS[kind][:2]
    model = build(kind)
    optimizer = trained(model)
    before = everything(model, optimizer)
    for one, other in ((first, second), (second, first)):
        apply_edits(model, optimizer, [Park(one, [0])])
        for edit in (Keep(other, [0]), Park(other, [1])):
            assert_refused(
                model, optimizer, [edit], rf"{edit.axis} lies across {one} in .*wake them first, or cut"
            )
        assert parked(model) == {one: (0,)}
        apply_edits(model, optimizer, [Wake(one, [0])])
        assert same(before, everything(model, optimizer))
    full = silenced(model, {second: [1]})
    apply_edits(model, optimizer, [Keep(second, [u for u in range(sizes(model)[second]) if u != 1])])
    apply_edits(model, optimizer, [Park(first, [1])])
    apply_edits(model, optimizer, [Wake(first, [1])])
    torch.testing.assert_close(model(INPUTS), full(INPUTS), rtol=0, atol=1e-12)


class Units:
    """Which units of an axis are live and parked, by the numbers that they had at first."""

    def __init__(self, size: int) -> None:
        self.live, self.parked = list(range(size)), list[int]()

    def numbers(self, units: list[int]) -> list[int]:
        """Their numbers among live and parked ones."""
        return [sorted(self.live + self.parked).index(unit) for unit in units]


CHANGES = st.lists(
    st.tuples(st.sampled_from(["keep", "park", "wake"]), st.integers(0, 2), st.integers(1, 15)), max_size=7
)


def change(kind: str, axis: str, units: Units, bits: int) -> tuple[Edit, Callable[[], None]]:
    """An edit of the units that the bits name, and what it makes of them."""
    pool = units.parked if kind == "wake" else units.live
    places = [i for i in range(len(pool)) if bits >> i & 1]
    chosen = [pool[i] for i in places]

    def keep() -> None:
        units.live = chosen

    def park() -> None:
        units.live, units.parked = [u for u in units.live if u not in chosen], sorted(units.parked + chosen)

    def wake() -> None:
        units.live, units.parked = sorted(units.live + chosen), [u for u in units.parked if u not in chosen]

    if kind == "keep":
        return Keep(axis, places), keep
    return (Park(axis, places), park) if kind == "park" else (Wake(axis, units.numbers(chosen)), wake)


@pytest.mark.parametrize("kind", [*ACROSS, "mamba2 side by side"])
@settings(max_examples=12, deadline=None)
@given(changes=CHANGES)
def test_whatever_is_cut_parked_and_woken_is_as_if_silent(
    kind: str, changes: list[tuple[str, int, int]]
) -> None:
    """An edit is exact, or it is refused: across parked units; axes side by side in one dimension are never that."""
    across = kind in ACROSS
    model = build(kind if across else "mamba2")
    full = copy.deepcopy(model)
    names = ACROSS[kind] if across else [":states", ":heads"]
    units = {name: Units(StructureMap.of(model)[name].size) for name in names}
    for what, which, bits in changes:
        axis = names[which % len(names)]
        edit, done = change(what, axis, units[axis], bits)
        refusal = None
        try:
            apply_edits(model, None, [edit])
        except ValueError as error:
            refusal = str(error)
        told = ("some of its units are parked", "keeps at least", *(["lies across"] if across else []))
        if refusal is None:
            done()
        else:
            assert any(text in refusal for text in told), refusal
        asleep = {n: u.numbers(u.parked) for n, u in units.items() if u.parked}
        assert asleep == {n: list(numbers) for n, numbers in parked(model).items()}
        dead = {
            n: [i for i in range(StructureMap.of(full)[n].size) if i not in u.live] for n, u in units.items()
        }
        torch.testing.assert_close(model(INPUTS), silenced(full, dead)(INPUTS), rtol=0, atol=1e-12)


class Beside(nn.Module):
    """A width that reaches into a block, which may leave."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.block, self.head = nn.Linear(8, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def axes(self) -> list[Axis]:
        slots = [
            Slot("encoder.weight", 0, role="out"),
            Slot("encoder.bias", 0, role="out"),
            Slot("head.weight", 1),
        ]
        there = self._modules["block"] is not None
        if there:
            slots += [Slot("block.weight", 0), Slot("block.weight", 1), Slot("block.bias", 0)]
        block = Axis(":block", "sublayer", int(there), (), "", minimum=0, modules=("block",))
        return [Axis(":width", "width", len(self.encoder.bias), tuple(slots), ""), block]

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        out: Tensor = self.head(x if self._modules["block"] is None else x + self.block(x))
        return out


def test_an_axis_that_reaches_into_a_parked_block_waits_for_it() -> None:
    """Also where what is parked was saved meanwhile."""
    model = Beside().double()
    optimizer = trained(model)
    apply_edits(model, optimizer, [Park(":block", [0])])
    set_parked_units(model, ParkedUnits.of_state(parked_units(model).state_dict()))
    for edit in (Keep(":width", [0, 2]), Park(":width", [1])):
        assert_refused(model, optimizer, [edit], ":block is parked, and has entries of :width; wake it first")
    apply_edits(model, optimizer, [Wake(":block", [0])])
    apply_edits(model, optimizer, [Keep(":width", [0, 2])])
    assert model(INPUTS).shape == (2, 7, 3)


# ---- shared tensors ----------------------------------------------------------------------------------------


class Pair(nn.Module):
    """Two hidden layers that share ``up``; where they are ``tied``, an axis of the pair ties them."""

    def __init__(self, second: nn.Module, tied: bool = False) -> None:
        super().__init__()
        self.one, self.two, self.tied = FeedForward(8, 5), second, tied
        if self.two is not self.one:
            self.two.get_submodule("up").weight = self.one.up.weight
            self.two.get_submodule("up").bias = self.one.up.bias

    def axes(self) -> list[Axis]:
        names = ("one:neurons", "two:neurons")
        both = Axis(":both", "neuron", len(self.one.up.weight), (Slot("one.up.weight", 0),), "", names)
        return [both] if self.tied else []

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.one(x) + self.two(x).sin()
        return out


class Plain(nn.Module):
    """A hidden layer that declares no axis."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 5), nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.up(x).relu())
        return out


@pytest.mark.parametrize("make", [Keep, Park])
def test_a_shared_tensor_is_cut_where_all_that_share_it_follow(make: Callable[..., Edit]) -> None:
    edit = make("one:neurons", [0, 2])
    for second, message in (
        (
            FeedForward(8, 5),
            "one.up.weight is two.up.weight too, where two:neurons lies, which is not tied to one:neurons",
        ),
        (Plain(), "one.up.weight is two.up.weight too, which no axis tied to one:neurons follows"),
    ):
        model = Pair(second).double()
        assert_refused(model, trained(model), [edit], message)
        assert model(INPUTS).shape == INPUTS.shape


def test_one_module_at_two_places_is_cut_at_both() -> None:
    model = Pair(FeedForward(8, 5))
    model.two = model.one
    model.double()
    full = silenced(model, {"one:neurons": [1, 3, 4]})
    apply_edits(model, None, [Keep("one:neurons", [0, 2])])
    torch.testing.assert_close(model(INPUTS), full(INPUTS), rtol=0, atol=1e-12)


def test_tied_axes_share_a_tensor() -> None:
    model = Pair(FeedForward(8, 5), tied=True).double()
    optimizer = trained(model)
    before, y = everything(model, optimizer), model(INPUTS)
    apply_edits(model, optimizer, [Park("one:neurons", [1, 3])])
    full = silenced(build_again(model, before), {"one:neurons": [1, 3], "two:neurons": [1, 3]})
    torch.testing.assert_close(model(INPUTS), full(INPUTS), rtol=0, atol=1e-12)
    apply_edits(model, optimizer, [Wake("two:neurons", [1, 3])])
    assert same(before, everything(model, optimizer))
    assert torch.equal(model(INPUTS), y)


def build_again(model: nn.Module, values: dict[str, Any]) -> nn.Module:
    """A model of these values, with nothing parked."""
    twin = Pair(FeedForward(8, 5), tied=True).double()
    twin.load_state_dict({name: values[name] for name in model.state_dict()})
    return twin


# ---- nothing to do, twice, and no numbers ------------------------------------------------------------------


@pytest.mark.parametrize("edit", [Park(":heads", []), Wake(":heads", []), Keep(":heads", [2, 0, 1])], ids=str)
def test_an_edit_of_no_unit_changes_nothing(edit: Edit) -> None:
    model = build("attention")
    optimizer = trained(model)
    before = everything(model, optimizer)
    apply_edits(model, optimizer, [edit])
    assert same(before, everything(model, optimizer))
    assert parked_units(model).state_dict() is None
    apply_edits(model, optimizer, [Park(":heads", [1])])
    state = parked_units(model).state_dict()
    apply_edits(model, optimizer, [Keep(":heads", [0, 1]), Park(":heads", []), Wake(":heads", [])])
    assert str(parked_units(model).state_dict()) == str(state)


TWICE: dict[str, tuple[list[Edit], Edit, str]] = {
    "kept": ([], Keep(":heads", [0, 1]), "would both change"),
    "parked": ([], Park(":heads", [2]), "would both change"),
    "woken": ([Park(":heads", [2])], Wake(":heads", [2]), "is not parked"),
    "masked": ([], MaskEntries("q.weight", torch.arange(8) > 2), "would both change q.weight"),
}


@pytest.mark.parametrize("case", TWICE)
def test_an_edit_that_a_plan_has_twice_is_two(case: str) -> None:
    first, edit, message = TWICE[case]
    model = build("attention")
    optimizer = trained(model)
    apply_edits(model, optimizer, first)
    assert_refused(model, optimizer, [edit, edit], message)


def test_two_edits_that_park_units_of_an_axis_meet() -> None:
    assert_refused(build("attention"), None, [Park(":heads", [0]), Park(":heads", [2])], "would both change")


NO_NUMBERS: dict[str, Any] = {
    "booleans": [False, True, True],
    "a boolean tensor": torch.tensor([True, False, True]),
    "a boolean array": np.array([True, False, True]),
    "floats": [0.9, 2.9],
    "a float tensor": torch.tensor([0.0, 1.0]),
    "a number": 1,
    "text": "01",
    "lists": [[0, 1]],
}


@pytest.mark.parametrize("case", NO_NUMBERS)
@pytest.mark.parametrize("make", [Keep, Park, Wake])
def test_units_are_given_by_their_numbers(case: str, make: Callable[..., Edit]) -> None:
    model = build("attention")
    if make is Wake:
        apply_edits(model, None, [Park(":heads", [0, 1])])
    edit = make(":heads", NO_NUMBERS[case])
    message = r":heads: the units are a list of their numbers, not .*; write such as \[0, 2\], .*mask.nonzero"
    assert_refused(model, None, [edit], message)


@pytest.mark.parametrize(
    "units",
    [
        (0, 2),
        range(0, 3, 2),
        np.array([0, 2]),
        [np.int32(2), torch.tensor(0)],
        torch.tensor([2, 0]),
        torch.tensor([0, 2]).int(),
    ],
    ids=repr,
)
def test_numbers_may_be_of_any_library(units: Any) -> None:
    model = build("attention")
    full = silenced(model, {":heads": [1]})
    apply_edits(model, None, [Keep(":heads", units)])
    torch.testing.assert_close(model(INPUTS), full(INPUTS), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Project(":states", True, None), "the order is a whole number from 1 to 3, not True"),
        (Project(":states", 2.0, None), "the order is a whole number from 1 to 3, not 2.0"),  # type: ignore[arg-type]
        (
            MaskEntries("D", torch.ones(4)),
            "the mask is a tensor of booleans, not of torch.float32; write keep != 0",
        ),
        (MaskEntries("D", [True]), "the mask is a tensor, not list"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_orders_are_numbers_and_masks_are_boolean(edit: Edit, message: str) -> None:
    assert_refused(build("mamba2"), None, [Train(["D"], False), edit], message)
