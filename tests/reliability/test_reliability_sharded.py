"""A model sharded over two processes is trained, cut, saved and restored as the plain one is in one process.

The two processes write down what they have come to, and the tests compare it with what one process makes of the same
weights, plan and data.
"""

import copy
import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError, ElsewhereError
from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.engine import state
from compressm_cli.engine.distributed import sharded
from compressm_cli.engine.distributed.agreement import checksum
from compressm_cli.engine.distributed.group import Group, joined
from compressm_cli.engine.evaluation import calibrate, evaluate
from compressm_cli.engine.optimizer import build_optimizer
from compressm_cli.layers.interface import state_axis, state_space_layers
from compressm_cli.layers.selective import ChannelProjection
from compressm_cli.layers.time_invariant import StateProjection
from compressm_cli.measure.flops import training_step_flops
from compressm_cli.measure.probe import example_batch
from compressm_cli.methods import METHODS
from compressm_cli.methods.calibration import Statistic
from compressm_cli.methods.method import CheckContext, Method
from compressm_cli.models import build_model
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.recipe import recipe_from_mapping
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.structure import surgery
from compressm_cli.structure.edits import MaskEntries, Train
from compressm_cli.structure.masks import enforce_masks, masks_of
from compressm_cli.structure.plan import Plan, UnitRecord
from compressm_cli.structure.projection import Project

PROCESSES = 2
KINDS = ["lru", "mamba"]
WIDTH, ORDER, LENGTH, ROWS, STEPS = 8, 6, 16, 8, 4
ROWS_AT_ONCE = 3
"""In calibration: each batch is passed through in parts, the last one smaller."""
FIRST, SECOND = "blocks.0.layer", "blocks.1.layer"
DATA = DataSpec(classes=10, length=LENGTH, features=1)
TRAIN = TrainConfig(steps=100, learning_rate=1e-2, weight_decay=0.1, clip_norm=1.0)
MASKED = {"lru": f"{SECOND}.C_re", "mamba": f"{SECOND}.x_proj.weight"}
LIFTED = {"lru": f"{FIRST}.C_im", "mamba": f"{FIRST}.A_log"}
FROZEN = [f"{FIRST}.D", "head.weight"]

# ---- what the processes and the tests share ----------------------------------------------------------------


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(3)
    config = SequenceConfig(layer={"kind": kind, "state_dim": ORDER}, model_dim=WIDTH, depth=2)
    return build_model(config, DATA)


def batch_of(step: int, rows: int = ROWS) -> Split:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(rows, LENGTH, 1, generator=generator)
    return Split(inputs, torch.randint(0, 10, (rows,), generator=generator))


def part_of(batch: Split, group: Group) -> Split:
    return batch.rows(torch.arange(group.rank, len(batch), group.size))


def train(model: nn.Module, optimizer: AdamW, steps: range, group: Group | None = None) -> list[float]:
    losses = []
    for step in steps:
        batch = part_of(batch_of(step), group or Group())
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(batch.inputs), batch.labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), TRAIN.clip_norm or 1.0)
        optimizer.step()
        enforce_masks(model)
        losses.append(float(loss.detach()))
    return losses


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def random_cut(kind: str, layer: Any, order: int) -> Project:
    """One that approximates nothing, with moments carried over; of mamba, some channels keep fewer states."""
    n = layer.state_dim
    if kind == "mamba":
        A, kept = -torch.exp(noise(2 * WIDTH, order)), torch.arange(2 * WIDTH) % (order + 1)
        projection = ChannelProjection(noise(order, n), noise(order, n), A, kept)
        return Project(state_axis(FIRST), order, projection, moments="transport")
    maps = [torch.complex(noise(*s), noise(*s[::-1]).mT) for s in 2 * [(order, n)] + 2 * [(n, order)]]
    poles = torch.complex(noise(order), noise(order))
    return Project(
        state_axis(FIRST),
        order,
        [StateProjection(0.9 * poles / (1 + poles.abs()), *maps)],
        moments="transport",
    )


