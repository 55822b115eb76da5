"""Sub-layers and whole blocks leave a network by a plan, sleep and come back; a network grows by blocks of its own."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edit_cases import OPTIMIZERS, everything, same
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import Split
from compressm_cli.engine.state import capture, outline, reshape, restore
from compressm_cli.layers.feed_forward import FeedForward, SwiGLU
from compressm_cli.layers.interface import parameter_groups
from compressm_cli.layers.residual import Residual
from compressm_cli.measure.flops import inference_flops, training_step_flops
from compressm_cli.measure.memory import step_bytes
from compressm_cli.models import SequenceModel, build_model
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.structure.edits import Edit, Keep, MaskEntries, Park, Train, Wake
from compressm_cli.structure.map import StructureMap, tensors_of
from compressm_cli.structure.modules import Insert
from compressm_cli.structure.store import ParkedUnits, parked, parked_units, set_parked_units
from compressm_cli.structure.surgery import apply_edits, frozen, orders, resize, sizes

KINDS: dict[str, dict[str, Any]] = {
    "lru": {"layer": {"kind": "lru", "state_dim": 5}, "norm": "batch"},
    "s5": {"layer": {"kind": "s5", "state_dim": [4, 6, 5], "blocks": 2}, "norm": "layer"},
    "mamba2": {"layer": {"kind": "mamba2", "state_dim": 3, "head_dim": 4}, "norm": "rms"},
    "gla": {"layer": {"kind": "gla", "state_dim": 3, "heads": 2}, "norm": "layer", "tie_embeddings": True},
}
MIDDLE = "blocks.1:sublayer"


def recipe(kind: str) -> Recipe:
    mapping = {
        "name": "sublayers",
        "data": {"task": "tokens", "vocabulary": 11, "length": 9},
        "model": {"model_dim": 6, "depth": 3, **KINDS[kind]},
        "train": {"steps": 1},
        "compression": {"method": "none"},
    }
    return recipe_from_mapping(mapping, "test")


def build(kind: str, seed: int = 0) -> SequenceModel:
    made = recipe(kind)
    torch.manual_seed(seed)
    return build_model(made.model, made.data.spec()).double()


def grouped(model: nn.Module, make: Callable[[Any], Optimizer], reverse: bool = False) -> Optimizer:
    """With a group a role, as a run has it; ``reverse``: the last group from back to front, as a run has not."""
    named, names = dict(model.named_parameters()), parameter_groups(model, 3)
    if reverse:
        names[-1].reverse()
    return make([{"params": [named[name] for name in group], "weight_decay": 0.0} for group in names])


def train(model: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        tokens = torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()


TOKENS = torch.arange(22).view(2, 11) % 11


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gone", [[1], [2, 0], [0, 1, 2]], ids=str)
def test_a_model_without_blocks_is_one_in_which_they_add_nothing(kind: str, gone: list[int]) -> None:
    """Outputs and the gradients of what stays, under the names that it had."""
    full, small = build(kind), build(kind)
    with torch.no_grad():
        for i in gone:
            block = full.blocks[i]
            for name in block.silent:  # type: ignore[union-attr]
                block.get_parameter(name).zero_()  # type: ignore[union-attr]
    before = sum(p.numel() for p in small.parameters())
    apply_edits(small, None, [Keep(f"blocks.{i}:sublayer", []) for i in gone])
    assert sum(p.numel() for p in small.parameters()) < before
    named = dict(full.named_parameters())
    assert list(dict(small.named_parameters())) == [
        n for n in named if not n.startswith(tuple(f"blocks.{i}." for i in gone))
    ]
    assert list(orders(small)) == [f"blocks.{i}.layer" for i in range(3) if i not in gone]
    torch.testing.assert_close(small(TOKENS), full(TOKENS), rtol=0, atol=1e-12)
    for model in (full, small):
        model(TOKENS).sin().sum().backward()
    for name, p in small.named_parameters():
        torch.testing.assert_close(p.grad, named[name].grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "name"), [*(("lru", name) for name in OPTIMIZERS), ("gla", "adamw")])
def test_a_block_that_is_parked_and_woken_leaves_no_trace(kind: str, name: str) -> None:
    """Weights, moments, buffers, what is frozen, the order within groups; and ten more steps."""
    model, twin = build(kind), build(kind)
    optimizer, others = (grouped(m, OPTIMIZERS[name], reverse=True) for m in (model, twin))
    for m, o in ((model, optimizer), (twin, others)):
        train(m, o, range(3))
        apply_edits(m, o, [Train(["blocks.1.norm.*" if kind == "gla" else "blocks.1.mix.bias"], False)])
    before = everything(model, optimizer)
    apply_edits(model, optimizer, [Park(MIDDLE, [0])])
    apply_edits(model, optimizer, [Park("blocks.0:sublayer", [0])])
    assert parked(model) == {MIDDLE: (0,), "blocks.0:sublayer": (0,)}
    there = {id(p) for p in model.parameters()}
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == there
    assert {id(p) for p in optimizer.state} <= there
    train(copy.deepcopy(model), AdamW(copy.deepcopy(model).parameters()), range(1))
    apply_edits(model, optimizer, [Wake(MIDDLE, [0])])
    apply_edits(model, optimizer, [Wake("blocks.0:sublayer", [0])])
    assert not parked_units(model)
    assert not parked_units(model).order
    assert same(before, everything(model, optimizer))
    for m, o in ((model, optimizer), (twin, others)):
        train(m, o, range(3, 13))
    assert same(everything(model, optimizer), everything(twin, others))


@pytest.mark.parametrize("name", ["adamw", "sgd momentum", "lion"])
def test_training_without_a_block_is_training_with_it_gated(name: str) -> None:
    model, twin = build("s5"), build("s5")
    optimizer, others = (grouped(m, OPTIMIZERS[name]) for m in (model, twin))
    for m, o in ((model, optimizer), (twin, others)):
        train(m, o, range(3))
    apply_edits(model, optimizer, [Park(MIDDLE, [0])])
    train(model, optimizer, range(3, 9))
    apply_edits(model, optimizer, [Wake(MIDDLE, [0])])
    middle = twin.blocks[1]
    gate = middle.register_forward_hook(lambda _, inputs, output: inputs[0])
    for p in middle.parameters():
        p.requires_grad_(False)
    train(twin, others, range(3, 9))
    gate.remove()
    for p in middle.parameters():
        p.requires_grad_(True)
    mine, theirs = everything(model, optimizer), everything(twin, others)
    for key, value in theirs.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(mine[key], value, rtol=0, atol=1e-12)


class Stack(nn.Module):
    """Sub-layers of another network; the last two share a tensor."""

    def __init__(self) -> None:
        super().__init__()
        inner = [FeedForward(5, 7), SwiGLU(5, 3), FeedForward(5, 4), FeedForward(5, 4)]
        self.layers = nn.ModuleList(Residual(nn.LayerNorm(5), module) for module in inner)
        self.layers[3].get_submodule("inner").up = self.layers[2].get_submodule("inner").up

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def stack() -> Stack:
    torch.manual_seed(4)
    return Stack().double()


def test_sublayers_of_any_network_leave_as_blocks_do() -> None:
    model, x = stack(), torch.randn(2, 5, dtype=torch.float64)
    optimizer = AdamW(model.parameters(), lr=1e-2)
    model(x).square().sum().backward()
    optimizer.step()
    before, y = everything(model, optimizer), model(x)
    axis = "layers.0:sublayer"
    apply_edits(model, optimizer, [Park(axis, [0]), Keep("layers.1.inner:neurons", [0, 2])])
    assert "layers.0.inner:neurons" not in sizes(model)
    assert sizes(model)[axis] == 0
    apply_edits(model, optimizer, [Wake(axis, [0])])
    assert all(
        torch.equal(value, everything(model, optimizer)[key])
        for key, value in before.items()
        if key.startswith("layers.0") and isinstance(value, Tensor)
    )
    assert model(x).shape == y.shape


REFUSED: dict[str, tuple[list[Edit], list[Edit], str]] = {
    "shared": ([], [Keep("layers.2:sublayer", [])], "layers.2.inner.up.weight is shared with another module"),
    "masked": (
        [MaskEntries("layers.0.inner.up.bias", torch.arange(7) > 1)],
        [Park("layers.0:sublayer", [0])],
        "layers.0.inner.up.bias has a mask",
    ),
    "parked within": (
        [Park("layers.0.inner:neurons", [1])],
        [Keep("layers.0:sublayer", [])],
        "units of layers.0.inner:neurons are parked",
    ),
    "parked": ([Park("layers.0:sublayer", [0])], [Keep("layers.0:sublayer", [])], "are parked; wake them"),
    "not parked": ([], [Wake("layers.0:sublayer", [0])], "unit 0 is not parked; parked are: none"),
    "twice in one plan": (
        [],
        [Keep("layers.0:sublayer", []), Keep("layers.0.inner:neurons", [0])],
        "would both change layers.0",
    ),
    "trained and gone": (
        [],
        [Keep("layers.0:sublayer", []), Train(["layers.0.norm.*"], False)],
        "another one exchanges layers.0.norm",
    ),
    "a stranger's model": ([], [Insert("layers", 0)], "only the blocks of a model that builds its own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_sublayer_leaves_whole_or_not_at_all(case: str) -> None:
    first, then, message = REFUSED[case]
    model = stack()
    optimizer = AdamW(model.parameters())
    apply_edits(model, optimizer, first)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=message):
        apply_edits(model, optimizer, then)
    assert same(before, everything(model, optimizer))


def test_what_is_parked_whole_is_plain_data() -> None:
    """As in a loop of one's own: a fresh model is resized, its weights are loaded, and what was parked is woken."""
    model = build("mamba2").float()
    optimizer = grouped(model, OPTIMIZERS["adamw"], reverse=True)
    train(model, optimizer, range(2))
    apply_edits(model, optimizer, [Keep("blocks.1.layer:channels", [0, 2])])
    before = everything(model, optimizer)
    apply_edits(model, optimizer, [Park(MIDDLE, [0])])
    saved, state = optimizer.state_dict(), parked_units(model).state_dict()
    again = build("mamba2", seed=1).float()
    others = grouped(again, OPTIMIZERS["adamw"], reverse=True)
    resize(again, others, model.state_dict())
    again.load_state_dict(model.state_dict())
    others.load_state_dict(saved)
    set_parked_units(again, ParkedUnits.of_state(state))
    apply_edits(again, others, [Wake(MIDDLE, [0])])
    assert same(before, everything(again, others))


