"""Training steps, timed and weighed side by side."""

import math
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from made_runs import tiny_recipe

from compressm_cli.data.interface import DataSpec
from compressm_cli.engine import trainee as trainee_module
from compressm_cli.engine.trainee import Setting, Trainee, random_batch
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.measure.memory import estimate_training_bytes
from compressm_cli.measure.probe import example_batch
from compressm_cli.ops.forms import DEFAULT, CostModel
from compressm_cli.recipe import Recipe
from compressm_cli.reports import step_memory as memory_module
from compressm_cli.reports import timing
from compressm_cli.reports.step_memory import KIND, step_memory
from compressm_cli.reports.timing import StepTimes, time_steps

LAYERS = ("blocks.0.layer", "blocks.1.layer")


def orders_of(*orders: int) -> list[dict[str, int]]:
    return [dict.fromkeys(LAYERS, order) for order in orders]


def recipe(**train: object) -> Recipe:
    plain = tiny_recipe("timed", 0).model_copy(update={"device": "cpu"})
    return plain.model_copy(update={"train": plain.train.model_copy(update=train)})


def setting(**train: object) -> Setting:
    """Without a calibration of this machine."""
    return Setting(recipe(**train), recipe().data.spec(), DEFAULT)


def test_a_smaller_order_is_a_smaller_model() -> None:
    large, small = (Trainee(setting(), each).model for each in orders_of(8, 3))
    for layer in state_space_layers(small).values():
        assert layer.B_re.shape == (3, 8)
        assert layer.C_re.shape == (8, 3)
    count = {model: sum(p.numel() for p in model.parameters()) for model in (large, small)}
    # nu_log, theta, gamma_log and two complex matrices in each of two layers.
    assert count[large] - count[small] == 2 * 5 * (3 + 4 * 8)


def test_steps_are_those_of_training_but_move_nothing() -> None:
    trainee = Trainee(setting(), orders_of(8)[0])
    before = {name: value.clone() for name, value in trainee.model.state_dict().items()}
    trainee.train(2)
    assert trainee.model.training
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in trainee.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in trainee.model.state_dict().items())
    state = trainee.optimizer.state_dict()
    assert {float(entry["step"]) for entry in state["state"].values()} == {2.0}
    assert len(state["param_groups"]) == 3
    modes = []
    hook = trainee.model.register_forward_pre_hook(lambda model, _: modes.append(model.training))
    trainee.infer(1)
    hook.remove()
    assert (modes, trainee.model.training) == ([False], True)


def test_inference_is_of_a_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = Trainee(setting(), orders_of(8)[0], rows=4)
    monkeypatch.setattr(trainee_module, "mean_seconds", lambda call, repeats, device: 2.0)
    assert trainee.infer(3) == 0.5
    assert trainee.train(3) == 2.0


def test_every_round_times_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, bool]] = []
    step = Trainee._step

    def record(trainee: Trainee) -> None:
        seen.append((trainee.model.get_submodule(LAYERS[0]).state_dim, trainee.model.training))
        step(trainee)

    monkeypatch.setattr(Trainee, "_step", record)
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    times = time_steps(setting(), orders_of(8, 3), rounds=3)
    assert seen == [(8, True)] * 2 + [(3, True)] * 2 + [(8, True), (3, True)] * 3
    assert [len(found.step) for found in times] == [len(found.inference) for found in times] == [3, 3]
    assert all(math.isfinite(s) and s > 0 for found in times for s in (*found.step, *found.inference))


def test_rounds_without_a_number_stop_in_time() -> None:
    assert [timing._enough(done, None, 0.0) for done in (2, 3, 14, 15)] == [False, False, False, True]
    assert [timing._enough(done, None, 1e9) for done in (2, 3)] == [False, True]
    assert [timing._enough(done, 2, 1e9) for done in (0, 1, 2)] == [False, False, True]


