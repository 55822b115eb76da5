"""What a method may do at each step: a penalty, a look at the gradients, edits right after it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine_longer import Telling
from tiny_runs import killed, trained_once, with_method
from torch import Tensor, nn

from compressm_cli.checkpoint import Checkpoint, verify
from compressm_cli.compressor import Compressor
from compressm_cli.core.errors import RunFailedError
from compressm_cli.engine import experiment
from compressm_cli.engine.forecast import forecast
from compressm_cli.engine.trial import Trial
from compressm_cli.engine.view import SilentView
from compressm_cli.layers.interface import state_axis
from compressm_cli.methods.calibration import Statistic
from compressm_cli.methods.faults import MethodFaultError, ask
from compressm_cli.methods.method import CheckContext, Method, StepContext
from compressm_cli.methods.none import NoCompression
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.reports.sizes import Sizes
from compressm_cli.runs.folder import Run
from compressm_cli.structure.edits import Keep, MaskEntries, Park, Train, Wake
from compressm_cli.structure.modules import Insert, Replace
from compressm_cli.structure.plan import Plan, UnitRecord
from compressm_cli.structure.store import parked

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]
Same = Callable[[Run, Run], bool]
STATES = state_axis("blocks.0.layer")


def losses(run: Run) -> list[float]:
    return [line["train_loss"] for line in run.read_metrics() if "train_loss" in line]


class Watching(NoCompression):
    """Looks at everything and does nothing."""

    seen: list[tuple[int, float]]

    def penalty(self, step: StepContext) -> Tensor | None:
        return None

    def after_backward(self, step: StepContext) -> None:
        gradients = [p.grad for p in step.model.parameters() if p.grad is not None]
        type(self).seen.append((step.step, float(torch.nn.utils.get_total_norm(gradients))))

    def after_step(self, step: StepContext) -> Plan | None:
        return Plan()


class Controlling(NoCompression):
    """Decides, at a check as at each step, by numbers drawn and by what layers see, and always for nothing."""

    def check_steps(self, total: int) -> list[int]:
        return [5, 10, 20]

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        seen = Seen()
        context.calibrate({"blocks.0.layer": seen}, 2)
        assert seen.result() == 2 * 16
        draw = float(torch.rand(1, generator=context.generator))
        return Plan(
            records=[UnitRecord(STATES, "state", 8, 8, f"nothing cut: {draw:.2f}", scores=[draw] * 8)]
        )

    def after_step(self, step: StepContext) -> Plan | None:
        float(torch.rand(1, generator=step.generator))
        return Plan()


class Seen(Statistic):
    rows = 0

    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        self.rows += len(u)

    def result(self) -> int:
        return self.rows


class Decay(NoCompression):
    """Half the square of the head's weight."""

    def penalty(self, step: StepContext) -> Tensor | None:
        return 0.5 * step.model.get_parameter("head.weight").square().sum()


class Nothing(NoCompression):
    """A price that nothing meets."""

    def penalty(self, step: StepContext) -> Tensor | None:
        return 0.0 * step.model.get_parameter("head.weight").sum()


class Parking(NoCompression):
    """Parks two states at step 8, masks at 10, freezes the encoder at 12, and takes all of it back by step 20."""

    def after_step(self, step: StepContext) -> Plan | None:
        keep = torch.arange(10)[:, None] % 2 > 0
        edits: dict[int, list[Any]] = {
            8: [Park(STATES, [1, 5])],
            10: [MaskEntries("head.weight", keep)],
            12: [Train(["encoder.*"], active=False)],
            16: [Wake(STATES, [5]), Train(["*"], active=True)],
            20: [Wake(STATES, [1]), MaskEntries("head.weight", torch.tensor(True))],
        }
        return Plan(edits=edits.get(step.step, []))