def test_counting_sees_what_is_gone(recwarn: pytest.WarningsRecorder) -> None:
    model = build("lru").float()
    batch = Split(torch.zeros(3, 8, dtype=torch.int64), torch.zeros(3, 8, dtype=torch.int64))
    counts = [f(model, batch) for f in (training_step_flops, inference_flops, step_bytes)]
    apply_edits(model, None, [Park(MIDDLE, [0])])
    fewer = [f(model, batch) for f in (training_step_flops, inference_flops, step_bytes)]
    assert fewer[0] < counts[0]
    assert fewer[1] < counts[1]
    apply_edits(model, None, [Wake(MIDDLE, [0])])
    assert [f(model, batch) for f in (training_step_flops, inference_flops, step_bytes)] == counts
    assert [str(w.message) for w in recwarn if "measured on a copy" in str(w.message)] == []


# ---- growing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", [0, 3])
def test_a_model_grows_by_a_block_that_adds_nothing_yet(kind: str, position: int) -> None:
    model = build(kind)
    optimizer = grouped(model, OPTIMIZERS["adamw"])
    train(model, optimizer, range(2))
    model.eval()
    before, state, random = model(TOKENS), dict(optimizer.state), torch.get_rng_state()
    apply_edits(model, optimizer, [Insert("blocks", position, seed=5)])
    assert torch.equal(model(TOKENS), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert len(model.blocks) == 4
    assert all(optimizer.state[p] is s for p, s in state.items())
    twin = build(kind, seed=3)
    apply_edits(twin, None, [Insert("blocks", position, seed=5)])
    block, other = model.blocks[position], twin.blocks[position]
    assert all(torch.equal(a, b) for a, b in zip(block.parameters(), other.parameters(), strict=True))
    model(TOKENS).sin().sum().backward()
    grad = block.get_parameter(block.silent[0]).grad  # type: ignore[index]
    assert grad is not None
    assert bool(grad.any())
    train(model.train(), optimizer, range(2, 4))


# ---- to go back to, and checkpoints ------------------------------------------------------------------------

CHANGES: dict[str, list[list[Edit]]] = {
    "dropped": [[Keep(MIDDLE, [])]],
    "the last dropped": [[Keep("blocks.2:sublayer", [])]],
    "parked": [[Keep("blocks.1.layer:states", [0, 2])], [Park(MIDDLE, [0])]],
    "grown": [[Insert("blocks", 3)]],
    "all of it": [
        [Insert("blocks", 1), Keep("blocks.2.layer:states", [1])],
        [Keep("blocks.3:sublayer", [])],
        [Park("blocks.0.layer:states", [0])],
        [Park("blocks.2:sublayer", [0])],
    ],
}
CHANGES["all of it"] = [
    [Insert("blocks", 1)],
    [Keep("blocks.2.layer:states", [1])],
    *CHANGES["all of it"][1:],
]


@pytest.mark.parametrize("whose", ["own", "another process's"])
@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("kind", ["lru", "mamba2"])
def test_a_rejected_change_leaves_no_trace(kind: str, case: str, whose: str) -> None:
    """Also of a process that knows no more than the shapes of what is gone back to."""
    model = build(kind).float()
    optimizer = grouped(model, OPTIMIZERS["adamw"])
    train(model, optimizer, range(2))
    saved, shapes = capture(model, optimizer), outline(model, optimizer)
    before = everything(model, optimizer)
    for edits in CHANGES[case]:
        apply_edits(model, optimizer, edits)
        train(model, optimizer, range(2, 3))
    now = capture(model, optimizer)
    if whose == "own":
        restore(model, optimizer, saved)
    else:
        reshape(model, optimizer, shapes)
        assert {n: t.shape for n, t in model.state_dict().items()} == {
            n: t.shape for n, t in saved["weights"].items()
        }
        restore(model, optimizer, saved)
    assert same(before, everything(model, optimizer))
    restore(model, optimizer, now)  # and forward again, as a run does that was within a trial
    assert StructureMap.of(model).sizes() == now["sizes"]
    assert all(torch.equal(t, now["weights"][n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("kind", ["s5", "gla"])
def test_a_checkpoint_tells_which_blocks_there_are(kind: str, case: str, tmp_path: Path) -> None:
    model, made = build(kind).float(), recipe(kind)
    optimizer = grouped(model, OPTIMIZERS["adamw"])
    train(model, optimizer, range(1))
    for edits in CHANGES[case]:
        apply_edits(model, optimizer, edits)
    Checkpoint.of(model, made, made.data.spec(), 0).save(tmp_path / "it.pt")
    loaded = Checkpoint.load(tmp_path / "it.pt")
    again = loaded.build_model()
    assert sizes(again) == sizes(model) == loaded.sizes
    assert parked(again) == parked(model)
    assert torch.equal(again.eval()(TOKENS), model.eval()(TOKENS))
    for axis, units in reversed(parked(model).items()):
        for m in (model, again):
            apply_edits(m, None, [Wake(axis, units)])
    assert torch.equal(again(TOKENS), model(TOKENS))
    assert tensors_of(again).keys() == tensors_of(model).keys()
    assert frozen(again) == frozen(model)


def test_damaged_checkpoints_of_blocks_are_refused(tmp_path: Path) -> None:
    made = recipe("mamba2")

    def damaged(change: Callable[[dict[str, Any]], Any]) -> str:
        model = build("mamba2").float()
        apply_edits(model, None, [Park(MIDDLE, [0]), Keep("blocks.2:sublayer", [])])
        Checkpoint.of(model, made, made.data.spec(), 0).save(tmp_path / "it.pt")
        content = torch.load(tmp_path / "it.pt", weights_only=True)
        change(content)
        torch.save(content, tmp_path / "it.pt")
        with pytest.raises(BadInputError, match="damaged checkpoint: ") as found:
            Checkpoint.load(tmp_path / "it.pt")
        return str(found.value)

    def modules(content: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = content["parked"]["modules"]
        return found

    weight = "blocks.1.layer.out_proj.weight"
    assert "orders are given for 1 layers" in damaged(lambda c: c["sizes"].pop("blocks.2:sublayer"))
    assert "no axis 'blocks.1.layer:heads'" in damaged(
        lambda c: c["sizes"].update({"blocks.1.layer:heads": 2})
    )
    assert "there are 1001 blocks; at most 256" in damaged(
        lambda c: c["sizes"].update({"blocks.1000:sublayer": 1})
    )
    assert "parked.modules must be of each sub-layer" in damaged(lambda c: modules(c).clear())
    assert f"{weight} must be" in damaged(
        lambda c: modules(c)[MIDDLE]["tensors"].update({weight: torch.ones(3)})
    )
    assert f"{weight} is missing" in damaged(lambda c: modules(c)[MIDDLE]["tensors"].pop(weight))
    assert "not finite" in damaged(lambda c: modules(c)[MIDDLE]["tensors"][weight].fill_(torch.nan))
    assert "tensors of the sub-layer" in damaged(
        lambda c: modules(c)[MIDDLE]["tensors"].update(a=torch.ones(1))
    )
    assert "reaching must be names" in damaged(lambda c: modules(c)[MIDDLE].update(reaching=[3]))
    assert "frozen must be names" in damaged(lambda c: modules(c)[MIDDLE]["frozen"].append("head.weight"))
    assert "of the tensor's shape" in damaged(
        lambda c: modules(c)[MIDDLE]["state"].update({weight: {"exp_avg": torch.ones(2)}})
    )
