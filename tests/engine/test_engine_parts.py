"""Optimizer, learning rate, order of the data and random state: what a run is made of."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_kinds import TIME_INVARIANT
from torch import nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.engine import state
from compressm_cli.engine.batches import Batches, derived_generator
from compressm_cli.engine.distributed.agreement import checksum, state_tensors
from compressm_cli.engine.evaluation import calibrate, evaluate
from compressm_cli.engine.optimizer import build_optimizer, learning_rate, set_learning_rate
from compressm_cli.engine.precision import require_compiler, resolve_device
from compressm_cli.layers import LAYERS
from compressm_cli.methods.calibration import Statistic
from compressm_cli.models import build_model
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.structure import surgery
from compressm_cli.structure.edits import MaskEntries, Train
from compressm_cli.structure.masks import enforce_masks, masks_of
from compressm_cli.structure.plan import Plan


def numbered(rows: int, lengths: torch.Tensor | None = None) -> Split:
    """Rows whose label is their number."""
    return Split(torch.zeros(rows, 12, 2), torch.arange(rows), lengths)


def small_model(kind: str = "lru", dropout: float = 0.3, orders: dict[str, int] | None = None) -> nn.Module:
    torch.manual_seed(0)
    config = SequenceConfig(
        layer={"kind": kind, "state_dim": 4}, model_dim=6, depth=2, dropout=dropout, norm="batch"
    )
    return build_model(config, DataSpec(classes=3, length=12, features=2), orders)


# ---- the learning rate --------------------------------------------------------------------------------


def test_cosine_with_warm_up() -> None:
    config = TrainConfig(steps=100, learning_rate=0.2, warmup=0.1)
    rates = [learning_rate(config, step) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.02 * step for step in range(1, 11)])
    assert rates[54] == pytest.approx(0.1)  # half-way from 10 to 100
    assert rates[-1] == pytest.approx(0.0, abs=1e-15)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_constant_with_warm_up() -> None:
    config = TrainConfig(steps=100, learning_rate=0.2, warmup=0.05, lr_schedule="constant")
    rates = [learning_rate(config, step) for step in range(1, 101)]
    assert rates[:5] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2])
    assert set(rates[5:]) == {0.2}


@given(
    steps=st.integers(1, 300), warmup=st.floats(0.0, 0.99), schedule=st.sampled_from(["cosine", "constant"])
)
def test_the_learning_rate_stays_in_its_range(steps: int, warmup: float, schedule: str) -> None:
    config = TrainConfig(steps=steps, learning_rate=0.2, warmup=warmup, lr_schedule=schedule)
    for step in range(1, steps + 1):
        rate = learning_rate(config, step)
        assert math.isfinite(rate)
        assert 0.0 <= rate <= 0.2 * (1 + 1e-12)


@pytest.mark.parametrize("kind", TIME_INVARIANT)
def test_recurrent_parameters_have_their_own_rate_and_no_weight_decay(kind: str) -> None:
    model = small_model(kind)
    config = TrainConfig(steps=10, learning_rate=0.1, recurrent_lr_factor=0.5, weight_decay=0.3)
    optimizer = build_optimizer(model, config)
    set_learning_rate(optimizer, 0.02)
    names = {id(p): name for name, p in model.named_parameters()}
    recurrent, matrices, others = ({names[id(p)] for p in g["params"]} for g in optimizer.param_groups)
    rest = matrices | others
    layer_class = LAYERS[kind]
    assert recurrent == {f"blocks.{i}.layer.{n}" for i in range(2) for n in layer_class.recurrent_parameters}
    assert recurrent | rest == set(names.values())
    assert not recurrent & rest
    settings = [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups]
    assert settings == [(0.01, 0.0), (0.02, 0.3), (0.02, 0.0)]


# ---- the order of the data ----------------------------------------------------------------------------


@settings(max_examples=30)
@given(rows=st.integers(1, 60), batch=st.integers(1, 80), seed=st.integers(0, 5))
def test_each_row_comes_at_most_once_an_epoch(rows: int, batch: int, seed: int) -> None:
    batches = Batches(numbered(rows), batch, seed)
    for epoch in range(2):
        first = epoch * batches.per_epoch + 1
        drawn = [int(i) for step in range(batches.per_epoch) for i in batches(first + step).labels]
        assert max(Counter(drawn).values()) == 1
        assert len(drawn) == rows - rows % min(batch, rows)


def test_the_batch_is_a_function_of_seed_and_step() -> None:
    one, other = Batches(numbered(50), 8, seed=3), Batches(numbered(50), 8, seed=3)
    forwards = [one(step).labels for step in range(1, 21)]
    backwards = [other(step).labels for step in range(20, 0, -1)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not torch.equal(Batches(numbered(50), 8, seed=4)(1).labels, forwards[0])
    assert not torch.equal(forwards[0], forwards[6])  # the first batches of two epochs


def test_calibration_batches_do_not_disturb_the_order() -> None:
    calm, disturbed = Batches(numbered(50), 8, seed=3), Batches(numbered(50), 8, seed=3)
    for step in range(1, 14):
        parts = list(disturbed.calibration(step, 2))
        assert [len(part) for part in parts] == [8, 8]
        assert torch.equal(calm(step).labels, disturbed(step).labels)
    again = disturbed.calibration(5, 2)
    assert all(
        torch.equal(a.labels, b.labels) for a, b in zip(disturbed.calibration(5, 2), again, strict=True)
    )


def test_generators_of_different_purposes_are_independent() -> None:
    states = [
        derived_generator(*key).get_state()
        for key in ((0, "order", 1), (0, "order", 2), (0, "x", 1), (1, "order", 1))
    ]
    assert len({bytes(state.numpy()) for state in states}) == len(states)


# ---- evaluation ---------------------------------------------------------------------------------------


def test_evaluation_does_not_depend_on_the_batch_size_and_leaves_the_model() -> None:
    model = small_model().train()
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.randn(23, 12, 2, generator=generator), torch.arange(23) % 3)
    random, buffers = torch.get_rng_state(), {n: b.clone() for n, b in model.named_buffers()}
    one, other = evaluate(model, split, 23), evaluate(model, split, 4)
    assert one.metrics == other.metrics
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    assert one.rows == 23
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())
    model.eval()
    with torch.no_grad():
        logits = model(split.inputs)
    assert one.metrics["accuracy"] == pytest.approx(float((logits.argmax(1) == split.labels).float().mean()))
    assert one.loss == pytest.approx(float(nn.functional.cross_entropy(logits, split.labels)), rel=1e-5)


class Seen(Statistic):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.parts: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        self.ends: list[int] = []

    def update(self, u: torch.Tensor, lengths: torch.Tensor | None) -> None:
        self.parts.append((u, lengths))

    def end_batch(self) -> None:
        self.ends.append(len(self.parts))

    def result(self) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        return self.parts


def test_calibration_shows_what_the_layers_see_part_by_part() -> None:
    model = small_model().train()
    batches = [numbered(4), numbered(2)]
    seen = {name: Seen() for name in ("blocks.0.layer", "blocks.1.layer")}
    calibrate(model, seen, batches, 3)
    assert model.training
    for statistic in seen.values():
        assert [tuple(u.shape) for u, _ in statistic.result()] == [(3, 12, 6), (1, 12, 6), (2, 12, 6)]
        assert statistic.ends == [2, 3]
        assert statistic.seconds > 0
    model.eval()
    for statistic, expected in (
        (seen["blocks.0.layer"], model.blocks[0].norm(model.encoder(batches[0].inputs))),
        (seen["blocks.1.layer"], model.blocks[1].norm(model.blocks[0](model.encoder(batches[0].inputs)))),
    ):
        torch.testing.assert_close(torch.cat([u for u, _ in statistic.result()[:2]]), expected)


def test_calibration_tells_the_lengths_of_the_rows() -> None:
    lengths = torch.tensor([12, 3, 5, 7, 2])
    split = Split(torch.ones(5, 12, 2), torch.zeros(5, dtype=torch.int64), lengths)
    seen = Seen()
    calibrate(small_model(), {"blocks.1.layer": seen}, [split], 2)
    assert [tuple(u.shape[:2]) for u, _ in seen.parts] == [
        (2, 12),
        (2, 7),
        (1, 2),
    ]  # no longer than its longest
    assert torch.equal(torch.cat([own for _, own in seen.parts if own is not None]), lengths)


def test_an_error_in_calibration_comes_when_all_rows_are_through() -> None:
    model, passes = small_model().train(), []
    model.register_forward_hook(lambda *_: passes.append(1))

    class Failing(Seen):
        def update(self, u: torch.Tensor, lengths: torch.Tensor | None) -> None:
            super().update(u, lengths)
            raise ValueError(f"update {len(self.parts)}")

    failing = Failing()
    with pytest.raises(ValueError, match="update 1"):
        calibrate(model, {"blocks.0.layer": failing}, [numbered(4), numbered(2)], 3)
    assert (len(failing.parts), len(passes)) == (1, 3)
    assert all(part.training for part in model.modules())
    assert not model.blocks[0].layer._forward_pre_hooks


def test_each_part_of_a_model_is_in_its_own_mode_again_after_an_error() -> None:
    """Also where the error is in the middle of an evaluation."""
    model = small_model().train()
    model.blocks[1].eval()
    modes = {name: part.training for name, part in model.named_modules()}
    split = Split(torch.ones(5, 12, 2), torch.full((5,), 3))  # of three classes
    with pytest.raises((IndexError, RuntimeError)):
        evaluate(model, split, 2)
    assert {name: part.training for name, part in model.named_modules()} == modes
    evaluate(model, Split(split.inputs, torch.zeros_like(split.labels)), 2)
    assert {name: part.training for name, part in model.named_modules()} == modes


# ---- capture and restore ------------------------------------------------------------------------------


def test_restore_puts_everything_back() -> None:
    model = small_model()
    optimizer = build_optimizer(model, TrainConfig(steps=10, learning_rate=0.1))
    split = numbered(6)
    labels = split.labels % 3

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(split.inputs + torch.randn(6, 12, 2)), labels).backward()
        optimizer.step()
        enforce_masks(model)

    def everything() -> list[torch.Tensor]:
        moments = [value for s in optimizer.state_dict()["state"].values() for value in s.values()]
        return [t.clone() for t in [*model.state_dict().values(), *moments, torch.get_rng_state()]]

    step()
    mask = MaskEntries("head.weight", torch.tensor([[True], [False], [True]]))
    surgery.apply_plan(model, optimizer, Plan(edits=[mask, Train(["encoder.bias"], active=False)]))
    saved, random = state.capture(model, optimizer), state.random_state()
    before = everything()
    surgery.resize(
        model, optimizer, small_model(orders={"blocks.0.layer": 2, "blocks.1.layer": 3}).state_dict()
    )
    lifted = [MaskEntries("head.weight", torch.tensor(True)), Train(["encoder.bias"], active=True)]
    surgery.apply_plan(model, optimizer, Plan(edits=lifted))
    step()
    state.restore(model, optimizer, saved)
    state.restore_random(random)
    assert all(torch.equal(a, b) for a, b in zip(everything(), before, strict=True))
    assert surgery.frozen(model) == ["encoder.bias"]
    assert list(masks_of(model)) == ["head.weight"]
    assert all(p.grad is None for p in model.parameters())
    step()
    again = everything()
    state.restore(model, optimizer, saved)
    state.restore_random(random)
    step()
    assert all(torch.equal(a, b) for a, b in zip(everything(), again, strict=True))


def test_an_outline_makes_room_for_everything() -> None:
    """Copied into it tensor by tensor, as the main process's are sent, all comes over."""
    model = small_model()
    optimizer = build_optimizer(model, TrainConfig(steps=10, learning_rate=0.1))
    nn.functional.cross_entropy(model(torch.randn(3, 12, 2)), torch.arange(3)).backward()
    optimizer.step()
    surgery.resize(
        model, optimizer, small_model(orders={"blocks.0.layer": 2, "blocks.1.layer": 4}).state_dict()
    )
    mask = MaskEntries("head.weight", torch.tensor([[True], [False], [True]]))
    surgery.apply_plan(model, optimizer, Plan(edits=[mask, Train(["encoder.bias"], active=False)]))
    outline = state.outline(model, optimizer)
    assert all(t.is_meta for t in outline["weights"].values() if t.ndim)

    other = small_model()
    others_optimizer = build_optimizer(other, TrainConfig(steps=10, learning_rate=0.1))
    state.reshape(other, others_optimizer, outline)
    pairs = zip(
        (*state_tensors(model, optimizer), *masks_of(model).items()),
        (*state_tensors(other, others_optimizer), *masks_of(other).items()),
        strict=True,
    )
    for (name, sent), (others_name, received) in pairs:
        assert (name, sent.shape, sent.dtype) == (others_name, received.shape, received.dtype)
        with torch.no_grad():
            received.copy_(sent)
    assert surgery.orders(other) == {"blocks.0.layer": 2, "blocks.1.layer": 4}
    assert surgery.frozen(other) == ["encoder.bias"]
    assert list(masks_of(other)) == ["head.weight"]
    assert checksum(other, others_optimizer) == checksum(model, optimizer)
    assert others_optimizer.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


# ---- the device ---------------------------------------------------------------------------------------


def test_cuda_without_a_device_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(BadInputError, match=r"device: cuda: .*write device: cpu or device: auto"):
        resolve_device("cuda")


def test_compilation_without_a_compiler_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BadInputError, match=r"'no-such-compiler' was not found.*compile: false"):
        require_compiler(torch.device("cpu"))
