"""Cuts, parked units, masks and freezing are exact, for every optimizer, and whole or not at all."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from edit_cases import OPTIMIZERS, everything, same
from layer_kinds import SMALL
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from compressm_cli.core.axes import Axis, Slot
from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import state_axis, state_space_layers
from compressm_cli.measure.flops import inference_flops, training_step_flops
from compressm_cli.measure.memory import step_bytes
from compressm_cli.models import build_model
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.structure.edits import Edit, Keep, MaskEntries, Park, Train, Wake
from compressm_cli.structure.map import StructureMap, tensors_of
from compressm_cli.structure.masks import Held, enforce_masks, mask_gradients, masks_of, set_mask
from compressm_cli.structure.modules import Insert, Replace
from compressm_cli.structure.store import ParkedUnits, parked, parked_units, set_parked_units
from compressm_cli.structure.surgery import apply_edits, frozen, resize, sizes

NEURONS, WIDTH = ":neurons", ":width"


class Tied(nn.Module):
    """An embedding that is the head too, and a hidden layer whose weights are cut on both dimensions."""

    def __init__(self, width: int = 5, neurons: int = 7) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.up = nn.Linear(width, neurons)
        self.norm = nn.BatchNorm1d(neurons, affine=True)
        self.down = nn.Linear(neurons, width)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.embedding.weight

    def axes(self) -> list[Axis]:
        rows = ("up.weight", "up.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
        neurons = [*(Slot(name, 0) for name in rows), Slot("down.weight", 1, role="out")]
        width = [Slot("embedding.weight", 1), Slot("head.weight", 1), Slot("up.weight", -1)]
        width += [Slot("down.weight", 0, role="out"), Slot("down.bias", 0, role="out")]
        return [
            Axis(NEURONS, "neuron", self.up.weight.shape[0], tuple(neurons), ""),
            Axis(WIDTH, "width", self.embedding.weight.shape[1], tuple(width), ""),
        ]

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(x + self.down(torch.relu(self.norm(self.up(x)))))


def tied(seed: int = 0) -> Tied:
    torch.manual_seed(seed)
    return Tied().double()


def loss_of(model: nn.Module, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens, labels = torch.randint(11, (2, 16), generator=generator)
    return nn.functional.cross_entropy(model(tokens), labels)


def train(
    model: nn.Module, optimizer: Optimizer, steps: range, after: Callable[[], None] = lambda: None
) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(model, step).backward()
        mask_gradients(model)
        optimizer.step()
        enforce_masks(model)
        after()


def silenced(model: nn.Module, axis: Axis, units: list[int]) -> nn.Module:
    """The model with zeros wherever some units write."""
    twin = copy.deepcopy(model)
    tensors = tensors_of(twin)
    for slot in axis.slots:
        if slot.role == "out":
            with torch.no_grad():
                tensors[slot.tensor].index_fill_(slot.dim, slot.entries(torch.tensor(units)), 0.0)
    return twin


# ---- cuts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_cut_slices_whatever_an_optimizer_keeps(name: str) -> None:
    model = tied()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, range(3))
    before = everything(model, optimizer)
    apply_edits(model, optimizer, [Keep(NEURONS, [0, 2, 6])])
    after = everything(model, optimizer)
    assert after.keys() == before.keys()
    rows = {"up.weight": 0, "up.bias": 0, "norm.weight": 0, "norm.bias": 0, "down.weight": 1}
    rows |= {"norm.running_mean": 0, "norm.running_var": 0}
    for key, value in before.items():
        tensor = key.split(" ")[0]
        if isinstance(value, Tensor) and value.ndim and tensor in rows:
            value = value.index_select(rows[tensor], torch.tensor([0, 2, 6]))
        assert torch.equal(value, after[key]) if isinstance(value, Tensor) else value == after[key], key
    train(model, optimizer, range(3, 6))
    assert (model.up.out_features, model.down.in_features, model.norm.num_features) == (3, 3, 3)


def test_state_of_another_shape_is_refused() -> None:
    model = tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    optimizer.state[model.up.weight] = {"row": torch.zeros(7)}
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=r"SGD keeps 'row' of the shape \(7,\) for up.weight"):
        apply_edits(model, optimizer, [Keep(WIDTH, [0, 1])])
    assert same(before, everything(model, optimizer))


def test_a_parameter_without_state_leaves_the_others_alone() -> None:
    model = tied()
    optimizer = AdamW(model.parameters())
    train(model, optimizer, range(2))
    del optimizer.state[model.up.weight]
    bias = optimizer.state[model.up.bias]["exp_avg"].clone()
    apply_edits(model, optimizer, [Keep(NEURONS, [1, 3])])
    assert model.up.weight not in optimizer.state
    assert torch.equal(optimizer.state[model.up.bias]["exp_avg"], bias[[1, 3]])


@pytest.mark.parametrize(
    "kept", [{NEURONS: [0, 3, 4]}, {WIDTH: [1, 2, 4]}, {NEURONS: [5], WIDTH: [0, 3]}], ids=str
)
def test_a_cut_model_is_the_full_one_with_those_units_silent(kept: dict[str, list[int]]) -> None:
    """Also a weight that is cut on both dimensions, and one that two modules share."""
    model = tied().eval()
    with torch.no_grad():
        if WIDTH in kept:  # the width is silent where the embedding is
            gone = [u for u in range(5) if u not in kept[WIDTH]]
            model.embedding.weight[:, gone] = 0.0
    full: nn.Module = model
    for name, units in kept.items():
        axis = StructureMap.of(model)[name]
        full = silenced(full, axis, [u for u in range(axis.size) if u not in units])
    loss_of(full).backward()
    apply_edits(model, None, [Keep(name, units) for name, units in kept.items()])
    assert model.head.weight is model.embedding.weight
    loss_of(model).backward()
    tokens = torch.arange(11)
    torch.testing.assert_close(model(tokens), full(tokens), rtol=0, atol=1e-12)
    gradients = {n: p.grad for n, p in full.named_parameters()}
    index = {axis: torch.tensor(units) for axis, units in kept.items()}
    for name, p in model.named_parameters():
        expected = gradients[name]
        for axis in StructureMap.of(tied()).values():
            for slot in axis.slots:
                if slot.tensor == name and axis.name in index:
                    expected = expected.index_select(slot.dim, index[axis.name])
        torch.testing.assert_close(p.grad, expected, rtol=0, atol=1e-12)


def stack(kind: str) -> nn.Module:
    torch.manual_seed(3)
    config = SequenceConfig(
        layer={"kind": kind, "state_dim": 5, **SMALL.get(kind, {})}, model_dim=6, depth=2, norm="layer"
    )
    return build_model(config, DataSpec(classes=4, length=13, features=2)).double()


AXES = [(kind, ":states") for kind in LAYERS]


@pytest.mark.parametrize(("kind", "axis"), AXES)
def test_units_of_a_layer_are_cut_exactly(kind: str, axis: str) -> None:
    model = stack(kind)
    name = f"blocks.1.layer{axis}"
    found = StructureMap.of(model)[name]
    gone = [1, found.size - 1]
    kept = [u for u in range(found.size) if u not in gone]
    full, inputs = silenced(model, found, gone), torch.randn(3, 13, 2, dtype=torch.float64)
    apply_edits(model, None, [Keep(name, kept)])
    assert sizes(model)[name] == len(kept)
    one, other = model(inputs), full(inputs)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    for output in (one, other):
        output.square().sum().backward()
    full_grads = {n: p.grad for n, p in full.named_parameters()}
    entries: dict[tuple[str, int], list[Tensor]] = {}
    for slot in found.slots:
        entries.setdefault((slot.tensor, slot.dim), []).append(slot.entries(torch.tensor(gone)))
    for n, p in model.named_parameters():
        expected = full_grads[n]
        for (tensor, dim), removed in entries.items():
            if tensor == n:
                rest = ~torch.isin(torch.arange(expected.shape[dim]), torch.cat(removed))
                expected = expected.index_select(dim, rest.nonzero().flatten())
        torch.testing.assert_close(p.grad, expected, rtol=1e-10, atol=1e-12)


def test_states_that_cannot_be_told_apart_are_only_projected() -> None:
    model = stack("mamba")
    layer = state_space_layers(model)["blocks.0.layer"]
    layer.set_state_parameters({"kept": torch.full((12,), 3)})
    with pytest.raises(ValueError, match=r"blocks.0.layer:states: .* by a projection"):
        apply_edits(model, None, [Keep(state_axis("blocks.0.layer"), [0, 1])])


# ---- whole or not at all -----------------------------------------------------------------------------------


class Broken(Edit):
    def prepare(self, draft: Any) -> None:
        raise RuntimeError("broken")

    def touched(self, draft: Any) -> list[str]:
        return []


REFUSED: dict[str, tuple[list[Edit], type[Exception], str]] = {
    "an exception of any kind": ([Keep(NEURONS, [0]), Broken()], RuntimeError, "broken"),
    "the same axis twice": ([Keep(NEURONS, [0, 1]), Park(NEURONS, [3])], ValueError, "would both change"),
    "the same axis cut twice": ([Keep(NEURONS, [0, 1]), Keep(NEURONS, [3])], ValueError, "would both change"),
    "a mask twice": (
        [MaskEntries("up.bias", torch.arange(7) > i) for i in (1, 2)],
        ValueError,
        "would both change",
    ),
    "a mask of what is cut": (
        [Keep(NEURONS, [0]), MaskEntries("down.weight", torch.tensor(False))],
        ValueError,
        "would both change down.weight",
    ),
    "a mask of another shape": ([MaskEntries("up.bias", torch.ones(3))], ValueError, "for \\(7,\\)"),
    "no such axis": (
        [Keep(NEURONS, [0]), Keep(":neuron", [0])],
        ValueError,
        "has no axis ':neuron'; it has :neurons",
    ),
    "no such unit": ([Keep(WIDTH, [0]), Keep(NEURONS, [7])], ValueError, "units 0 to 6"),
    "a unit twice": ([Keep(NEURONS, [1, 1])], ValueError, "twice"),
    "none left": ([Keep(NEURONS, [])], ValueError, "at least 1"),
    "not parked": ([Park(WIDTH, [0]), Wake(NEURONS, [0])], ValueError, "unit 0 is not parked"),
    "no such parameter": (
        [Keep(NEURONS, [0]), Train(["up.*", "upp"], False)],
        ValueError,
        "'upp' names no parameter",
    ),
    "trained and not": ([Train(["up.*"], False), Train(["*"], True)], ValueError, "another one would not"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_plan_is_applied_whole_or_not_at_all(case: str) -> None:
    edits, kind, message = REFUSED[case]
    model = tied()
    optimizer = AdamW(model.parameters())
    train(model, optimizer, range(2))
    before = everything(model, optimizer)
    with pytest.raises(kind, match=message):
        apply_edits(model, optimizer, edits)
    assert same(before, everything(model, optimizer))


# ---- parked units ------------------------------------------------------------------------------------------

PARKED = {
    "rows": [(NEURONS, [0, 4])],
    "columns and rows": [(WIDTH, [3]), (NEURONS, [6, 2])],
    "twice the same axis": [(NEURONS, [5]), (NEURONS, [0])],
}


@pytest.mark.parametrize("case", PARKED)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_park_and_wake_leave_no_trace(name: str, case: str) -> None:
    model, twin = tied(), tied()
    optimizer, others = (OPTIMIZERS[name](m.parameters()) for m in (model, twin))
    for m, o in ((model, optimizer), (twin, others)):
        train(m, o, range(3))
    before = everything(model, optimizer)
    for axis, units in PARKED[case]:
        apply_edits(model, optimizer, [Park(axis, units)])
    assert sum(map(len, parked(model).values())) == sum(len(units) for _, units in PARKED[case])
    assert copy.deepcopy(model).eval()(torch.arange(11)).shape == (11, 11)
    for axis, units in parked(model).items():
        apply_edits(model, optimizer, [Wake(axis, units)])
    assert not parked_units(model)
    assert not parked_units(model).shadows
    assert same(before, everything(model, optimizer))
    for m, o in ((model, optimizer), (twin, others)):
        train(m, o, range(3, 13))
    assert same(everything(model, optimizer), everything(twin, others))


@pytest.mark.parametrize("name", ["adamw", "sgd momentum", "lion"])
def test_training_without_parked_units_is_training_with_them_gated(name: str) -> None:
    """The full model with those units silent, and their entries kept from the optimizer: the same to the last bits."""
    model, twin = tied(), tied()
    optimizer, others = (OPTIMIZERS[name](m.parameters()) for m in (model, twin))
    for m, o in ((model, optimizer), (twin, others)):
        train(m, o, range(3))
        m.eval()  # statistics of what is silent would move on
    units = [1, 5]
    axis = StructureMap.of(twin)[NEURONS]
    held: list[tuple[Tensor, Tensor, int, Tensor]] = []
    tensors = tensors_of(twin)
    for slot in axis.slots:
        if not slot.tensor.startswith("norm.running"):
            place = slot.entries(torch.tensor(units))
            p = tensors[slot.tensor]
            for t in (
                p,
                *(v for v in others.state[p].values() if isinstance(v, Tensor) and v.shape == p.shape),
            ):
                held.append((t, t.detach().index_select(slot.dim, place).clone(), slot.dim, place))
    gate = torch.ones(7, dtype=torch.float64)
    gate[units] = 0.0
    twin.norm.register_forward_hook(lambda _, __, out: out * gate)

    @torch.no_grad()
    def hold() -> None:
        for tensor, values, dim, place in held:
            tensor.index_copy_(dim, place, values)

    apply_edits(model, optimizer, [Park(NEURONS, units)])
    train(model, optimizer, range(3, 9))
    train(twin, others, range(3, 9), hold)
    apply_edits(model, optimizer, [Wake(NEURONS, units)])
    mine, theirs = everything(model, optimizer), everything(twin, others)
    for key, value in theirs.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(mine[key], value, rtol=0, atol=1e-12)


def test_cuts_reach_what_is_parked() -> None:
    """A unit that is woken after the other dimension was cut has lost the same entries."""
    model, twin = tied(), tied()
    apply_edits(model, None, [Park(NEURONS, [2, 3])])
    apply_edits(model, None, [Keep(WIDTH, [0, 4])])
    apply_edits(model, None, [Wake(NEURONS, [3])])
    assert parked(model) == {NEURONS: (2,)}
    apply_edits(model, None, [Wake(NEURONS, [2])])
    apply_edits(twin, None, [Keep(WIDTH, [0, 4])])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    apply_edits(model, None, [Park(NEURONS, [0])])
    with pytest.raises(ValueError, match="some of its units are parked; wake them"):
        apply_edits(model, None, [Keep(NEURONS, [0, 1])])


def test_what_is_parked_is_saved_as_plain_data() -> None:
    model, twin = tied(), tied()
    optimizer = AdamW(model.parameters())
    train(model, optimizer, range(2))
    apply_edits(model, optimizer, [Park(NEURONS, [1, 6]), Park(WIDTH, [0])])
    state = parked_units(model).state_dict()
    resize(twin, None, model.state_dict())
    twin.load_state_dict(model.state_dict())
    set_parked_units(twin, ParkedUnits.of_state(state))
    for m in (model, twin):
        apply_edits(m, None, [Wake(WIDTH, [0])])
        apply_edits(m, None, [Wake(NEURONS, [6, 1])])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


# ---- masks and freezing ------------------------------------------------------------------------------------


def test_masked_entries_have_no_gradient_no_norm_and_no_moments() -> None:
    model = tied()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, range(2))
    keep = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    apply_edits(model, optimizer, [MaskEntries("up.weight", keep)])
    state = optimizer.state[model.up.weight]
    for tensor in (model.up.weight, state["exp_avg"], state["exp_avg_sq"]):
        assert bool((tensor[~keep] == 0).all())
        assert bool((tensor[keep] != 0).all())
    optimizer.zero_grad()
    loss_of(model).backward()
    assert model.up.weight.grad is not None
    assert bool((model.up.weight.grad[~keep] != 0).any())
    mask_gradients(model)
    assert bool((model.up.weight.grad[~keep] == 0).all())
    train(model, optimizer, range(2, 6))
    assert bool((model.up.weight[~keep] == 0).all())
    assert bool((optimizer.state[model.up.weight]["exp_avg"][~keep] == 0).all())
    assert "_keep_weight" not in " ".join(model.state_dict())
    assert masks_of(copy.deepcopy(model)).keys() == masks_of(model.to("meta")).keys() == {"up.weight"}


@pytest.mark.parametrize("kind", ["lru", "mamba"])
def test_flops_and_memory_are_counted_without_values_whatever_is_masked_or_parked(
    kind: str, recwarn: pytest.WarningsRecorder
) -> None:
    model, batch = stack(kind).float(), Split(torch.randn(3, 13, 2), torch.tensor([0, 1, 2]))
    plain = training_step_flops(model, batch), inference_flops(model, batch), step_bytes(model, batch)
    keep = torch.arange(model.get_parameter("encoder.weight").numel()).view(6, 2) % 2 > 0
    apply_edits(model, None, [MaskEntries("encoder.weight", keep)])
    assert (training_step_flops(model, batch), inference_flops(model, batch)) == plain[:2]
    assert step_bytes(model, batch) == plain[2]
    apply_edits(model, None, [Park(state_axis("blocks.0.layer"), [1, 2])])
    smaller = training_step_flops(model, batch)
    assert smaller < plain[0]
    apply_edits(model, None, [Wake(state_axis("blocks.0.layer"), [1, 2])])
    assert training_step_flops(model, batch) == plain[0]
    assert [str(w.message) for w in recwarn if "measured on a copy" in str(w.message)] == []


def test_a_mask_follows_its_parameter() -> None:
    model = tied()
    keep = torch.arange(35).view(7, 5) % 3 > 0
    apply_edits(model, None, [MaskEntries("up.weight", keep)])
    apply_edits(model, None, [Keep(NEURONS, [1, 2]), Keep(WIDTH, [0, 3])])
    assert torch.equal(masks_of(model)["up.weight"], keep[[1, 2]][:, [0, 3]])
    apply_edits(model, None, [MaskEntries("up.weight", torch.tensor(True))])
    assert masks_of(model) == {}


def test_what_is_frozen_stays() -> None:
    """Over fifty steps with decay and warm moments; and goes on with its moments when it is thawed."""
    model = tied()
    optimizer = AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    train(model, optimizer, range(3))
    held = {n: t.clone() for n, t in tensors_of(model).items() if n.startswith(("up.", "embedding"))}
    moments = optimizer.state[model.up.weight]["exp_avg"].clone()
    apply_edits(model, optimizer, [Train(["up.*", "embedding.weight"], active=False)])
    train(model, optimizer, range(3, 53))
    now = tensors_of(model)
    assert all(torch.equal(now[n], t) for n, t in held.items())
    assert model.up.weight.grad is None
    apply_edits(model, optimizer, [Train(["*"], active=True)])
    assert frozen(model) == []
    assert torch.equal(optimizer.state[model.up.weight]["exp_avg"], moments)
    train(model, optimizer, range(53, 54))
    assert not torch.equal(model.up.weight, held["up.weight"])


def test_frozen_parameters_stay_frozen_when_they_are_cut() -> None:
    model = tied()
    apply_edits(model, None, [Train(["down.*"], active=False)])
    apply_edits(model, None, [Keep(NEURONS, [0, 1])])
    assert frozen(model) == ["down.weight", "down.bias"]


# ---- modules -----------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 3), nn.Linear(3, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.blocks = nn.ModuleList(Residual() for _ in range(2))
        self.head = nn.Linear(5, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def deep() -> tuple[Deep, AdamW]:
    torch.manual_seed(0)
    model = Deep().double()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-2
    )
    train(model, optimizer, range(3))
    return model, optimizer


@pytest.mark.parametrize("position", [0, 1, 2])
def test_what_is_inserted_adds_nothing_yet(position: int) -> None:
    model, optimizer = deep()
    before, state = model(torch.arange(11)), dict(optimizer.state)
    held = [b.up.weight for b in model.blocks]
    apply_edits(model, optimizer, [Insert("blocks", position, Residual, ("down.weight", "down.bias"))])
    assert torch.equal(model(torch.arange(11)), before)
    assert [b.up.weight for i, b in enumerate(model.blocks) if i != position] == held
    assert all(optimizer.state[p] is s for p, s in state.items())
    loss_of(model).backward()
    new = model.blocks[position]
    assert isinstance(new, Residual)
    assert new.down.weight.grad is not None
    assert bool(new.down.weight.grad.any())
    decayed, others = ([id(p) for p in g["params"]] for g in optimizer.param_groups)
    assert id(new.down.weight) in decayed
    assert id(new.down.bias) in others
    assert sorted(decayed + others) == sorted(id(p) for p in model.parameters())
    train(model, optimizer, range(3, 6))


def test_what_is_replaced_leaves_the_optimizer() -> None:
    model, optimizer = deep()
    old, kept = model.blocks[0], model.blocks[1].up.weight
    moments = optimizer.state[kept]
    apply_edits(model, optimizer, [Replace("blocks.0", lambda _: nn.Identity())])
    assert isinstance(model.blocks[0], nn.Identity)
    gone = {id(p) for p in old.parameters()}
    assert not gone & {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert not gone & {id(p) for p in optimizer.state}
    assert optimizer.state[kept] is moments
    train(model, optimizer, range(3, 6))


def test_modules_are_exchanged_whole_or_not_at_all() -> None:
    model, optimizer = deep()
    before = everything(model, optimizer)
    for edits, message in (
        ([Replace("blocks.0", lambda _: nn.Identity()), Train(["blocks.7.*"], False)], "names no parameter"),
        (
            [Replace("blocks.1", lambda _: nn.Identity()), Train(["blocks.1.*"], False)],
            "another one exchanges blocks.1",
        ),
        ([Insert("blocks", 3, Residual)], "at most 2"),
        ([Insert("head", 0, Residual)], "ModuleList or a Sequential"),
        ([Replace("blocks.5", lambda _: nn.Identity())], "no module of this name"),
        (
            [
                Replace("blocks.0", lambda _: nn.Identity()),
                MaskEntries("blocks.0.up.bias", torch.tensor(False)),
            ],
            "both",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            apply_edits(model, optimizer, edits)
        assert same(before, everything(model, optimizer))


def test_one_walk_finds_parameters_in_order_and_masks_of_shared_modules() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(
        nn.Linear(2, 3), shared, nn.Sequential(nn.LayerNorm(3), shared), nn.Linear(3, 1, bias=False)
    )
    model[3].weight = model[0].bias  # tied
    model[1].bias = None
    keep = torch.tensor([[True, False, True]] * 3)
    set_mask(model, "1.weight", keep)
    held = Held.of(model)
    assert [id(p) for p in held.parameters] == [id(p) for p in model.parameters()]
    assert all(p is shared.weight and mask is masks_of(model)["1.weight"] for p, mask in held.masked)
    assert held.masked
    held.enforce_masks()
    assert torch.equal(shared.weight != 0, keep)