def test_medians() -> None:
    times = StepTimes([3.0, 1.0, 2.0], [0.1, 0.5, 0.2])
    assert (times.step_seconds, times.inference_seconds) == (2.0, 0.2)


def test_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    time_steps(setting(), orders_of(2), rounds=1)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "data", [DataSpec(classes=3, length=9, features=2), DataSpec(classes=3, length=9, vocabulary=5)]
)
def test_batches_are_random_and_full(data: DataSpec) -> None:
    batch = random_batch(data, 50, torch.device("cpu"))
    assert batch.inputs.shape == example_batch(data, 50).inputs.shape
    assert batch.inputs.dtype == example_batch(data, 50).inputs.dtype
    assert set(batch.labels.tolist()) == {0, 1, 2}
    assert batch.lengths is None
    if data.vocabulary is not None:
        assert set(batch.inputs.flatten().tolist()) == {1, 2, 3, 4}  # 0 is the padding


def test_a_batch_has_no_more_rows_than_the_data() -> None:
    data = DataSpec(classes=3, length=9, features=2, rows=(6, 2, 2))
    assert Setting(recipe(), data, None).rows == 6
    assert Setting(recipe(batch_size=4), data, None).rows == 4


@pytest.mark.parametrize("form", ["convolution", "recurrent"])
def test_recurrences_take_the_form_that_training_would_choose(form: str) -> None:
    free = {name: tuple(c * (name != form) for c in known) for name, known in DEFAULT.constants.items()}
    costs = CostModel(free)
    for given in (replace(setting(), costs=costs), setting(form=form)):
        layers = state_space_layers(given.model(orders_of(8)[0])).values()
        assert {layer.form for layer in layers} == {form}


@pytest.mark.slow
def test_peak_memory_in_fresh_processes() -> None:
    """What a process grows by is at least what tensors take, and not many times as much."""
    given = setting(batch_size=512)
    large, small = step_memory(given, orders_of(64, 2))
    for found, orders in zip((large, small), orders_of(64, 2), strict=True):
        assert (found.kind, found.reason) == (KIND["cpu"], None)
        assert found.bytes is not None
        tensors = estimate_training_bytes(given.model(orders), example_batch(given.data, 512))
        assert 0.8 * tensors < found.bytes < 4 * tensors


def test_memory_with_a_compiler_is_not_measured() -> None:
    (found,) = step_memory(setting(compile=True), orders_of(8))
    assert found.bytes is None
    assert "the compiler's own memory" in str(found.reason)


@pytest.mark.parametrize(
    ("outcome", "size", "reason"),
    [
        (5000, 5000, None),
        (0, None, "too little to show in the resident set of a process"),
        (BrokenProcessPool("killed"), None, "the process that measured it was killed"),
        (
            OSError("AF_UNIX path too long"),
            None,
            "there is no process that could measure it (AF_UNIX path too long)",
        ),
    ],
)
def test_what_became_of_the_process(
    monkeypatch: pytest.MonkeyPatch, outcome: int | Exception, size: int | None, reason: str | None
) -> None:
    class Pool(nullcontext):  # type: ignore[type-arg]
        def submit(self, *_: object) -> Future[int]:
            future: Future[int] = Future()
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
            return future

    monkeypatch.setattr(memory_module, "ProcessPoolExecutor", lambda *_, **__: Pool(Pool()))
    (found,) = step_memory(setting(), orders_of(8))
    assert (found.bytes, found.reason) == (size, reason)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    on_gpu = recipe(batch_size=512).model_copy(update={"device": "cuda"})
    given = Setting.of(on_gpu, on_gpu.data.spec())
    large, small = step_memory(given, orders_of(64, 2))
    assert large.kind == KIND["cuda"]
    assert large.bytes > small.bytes > 0  # type: ignore[operator]
    assert all(found.step_seconds > 0 for found in time_steps(given, orders_of(64, 2), rounds=2))