def last_plan(kind: str, model: nn.Module) -> Plan:
    """One layer to one state; the other, of mamba, to a basis for each channel, which adds parameters."""
    layers = state_space_layers(model)
    edits: list[Any] = [random_cut(kind, layers[FIRST], 1), Train(FROZEN, active=True)]
    if kind == "mamba":
        channels, n = 2 * WIDTH, layers[SECOND].state_dim
        own = ChannelProjection(
            noise(channels, 2, n), noise(2, channels, n).transpose(0, 1), -noise(channels, 2).exp()
        )
        edits.insert(0, Project(state_axis(SECOND), 2, own))
    return Plan(edits)


def mask_and_freeze(kind: str, model: nn.Module) -> Plan:
    keep = torch.ones(model.get_parameter(MASKED[kind]).shape, dtype=torch.bool)
    keep[1] = False
    keep[-1, 2:] = False
    first = MaskEntries(LIFTED[kind], torch.tensor([False, *[True] * (ORDER // 2 - 1)]))
    return Plan([MaskEntries(MASKED[kind], keep), first, Train(FROZEN, active=False)])


def hankel(kind: str = "lru") -> Method:
    method, distillation = METHODS["hankel"], {"distill_steps": 2} if kind == "mamba" else {}
    config = method.Config(method="hankel", keep_fraction=0.5, moments="transport", **distillation)
    return method(config)


# ---- what the processes do ---------------------------------------------------------------------------------


def held(model: nn.Module, optimizer: AdamW) -> tuple[int, int]:
    """Entries of parameters and moments that this process holds, and those of the whole model."""
    tensors = [*model.parameters(), *(t for s in optimizer.state.values() for t in s.values() if t.ndim)]
    return sum(t.to_local().untyped_storage().nbytes() // 4 for t in tensors), sum(t.numel() for t in tensors)


class AliveAtOnce:
    """The most bytes of tensors that were alive at one time, while installed."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def watch(self, tensor: Tensor) -> None:
        size = tensor.untyped_storage().nbytes()
        weakref.finalize(tensor.untyped_storage(), self.add, -size)
        self.add(size)

    def add(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)


class GatheredAtOnce(AliveAtOnce):
    """Of tensors that were gathered in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.full_tensor = DTensor.full_tensor

    def __enter__(self) -> "GatheredAtOnce":
        def full_tensor(tensor: DTensor, **options: Any) -> Tensor:
            full = self.full_tensor(tensor, **options)
            self.watch(full)
            return full

        DTensor.full_tensor = full_tensor
        return self

    def __exit__(self, *_: object) -> None:
        DTensor.full_tensor = self.full_tensor


class CollectedAtOnce(AliveAtOnce):
    """Of tensors that were collected from all processes in the main one."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = sharded.gathered

    def __enter__(self) -> "CollectedAtOnce":
        def gathered(value: Any, group: Group) -> Any:
            whole = self.gathered(value, group)
            if isinstance(whole, Tensor):
                self.watch(whole)
            return whole

        sharded.gathered = gathered
        return self

    def __exit__(self, *_: object) -> None:
        sharded.gathered = self.gathered


class OfALayer(Statistic):
    """What a layer, which may be another one than that whose inputs are shown, gives for them."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.total = layer, 0.0

    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        self.total += float(self.layer.forward(u).square().sum())

    def result(self) -> float:
        return self.total


class Reading(Method):
    """Reads everything that a method could, in several ways, and tells it."""

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        found: dict[str, Any] = {
            "named": {name: p.detach().clone() for name, p in model.named_parameters()},
            "orders": surgery.orders(model),
            "masks": masks_of(model),
        }
        for name, layer in reversed(state_space_layers(model).items()):
            twin = copy.deepcopy(layer)
            found[name] = {leaf: value.clone() for leaf, value in layer.state_dict().items()}
            assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), layer.parameters(), strict=True))
            with torch.no_grad():
                found[f"{name} output"] = torch.func.functional_call(
                    layer, dict(twin.named_parameters()), (torch.ones(1, 3, WIDTH),)
                )
        found["frozen"] = surgery.frozen(model)
        layers = state_space_layers(model)
        statistics = {name: OfALayer(layer) for name, layer in layers.items()}
        context.calibrate(statistics, 2)
        found["shown"] = [s.result() for s in statistics.values()]
        with pytest.raises(RuntimeError, match="is looked at while the inputs of another layer are shown"):
            context.calibrate({SECOND: OfALayer(layers[FIRST])}, 1)
        context.calibrate({FIRST: OfALayer(layers[FIRST])}, 1)
        return Plan(records=[UnitRecord("all", "values", 1, 1, "looked at", details=found)])


class Work:
    """One process's model, and what it has come to."""

    def __init__(self, plain: nn.Module, group: Group) -> None:
        self.group = group
        self.model = sharded.shard(plain, group)
        self.optimizer = build_optimizer(self.model, TRAIN)
        self.found: dict[str, Any] = {}

    def note(self, name: str, **more: Any) -> dict[str, Any] | None:
        gathered = sharded.gather_state(self.model, self.optimizer)
        self.found[name] = {
            "state": gathered,
            "checksum": sharded.checksum(self.model, self.optimizer),
            "orders": surgery.orders(self.model),
            "held": held(self.model, self.optimizer),
            **more,
        }
        return gathered

    def apply(self, plan: Plan) -> None:
        self.model = sharded.apply_plan(self.model, self.optimizer, plan)

    def train(self, steps: range) -> list[float]:
        return train(self.model, self.optimizer, steps, self.group)

    def context(self, seen: Split | None = None) -> CheckContext:
        def calibrated(statistics: Mapping[str, Statistic], count: int) -> None:
            batches = [seen or batch_of(100 + i) for i in range(count)]
            calibrate(self.model, statistics, batches, ROWS_AT_ONCE)

        # Only the main process's random state may count.
        generator = torch.Generator().manual_seed(self.group.rank)
        return CheckContext(STEPS, 100, LENGTH, generator, calibrated)


class Failing(Method):
    """Asks for inputs, then fails, in the one process that it runs in."""

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        context.calibrate({}, 1)
        raise BadInputError("told by the main process alone")


class FailingAtSight(Method, Statistic):
    """Fails while the others go on passing rows through the model."""

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        context.calibrate({FIRST: self}, 2)
        return Plan()

    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        raise BadInputError("this layer cannot be looked at")

    def result(self) -> None:
        return None


def run_kind(kind: str, group: Group) -> dict[str, Any]:
    work = Work(model_of(kind), group)
    trained = work.note("trained", losses=work.train(range(STEPS)))
    method, context = hankel(kind), work.context()
    decided = sharded.plan(method, work.model, context)
    work.apply(decided)
    work.note("cut", plan=decided, method=method.state_dict(), generator=context.generator.get_state())
    work.note("further", losses=work.train(range(STEPS, 2 * STEPS)))
    result = evaluate(work.model, batch_of(50, 24), 8)
    work.found["evaluation"] = {"result": result, "outline": sharded.without_values(work.model)}
    # Right after an evaluation, which leaves some parameters gathered.
    plan = mask_and_freeze(kind, work.model)
    work.apply(plan)
    work.note("constrained", plan=plan)
    work.note("held to it", losses=work.train(range(STEPS)))
    plan = last_plan(kind, work.model)
    work.apply(plan)
    work.note("one state", plan=plan)
    work.train(range(2))
    work.found["refused"] = refused(work, kind)
    work.model = sharded.scatter_state(work.model, work.optimizer, trained)
    work.note("undone")
    work.note("again", losses=work.train(range(STEPS, 2 * STEPS)))
    return work.found


def refused(work: Work, kind: str) -> dict[str, Any]:
    """Plans that must change nothing, and a method that fails."""
    before, told = sharded.checksum(work.model, work.optimizer), []
    good = random_cut(kind, state_space_layers(work.model)[FIRST], 1)
    bad = copy.deepcopy(good)
    (bad.projections[0].poles if kind == "lru" else bad.projections.A)[0] = torch.nan
    lifted = MaskEntries(MASKED[kind], torch.tensor(True))
    model = work.model
    with pytest.raises(ValueError) as raised:
        work.apply(Plan([lifted, bad]))
    told.append(str(raised.value))
    for method in (Failing, FailingAtSight):
        with pytest.raises((BadInputError, ElsewhereError)) as failed:
            sharded.plan(method(METHODS["none"].Config(method="none")), work.model, work.context())
        told.append(str(failed.value))
    after = sharded.checksum(work.model, work.optimizer)
    return {"same": work.model is model and before == after, "told": told, "masks": [*masks_of(model)]}


def run_tied(group: Group) -> dict[str, Any]:
    """Embeddings shared with the head, and statistics of batches."""
    torch.manual_seed(0)
    data = DataSpec(classes=11, length=LENGTH, vocabulary=11, per_step=True)
    config = SequenceConfig(
        layer={"kind": "s5", "state_dim": 5}, model_dim=6, depth=2, norm="batch", tie_embeddings=True
    )
    work = Work(build_model(config, data), group)

    tokens = torch.randint(0, 11, (2, LENGTH), generator=torch.Generator().manual_seed(group.rank))

    def step() -> None:
        work.optimizer.zero_grad()
        nn.functional.cross_entropy(work.model(tokens).flatten(0, 1), tokens.flatten()).backward()
        work.optimizer.step()

    step()
    work.apply(sharded.plan(hankel(), work.model, work.context(Split(tokens, tokens))))
    step()
    work.apply(Plan([Train(["head.weight"], active=False)]))
    work.note("tied", shared=work.model.head.weight is work.model.encoder.weight)
    return work.found


def deep_model() -> nn.Module:
    torch.manual_seed(0)
    config = SequenceConfig(layer={"kind": "lru", "state_dim": 8}, model_dim=WIDTH, depth=6)
    return build_model(config, DATA)


def run_deep(group: Group) -> dict[str, Any]:
    """What is gathered at once while every layer of a deeper model is cut; and training in bfloat16."""
    plain = deep_model()
    largest = max(sum(p.nbytes for p in layer.parameters()) for layer in state_space_layers(plain).values())
    work = Work(plain, group)
    work.train(range(1))
    with CollectedAtOnce() as collected:
        decided = sharded.plan(hankel(), work.model, work.context())
    with GatheredAtOnce() as gathered:
        work.apply(decided)
    masks = []
    work.apply(Plan([MaskEntries(f"{SECOND}.theta", torch.arange(4) > 0)]))
    masks.append(list(masks_of(work.model)))
    read = sharded.plan(Reading(METHODS["none"].Config(method="none")), work.model, work.context())
    values = sharded.gather_state(work.model, None)
    work.apply(Plan([MaskEntries(f"{SECOND}.theta", torch.tensor(True))]))
    masks.append(list(masks_of(work.model)))
    with torch.autocast("cpu", torch.bfloat16):
        losses = work.train(range(2))
    types = {p.dtype for p in work.model.parameters()}
    return {
        "cuts": len(decided.edits),
        "gathered": (gathered.most, largest),
        "collected": (collected.most, largest),
        "read": read.records[0].details,
        "values": values,
        "masks": masks,
        "bfloat16": (losses, types),
    }


def member(folder: Path) -> None:
    """What each process does; its standard error goes to a file."""
    os.dup2(os.open(folder / f"{os.environ['RANK']}.err", os.O_WRONLY | os.O_CREAT), 2)
    with joined() as group:
        found: dict[str, Any] = {kind: run_kind(kind, group) for kind in KINDS}
        found |= run_tied(group)
        found["deep"] = run_deep(group)
        torch.save(found, folder / f"{group.rank}.pt")


# ---- the tests ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process has come to."""
    folder = tmp_path_factory.mktemp("sharded")
    running = processes.begun(PROCESSES, member, folder)
    codes = processes.ended(running)
    errors = [(folder / f"{rank}.err").read_text() for rank in range(PROCESSES)]
    assert codes == [0] * PROCESSES, "\n".join(errors)
    assert not any("Warning" in error for error in errors), "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def main_process(found: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return found[0][kind]


def plain_of(kind: str, saved: dict[str, Any] | None = None) -> tuple[nn.Module, AdamW]:
    """The model in one process, with a state that was gathered."""
    model = model_of(kind)
    optimizer = build_optimizer(model, TRAIN)
    if saved is not None:
        state.restore(model, optimizer, saved)
    return model, optimizer


def assert_same(model: nn.Module, optimizer: AdamW, noted: dict[str, Any], **tolerance: float) -> None:
    """The plain model is the sharded one that was noted: to the bit, or within a tolerance."""
    captured, saved = state.capture(model, optimizer), noted["state"]
    assert captured["frozen"] == saved["frozen"]
    assert list(captured["weights"]) == list(saved["weights"])
    assert captured["masks"].keys() == saved["masks"].keys()
    assert all(torch.equal(mask, saved["masks"][name]) for name, mask in captured["masks"].items())
    assert captured["optimizer"]["param_groups"] == saved["optimizer"]["param_groups"]
    assert captured["optimizer"]["state"].keys() == saved["optimizer"]["state"].keys()
    exact = {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(saved["weights"], captured["weights"], **(tolerance or exact))
    for i, moments in captured["optimizer"]["state"].items():
        torch.testing.assert_close(saved["optimizer"]["state"][i], moments, **(tolerance or exact))
    if not tolerance:
        assert checksum(model, optimizer) == noted["checksum"]


def test_all_processes_agree(found: list[dict[str, Any]], kind: str) -> None:
    first, second = (process[kind] for process in found)
    moments = [name for name, noted in first.items() if "checksum" in noted]
    assert len(moments) == 8
    for name in moments:
        assert first[name]["checksum"] == second[name]["checksum"]
        assert first[name]["orders"] == second[name]["orders"]
        assert second[name]["state"] is None
    for key in ("method", "generator"):
        torch.testing.assert_close(first["cut"][key], second["cut"][key])
    assert first["evaluation"]["result"] == second["evaluation"]["result"]


def test_training_is_that_of_one_process_on_the_whole_batch(found: list[dict[str, Any]], kind: str) -> None:
    model, optimizer = plain_of(kind)
    losses = train(model, optimizer, range(STEPS))
    halves = [process[kind]["trained"]["losses"] for process in found]
    means = [sum(parts) / PROCESSES for parts in zip(*halves, strict=True)]
    torch.testing.assert_close(means, losses, rtol=1e-5, atol=1e-6)
    assert_same(model, optimizer, found[0][kind]["trained"], rtol=1e-4, atol=1e-5)


def test_the_plan_is_that_of_the_plain_model(main_process: dict[str, Any], kind: str) -> None:
    model, _ = plain_of(kind, main_process["trained"]["state"])
    inputs = [batch_of(100 + i) for i in range(8)]
    generator = torch.Generator().manual_seed(0)
    context = CheckContext(
        STEPS,
        100,
        LENGTH,
        generator,
        lambda wanted, count: calibrate(model, wanted, inputs[:count], ROWS_AT_ONCE),
    )
    method = hankel(kind)
    decided, noted = method.plan(model, context), main_process["cut"]["plan"]
    assert [(r.title, r.before, r.after) for r in noted.records] == [
        (FIRST, ORDER, ORDER // 2),
        (SECOND, ORDER, ORDER // 2),
    ]
    for mine, other in zip(decided.records, noted.records, strict=True):
        assert (mine.after, mine.reason) == (other.after, other.reason)
        torch.testing.assert_close(mine.details["hsv"], other.details["hsv"], rtol=1e-3, atol=1e-5)
    assert main_process["cut"]["method"] == method.state_dict()
    assert torch.equal(main_process["cut"]["generator"], generator.get_state())


@pytest.mark.parametrize(
    ("before", "after"),
    [("trained", "cut"), ("further", "constrained"), ("held to it", "one state")],
    ids=["planned cut", "mask and freeze", "random cut to one state"],
)
def test_an_edit_is_that_of_plain_surgery_to_the_bit(
    main_process: dict[str, Any], kind: str, before: str, after: str
) -> None:
    model, optimizer = plain_of(kind, main_process[before]["state"])
    surgery.apply_plan(model, optimizer, main_process[after]["plan"])
    assert_same(model, optimizer, main_process[after])
    assert main_process[after]["orders"] == surgery.orders(model)
    assert main_process[after]["state"]["optimizer"]["state"]


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [("cut", "further", range(STEPS, 2 * STEPS)), ("constrained", "held to it", range(STEPS))],
)
def test_training_after_an_edit_is_that_of_one_process(
    main_process: dict[str, Any], kind: str, before: str, after: str, steps: range
) -> None:
    model, optimizer = plain_of(kind, main_process[before]["state"])
    train(model, optimizer, steps)
    assert_same(model, optimizer, main_process[after], rtol=1e-4, atol=1e-5)


def test_masks_and_frozen_parameters_survive_training(main_process: dict[str, Any], kind: str) -> None:
    before, after = (main_process[name]["state"] for name in ("constrained", "held to it"))
    name = MASKED[kind]
    keep = after["masks"][name]
    assert not keep.all()
    assert not after["weights"][name][~keep].any()
    assert after["weights"][name][keep].all()
    assert after["frozen"] == FROZEN
    for frozen in FROZEN:
        assert torch.equal(after["weights"][frozen], before["weights"][frozen])
    assert not torch.equal(after["weights"]["head.bias"], before["weights"]["head.bias"])
    assert set(before["masks"]) == {name, LIFTED[kind]}
    # The mask of what was cut is lifted, the other one is not.
    assert list(main_process["one state"]["state"]["masks"]) == [name]
    assert main_process["one state"]["state"]["frozen"] == []


@pytest.mark.parametrize("name", ["trained", "cut", "one state", "undone"])
def test_each_process_holds_half(found: list[dict[str, Any]], kind: str, name: str) -> None:
    shares = [process[kind][name]["held"] for process in found]
    for mine, whole in shares:
        # A tensor with an odd number of rows is padded by one.
        assert 0.45 * whole < mine < 0.58 * whole


def test_a_refused_plan_and_a_failing_method_change_nothing(found: list[dict[str, Any]], kind: str) -> None:
    for process in found:
        refused = process[kind]["refused"]
        assert refused["same"]
        assert refused["masks"] == [MASKED[kind]]
        assert refused["told"][0].startswith(f"{FIRST}: not finite after the truncation")
    for place, error in ((1, "told by the main process alone"), (2, "this layer cannot be looked at")):
        told = [process[kind]["refused"]["told"][place] for process in found]
        assert told == [error, "process 0 of this run failed; see its message"]


def test_a_cut_is_undone_to_the_bit(main_process: dict[str, Any], kind: str) -> None:
    assert main_process["undone"]["checksum"] == main_process["trained"]["checksum"]
    assert main_process["undone"]["orders"] == {FIRST: ORDER, SECOND: ORDER}
    model, optimizer = plain_of(kind, main_process["trained"]["state"])
    assert_same(model, optimizer, main_process["undone"])
    train(model, optimizer, range(STEPS, 2 * STEPS))
    assert_same(model, optimizer, main_process["again"], rtol=1e-4, atol=1e-5)


def test_what_was_gathered_is_a_checkpoint_for_one_process(
    main_process: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    noted = main_process["further"]
    saved = {key: noted["state"][key] for key in ("sizes", "weights", "masks", "frozen")}
    layer = {"kind": kind, "state_dim": ORDER}
    recipe = recipe_from_mapping(
        {
            "name": "sharded",
            "data": {"task": "digits"},
            "model": {"layer": layer, "model_dim": WIDTH, "depth": 2},
            "train": {"steps": 100},
            "compression": {"method": "none"},
        },
        "recipe",
    )
    Checkpoint(recipe, DATA, step=8, **saved).save(tmp_path / "a.pt")
    model = Checkpoint.load(tmp_path / "a.pt").build_model()
    optimizer = build_optimizer(model, TRAIN)
    optimizer.load_state_dict(noted["state"]["optimizer"])
    assert_same(model, optimizer, noted)
    result, there = evaluate(model, batch_of(50, 24), 8), main_process["evaluation"]["result"]
    assert (result.metrics, result.labels) == (there.metrics, there.labels)
    assert result.loss == pytest.approx(there.loss, rel=1e-5)


def test_flops_are_counted_on_a_copy_without_values(main_process: dict[str, Any], kind: str) -> None:
    model, _ = plain_of(kind, main_process["further"]["state"])
    outline = main_process["evaluation"]["outline"]
    assert all(p.is_meta for p in outline.parameters())
    assert [(n, p.shape) for n, p in outline.named_parameters()] == [
        (n, p.shape) for n, p in model.named_parameters()
    ]
    batch = example_batch(DATA, ROWS)
    assert training_step_flops(outline, batch) == training_step_flops(model, batch) > 0


def test_tied_embeddings_and_statistics_of_batches(found: list[dict[str, Any]]) -> None:
    first, second = (process["tied"] for process in found)
    assert first["shared"]
    assert second["shared"]
    assert first["checksum"] == second["checksum"]
    assert first["orders"] == {FIRST: 2, SECOND: 2}
    weights = first["state"]["weights"]
    assert torch.equal(weights["head.weight"], weights["encoder.weight"])
    assert first["state"]["frozen"] == ["encoder.weight"]
    assert int(weights["blocks.0.norm.norm.num_batches_tracked"]) == 2


def test_one_layer_at_a_time_is_gathered_for_a_cut(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["deep"]["cuts"] == 6
        most, largest = process["deep"]["gathered"]
        # Parameters and two moments of each.
        assert largest < most <= 3 * largest


def test_one_layer_at_a_time_is_read_for_a_plan(found: list[dict[str, Any]]) -> None:
    most, largest = found[0]["deep"]["collected"]
    assert 0 < most <= largest
    assert found[1]["deep"]["collected"][0] == 0


def test_what_a_method_reads_is_the_model(found: list[dict[str, Any]]) -> None:
    read, held = found[0]["deep"]["read"], found[0]["deep"]["values"]
    assert read["named"].keys() == set(held["weights"])
    assert all(torch.equal(value, held["weights"][name]) for name, value in read["named"].items())
    assert set(read["orders"].values()) == {4}
    assert list(read["masks"]) == [f"{SECOND}.theta"]
    assert read["masks"][f"{SECOND}.theta"].tolist() == [False, True, True, True]
    assert read["frozen"] == held["frozen"] == []
    for name in read["orders"]:
        assert all(torch.equal(v, held["weights"][f"{name}.{leaf}"]) for leaf, v in read[name].items())
        assert read[f"{name} output"].any()
    plain = deep_model()
    surgery.resize(plain, None, held["weights"])
    plain.load_state_dict(held["weights"])
    statistics = {name: OfALayer(layer) for name, layer in state_space_layers(plain).items()}
    calibrate(plain, statistics, [batch_of(100 + i) for i in range(2)], ROWS_AT_ONCE)
    assert read["shown"] == pytest.approx([s.result() for s in statistics.values()], rel=1e-5)


def test_a_mask_is_lifted(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["deep"]["masks"] == [[f"{SECOND}.theta"], []]


def test_bfloat16_is_that_of_autocast(found: list[dict[str, Any]]) -> None:
    for process in found:
        losses, types = process["deep"]["bfloat16"]
        assert all(0.0 < loss < 5.0 for loss in losses)
        assert types == {torch.float32}


def test_a_plain_model_is_refused() -> None:
    model, optimizer = plain_of("lru")
    with pytest.raises(ValueError, match="not sharded"):
        sharded.apply_plan(model, optimizer, Plan())