class Rebuilding(NoCompression):
    """Parks a block at step 8, lets another one go at 10, grows one at 12, and wakes what it parked at 20."""

    def after_step(self, step: StepContext) -> Plan | None:
        edits: dict[int, list[Any]] = {
            8: [Park("blocks.0:sublayer", [0])],
            10: [Keep("blocks.1:sublayer", [])],
            14: [Wake("blocks.0:sublayer", [0])],
            16: [Insert("blocks", 2, seed=1)],
            20: [Park("blocks.2.layer:states", [0, 1])],
        }
        return Plan(edits=edits.get(step.step, []))


class Replacing(NoCompression):
    def after_step(self, step: StepContext) -> Plan | None:
        plans = {
            3: Replace("blocks.0", lambda _: torch.nn.Identity()),
            4: Insert("blocks", 1, torch.nn.Identity),
        }
        return Plan(edits=[plans[step.step]]) if step.step in plans else None


class Wrong(NoCompression):
    def after_step(self, step: StepContext) -> Plan | None:
        return Plan(edits=[Park(STATES, [99])]) if step.step == 3 else None


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("method", [Watching, Nothing, Controlling])
def test_who_does_nothing_changes_nothing(
    tiny: Maker,
    train: Trainer,
    same_weights: Same,
    monkeypatch: pytest.MonkeyPatch,
    method: type[NoCompression],
) -> None:
    """Weights and losses are those of a run without a method, bit by bit."""
    made = tiny(train={"clip_norm": 0.1})
    plain = train(made)
    Watching.seen = []
    with_method(monkeypatch, method)
    watched = train(made)
    assert same_weights(plain, watched)
    assert losses(plain) == losses(watched)
    if method is Watching:
        assert [step for step, _ in Watching.seen] == list(range(1, 31))
        # Before they are clipped.
        assert max(norm for _, norm in Watching.seen) > 0.2


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_penalty_is_added_once_a_batch(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch, accumulate: int
) -> None:
    """Its gradient is there beside the task's, whose loss is logged without it."""
    made = tiny(
        steps=1,
        model={"norm": "layer", "dropout": 0.0},
        train={"accumulate": accumulate, "weight_decay": 0.0, "clip_norm": None},
    )
    grads: list[Tensor] = []

    def note(method: NoCompression, step: StepContext) -> None:
        grad = step.model.get_parameter("head.weight").grad
        assert grad is not None
        grads.append(grad.clone())

    for method in (Nothing, Decay):
        monkeypatch.setattr(method, "after_backward", note)
        with_method(monkeypatch, method)
        run = train(made)
        grads.append(torch.tensor(losses(run)))
    plain, loss, punished, same_loss = grads
    assert torch.equal(loss, same_loss)
    torch.manual_seed(0)
    start = build_model(made.model, made.data.spec()).get_parameter("head.weight").detach()
    torch.testing.assert_close(punished - plain, start, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("kill", [9, 11, 14, 18])
def test_what_is_parked_masked_and_frozen_survives_a_kill(
    tiny: Maker, same_weights: Same, monkeypatch: pytest.MonkeyPatch, kill: int
) -> None:
    """A run that was killed between edits ends bit-equal, from a checkpoint that has parked units in it."""
    made = tiny(train={"checkpoint_every": 1})
    with_method(monkeypatch, Parking)
    whole = trained_once(made)
    assert whole.read_summary()["orders"]["final"] == {"blocks.0.layer": 8}
    part = killed(made, kill)
    saved = Checkpoint.load(part.last_checkpoints()[-1])
    assert parked(saved.build_model()) == ({STATES: (1, 5)} if kill <= 16 else {STATES: (1,)})
    assert saved.orders == {"blocks.0.layer": 6 if kill <= 16 else 7}
    experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test")
    assert same_weights(whole, part)
    assert losses(whole) == losses(part)


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("kill", [9, 11, 15, 19])
def test_blocks_that_leave_and_come_survive_a_kill(
    tiny: Maker, same_weights: Same, monkeypatch: pytest.MonkeyPatch, kill: int
) -> None:
    made = tiny(model={"depth": 3}, train={"checkpoint_every": 1})
    with_method(monkeypatch, Rebuilding)
    whole = trained_once(made)
    final = {"blocks.0.layer": 8, "blocks.2.layer": 6, "blocks.3.layer": 8}
    assert whole.read_summary()["orders"]["final"] == final
    part = killed(made, kill)
    experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test")
    assert same_weights(whole, part)
    assert losses(whole) == losses(part)
    if kill == 9:  # what was cut, and what has grown, is counted
        sizes = Sizes(Checkpoint.load(whole.final_checkpoint), made.data.spec()).of(final)
        assert sizes.parameters == whole.read_summary()["parameters"]["final"]


@pytest.mark.usefixtures("rough_flops")
def test_modules_that_no_recipe_tells_are_refused_in_a_run(
    tiny: Maker, train: Trainer, same_weights: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained_once(tiny())
    with_method(monkeypatch, Replacing)
    assert same_weights(plain, train(tiny()))


@pytest.mark.usefixtures("rough_flops")
def test_an_edit_that_cannot_be_made_leaves_the_run_alone(
    tiny: Maker, train: Trainer, same_weights: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained_once(tiny())
    with_method(monkeypatch, Wrong)
    assert same_weights(plain, train(tiny()))


class Cutting(NoCompression):
    """Keeps half of the states at step 2, and is asked again at step 3."""

    def check_steps(self, total: int) -> list[int]:
        return [2, 3]

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        if context.step == 3:
            return Plan()
        return Plan([Keep(STATES, [0, 1, 2, 3])], [UnitRecord(STATES, "state", 8, 4, "cut")])


class Refused(Cutting):
    """Wants what there is not."""

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        return Plan([Keep("nope", [0])], [UnitRecord(STATES, "state", 8, 4, "cut")])


def fails(*_: Any) -> Any:
    return {}["the memory"]


FAULTS: list[tuple[str, Callable[..., Any], str]] = [
    ("setup", fails, "KeyError: 'the memory'"),
    ("attach", fails, "KeyError: 'the memory'"),
    ("attach", lambda *_: None, "returned nothing .* a list of the handles"),
    ("check_steps", fails, "KeyError: 'the memory'"),
    ("check_steps", lambda *_: [1.5], "returned a list; it must be a list of whole numbers of at least 1"),
    ("check_steps", lambda *_: 7, "returned the number 7; it must be a list of whole numbers"),
    ("penalty", fails, "KeyError: 'the memory'"),
    ("penalty", lambda *_: "x", "returned the text 'x'; it must be a tensor of one"),
    ("penalty", lambda *_: torch.ones(2), r"returned a tensor float32 of the shape \(2,\)"),
    ("after_backward", fails, "KeyError: 'the memory'"),
    ("after_step", sys.exit, "SystemExit"),
    ("after_step", lambda *_: "x", "returned the text 'x'; it must be a Plan or None"),
    ("plan", fails, "KeyError: 'the memory'"),
    ("plan", lambda *_: None, r"returned nothing \(null\); it must be a Plan"),
    ("accepted", fails, "KeyError: 'the memory'"),
]
"""What is told in a run as in a loop of one's own."""
FAULTS_OF_RUNS: list[tuple[type[NoCompression], str, Callable[..., Any], str]] = [
    (NoCompression, "__init__", fails, "KeyError: 'the memory'"),
    (
        NoCompression,
        "__init__",
        lambda *_: None,
        r"left it without a config; call super\(\).__init__\(config\)",
    ),
    (NoCompression, "state_dict", fails, "KeyError: 'the memory'"),
    (NoCompression, "state_dict", lambda *_: None, r"returned nothing \(null\); it must be a mapping"),
    (NoCompression, "validate", fails, "KeyError: 'the memory'"),
    (Cutting, "rejected", fails, "KeyError: 'the memory'"),
    (Cutting, "no_details", fails, "KeyError: 'the memory'"),
    (Cutting, "no_details", lambda *_: None, r"returned nothing \(null\); it must be a mapping"),
    (Refused, "refused", fails, "KeyError: 'the memory'"),
]
TOLD = r"(.*test_engine_hooks.py:\d+: )?"
"""The place of the fault, where it is in the method's file."""


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize(("hook", "does", "told"), FAULTS)
def test_a_fault_in_a_hook_is_told_by_its_name(
    tiny: Maker,
    train: Trainer,
    monkeypatch: pytest.MonkeyPatch,
    hook: str,
    does: Callable[..., Any],
    told: str,
) -> None:
    """In a run, and in a loop of one's own, where it is a ValueError."""
    faulty = type("Faulty", (Cutting,), {hook: does})
    with_method(monkeypatch, faulty)
    with pytest.raises(RunFailedError, match=f"^compression.method: none: {hook}: {TOLD}{told}"):
        train(tiny(steps=3))
    made = tiny()
    model = build_model(made.model, made.data.spec())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop() -> None:
        compressor = Compressor(model, optimizer, faulty(faulty.Config()), total_steps=3)
        for _ in range(2):
            (model(torch.ones(2, 64, 1)).sum() + compressor.penalty()).backward()
            compressor.after_backward()
            compressor.after_step()

    with pytest.raises(ValueError, match=f"^compression.method: none: {hook}: {TOLD}{told}"):
        loop()


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize(("base", "hook", "does", "told"), FAULTS_OF_RUNS)
def test_a_fault_in_a_hook_of_runs_leaves_the_run_as_it_was(
    tiny: Maker,
    train: Trainer,
    monkeypatch: pytest.MonkeyPatch,
    base: type[NoCompression],
    hook: str,
    does: Callable[..., Any],
    told: str,
) -> None:
    """The line is in its folder, with what was written."""
    with_method(monkeypatch, type("Faulty", (base,), {hook: does}))
    monkeypatch.setattr(Trial, "verdict", lambda *_: (False, "as the test wants"))
    safety = {"trial_steps": 2}
    made = tiny(steps=5, compression={"method": "none", "safety": safety}, train={"checkpoint_every": 1})
    with pytest.raises(RunFailedError, match=f"^compression.method: none: {hook}: {TOLD}{told}") as error:
        train(made)
    assert (error.value.exit_code, "\n" in str(error.value)) == (1, False)
    (run,) = Run.find(Path(made.output.root) / "tiny")
    info = run.read_info()
    assert (info["status"], info["error"]) == ("failed", f"MethodFaultError: {error.value}")
    for path in run.last_checkpoints():
        verify(path)


@pytest.mark.parametrize("hook", ["__init__", "check_steps", "calibration_bytes"])
def test_a_fault_of_a_method_is_told_when_nothing_is_trained(
    tiny: Maker, monkeypatch: pytest.MonkeyPatch, hook: str
) -> None:
    with_method(monkeypatch, type("Faulty", (Cutting,), {hook: fails}))
    with pytest.raises(RunFailedError, match=f"^compression.method: none: {hook}: {TOLD}KeyError"):
        forecast(tiny())


def test_a_class_without_a_file_is_told_without_a_place() -> None:
    space: dict[str, Any] = {"Cutting": Cutting, "__name__": "nowhere"}
    exec("class Typed(Cutting):\n    def penalty(self, step): return {}['k']", space)
    typed = space["Typed"](Cutting.Config())
    with pytest.raises(MethodFaultError, match=r"^compression.method: none: penalty: KeyError: 'k'$"):
        ask(typed, Method.penalty, None)


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("at_check", [True, False])
def test_a_refused_plan_without_records_is_told_once_a_reason(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch, at_check: bool
) -> None:
    class Unknowing(NoCompression):
        def check_steps(self, total: int) -> list[int]:
            return [2, 3, 4]

        def plan(self, model: nn.Module, context: CheckContext) -> Plan:
            return Plan([Keep("nope", [0])] if at_check else [])

        def after_step(self, step: StepContext) -> Plan | None:
            return None if at_check else Plan([Park(STATES, [99])])

    view = Telling()
    with_method(monkeypatch, Unknowing)
    train(tiny(steps=5), view=view)
    (told,) = [line for line in view.told if "compression.method" in line]
    step, why = (2, "nope") if at_check else (1, "99")
    assert told.startswith(
        f"warning: compression.method: none: what it wanted after step {step} cannot be done"
    )
    assert why in told
