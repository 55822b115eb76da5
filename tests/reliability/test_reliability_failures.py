"""What goes wrong within a run: values that are not finite, no space, no memory, cuts that cannot be made."""

import errno
import json
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reliability
import torch
from layer_kinds import SELECTIVE, SMALL, TIME_INVARIANT
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import main
from compressm_cli.core.errors import RunFailedError
from compressm_cli.core.memory import is_out_of_memory
from compressm_cli.data.interface import Dataset, Split
from compressm_cli.engine import batches, experiment, loop, saving, train_state
from compressm_cli.engine.divergence import DivergedError, Rollbacks
from compressm_cli.engine.listeners import Listeners
from compressm_cli.engine.view import SilentView
from compressm_cli.methods.hankel import empirical
from compressm_cli.methods.hankel.selective import channel, group, vector
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_yaml
from compressm_cli.recipe.budget import BudgetConfig
from compressm_cli.render import plots
from compressm_cli.runs.folder import Run
from compressm_cli.structure.plan import UnitRecord

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]

pytestmark = pytest.mark.usefixtures("rough_flops")
LAYER = "blocks.0.layer"
BACK = {"action": "roll_back", "lr_factor": 0.5, "max_rollbacks": 3}
processes = multiprocessing.get_context("fork")


def newest(recipe: Recipe) -> Run:
    return Run.find(Path(recipe.output.root) / recipe.name)[-1]


def resumed(run: Run) -> Run:
    torch.manual_seed(99)  # a fresh process would not have the random state either
    return experiment.resume(run, load_recipe(run.recipe_path), SilentView(), "test")


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors(inner)


def is_good(path: Path) -> bool:
    """Whether weights and optimizer state of a checkpoint are finite."""
    checkpoint = Checkpoint.load(path)
    training = checkpoint.training or {"optimizer": {}}
    found = [*checkpoint.weights.values(), *tensors(training["optimizer"])]
    return all(bool(t.isfinite().all()) for t in found)


@contextmanager
def bad_gradient(step: int, value: float, times: int = 10**9) -> Iterator[None]:
    """Within, a gradient of one parameter is multiplied by ``value`` at a step, so many times."""
    original, left = loop.Trainer._update, [times]

    def update(trainer: loop.Trainer) -> None:
        parameter = trainer.state.model.get_parameter("head.weight")
        hook = None
        # A resumed run has the rollbacks of before.
        if trainer.state.step == step and left[0] > len(trainer.rollbacks.made):
            hook = parameter.register_hook(lambda gradient: gradient * value)
        original(trainer)
        if hook is not None:
            hook.remove()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_update", update)
        yield


# ---- values that are not finite ------------------------------------------------------------------------


# 1e30 leaves loss and weights finite: its square is infinite in Adam's second moment.
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("log_every", [1, 5])
def test_a_gradient_that_is_not_finite_ends_the_run_and_spoils_no_checkpoint(
    tiny: Maker, train: Trainer, value: float, log_every: int
) -> None:
    made = tiny(train={"log_every": log_every, "eval_every": 30, "checkpoint_every": 2})
    with bad_gradient(11, value), pytest.raises(DivergedError) as failure:
        train(made)
    told = str(failure.value)
    assert "not finite after step" in told or "became nan" in told
    step = 11 if log_every == 1 else 12  # the checkpoint comes before the next logged line
    assert f"after step {step};" in told
    assert "train.clip_norm" in told
    assert "\n" not in told
    run = newest(made)
    assert str(run.checkpoints) in told
    assert [path.name for path in run.last_checkpoints()] == ["last-000000010.pt"]
    assert all(is_good(path) for path in run.checkpoints.iterdir())
    assert run.read_info()["status"] == "failed"
    resumed(run)  # as if it had been a fault of the machine
    assert run.read_summary()["rollbacks"] == 0


def test_the_best_and_the_final_model_are_finite(tiny: Maker, train: Trainer) -> None:
    """Also where no logged line and no checkpoint comes between."""
    for value in (math.nan, 1e30):
        made = tiny(steps=8, train={"log_every": 100, "eval_every": 4, "checkpoint_every": 100})
        with bad_gradient(8, value), pytest.raises(DivergedError, match="after step 8"):
            train(made)
        run = newest(made)
        assert Checkpoint.load(run.best_checkpoint).step == 4
        assert not run.final_checkpoint.exists()


def back(tiny: Maker, steps: int = 20, **changes: Any) -> Recipe:
    rhythm = {
        "checkpoint_every": 6,
        "log_every": 2,
        "eval_every": 5,
        "form": "recurrent",
        "on_divergence": BACK,
    }
    train = {**rhythm, **changes.pop("train", {})}
    return tiny(steps=steps, train=train, **changes)


def test_a_run_goes_back_to_its_last_good_checkpoint_with_a_lower_learning_rate(
    tiny: Maker, train: Trainer
) -> None:
    made = back(tiny)
    with bad_gradient(15, math.inf, times=1):
        run = train(made)
    undisturbed = train(made)
    assert run.read_summary()["rollbacks"] == 1
    assert undisturbed.read_summary()["rollbacks"] == 0
    lines = run.read_metrics()
    (told,) = [line for line in lines if "rollback" in line]
    assert told["reason"].endswith(" is not finite after step 15")
    told.pop("reason")
    assert told == {
        "step": 12, "rollback": 1, "from_step": 15, "to_step": 12, "learning_rate_factor": 0.5,
    }  # fmt: skip
    rates, before = ([(m["step"], m["learning_rate"]) for m in r.read_metrics() if "train_loss" in m]
                     for r in (run, undisturbed))  # fmt: skip
    assert [step for step, _ in rates] == list(range(2, 21, 2))
    for (step, rate), (_, whole) in zip(rates, before, strict=True):
        assert rate == (whole if step <= 12 else 0.5 * whole)
    steps = [line["step"] for line in lines]
    assert steps == sorted(steps)


def test_what_a_divergence_undid_stays_spent(tiny: Maker, train: Trainer) -> None:
    made = back(tiny).model_copy(update={"budget": BudgetConfig(flops="1x")})
    with bad_gradient(15, math.inf, times=1):
        summary = train(made).read_summary()
    assert (summary["rollbacks"], summary["steps"]) == (1, 20 - 3)
    assert summary["budget"]["spent"] == summary["budget"]["limit"]


def test_a_run_without_a_checkpoint_goes_back_to_its_beginning(tiny: Maker, train: Trainer) -> None:
    made = back(tiny, train={"checkpoint_every": 100, "on_divergence": {**BACK, "lr_factor": 1.0}})
    with bad_gradient(3, math.nan, times=2):
        run = train(made)
    assert [(m["from_step"], m["to_step"]) for m in run.read_metrics() if "rollback" in m] == [(4, 0), (4, 0)]
    # With the same learning rate it is the run without the fault, bit by bit.
    whole, part = (Checkpoint.load(r.final_checkpoint).weights for r in (train(made), run))
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_a_fault_that_recurs_ends_the_run_after_the_allowed_rollbacks(tiny: Maker, train: Trainer) -> None:
    made = back(tiny, train={"log_every": 1})
    with bad_gradient(9, math.nan):
        with pytest.raises(
            DivergedError, match=r"after step 9, after 3 rollbacks .*; try a lower"
        ) as failure:
            train(made)
        run = newest(made)
        factors = [m["learning_rate_factor"] for m in run.read_metrics() if "rollback" in m]
        assert factors == [0.5, 0.25, 0.125]
        assert all(is_good(path) for path in run.checkpoints.iterdir())
        assert str(run.checkpoints) in str(failure.value)
        with pytest.raises(DivergedError, match="after 3 rollbacks"):
            resumed(run)  # they are counted over all resumptions
        assert len([m for m in run.read_metrics() if "rollback" in m]) == 3


def test_bad_data_are_named(tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = back(tiny)
    clean = experiment.load_data(made)
    inputs = clean.train.inputs.clone().float()
    inputs[[3, 50]] = torch.nan
    inputs[100, 7] = math.inf
    spoiled = Dataset(clean.spec, Split(inputs, clean.train.labels), clean.validation, clean.test)
    monkeypatch.setattr(batches.Batches, "_permutation", lambda *_: torch.arange(len(clean.train)))
    with pytest.raises(
        DivergedError, match=f"3 of {len(clean.train)} training rows hold values that are not"
    ):
        experiment.start(made, 0, spoiled, SilentView(), "test")
    assert len([m for m in newest(made).read_metrics() if "rollback" in m]) == 3


class Died(BaseException):
    """The process is gone: nothing is done about it."""


def dying(patch: pytest.MonkeyPatch, owner: type, name: str, count: int, before: bool) -> None:
    """Die at the ``count``-th call of a method from the first rollback on."""
    original, left = getattr(owner, name), [count]
    add, went_back = Rollbacks.add, []

    def added(rollbacks: Rollbacks, *args: Any) -> None:
        add(rollbacks, *args)
        went_back.append(args)

    def call(part: Any, *args: Any) -> Any:
        left[0] -= bool(went_back)
        if left[0] == 0 and before:
            raise Died
        result = original(part, *args)
        if left[0] == 0:
            raise Died
        return result

    patch.setattr(Rollbacks, "add", added)
    patch.setattr(owner, name, call)


DEATHS = [
    (saving.Saving, "save", 1, True),  # gone back, and nothing is written
    (Listeners, "rolled_back", 1, True),  # the checkpoint is, the line is not
    (Listeners, "rolled_back", 1, False),
    (loop.Trainer, "_update", 4, True),
    (saving.Saving, "save", 2, False),  # one at the next regular moment
]


@pytest.mark.parametrize(("owner", "name", "count", "before"), DEATHS)
def test_a_run_that_went_back_is_resumed_exactly(
    tiny: Maker, train: Trainer, owner: type, name: str, count: int, before: bool
) -> None:
    cuts = {"kind": "listed", "at_steps": [8, 14]}
    made = back(tiny, compression={"method": "hankel", "keep_fraction": 0.7, "schedule": cuts})
    with bad_gradient(11, math.nan, times=1):
        whole = train(made)
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, owner, name, count, before)
            with pytest.raises(Died):
                train(made)
        part = newest(made)
        resumed(part)
    assert whole.read_summary()["rollbacks"] == part.read_summary()["rollbacks"] == 1
    assert list(reliability.differences(whole, part)) == []
    # The cut of step 8 was undone and made once more.
    assert [line["step"] for line in part.read_compression()] == [8, 14]


def killed(made: Recipe) -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    original = loop.Trainer._update

    def update(trainer: loop.Trainer) -> None:
        if trainer.rollbacks.made and trainer.state.step == 16:
            die()
        original(trainer)

    loop.Trainer._update = update  # type: ignore[method-assign]
    experiment.start(made, 0, experiment.load_data(made), SilentView(), "test")


def test_a_run_killed_after_it_went_back_is_resumed_exactly(tiny: Maker, train: Trainer) -> None:
    made = back(tiny, train={"checkpoint_every": 7})
    with bad_gradient(13, math.inf, times=1):
        whole = train(made)
        process = processes.Process(target=killed, args=(made,))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        part = newest(made)
        assert part.folder != whole.folder
        resumed(part)
    assert list(reliability.differences(whole, part)) == []


class Told(SilentView):
    def __init__(self) -> None:
        self.messages: list[str] = []
        self.undone: list[tuple[int, list[int]]] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    def compression(self, step: int, records: list[UnitRecord], verdict: Any) -> None:
        if verdict == "undone":
            self.undone.append((step, [record.after for record in records]))


def test_a_rollback_is_told_with_the_cuts_that_it_undid(tiny: Maker, train: Trainer) -> None:
    view = Told()
    cuts = {"kind": "listed", "at_steps": [8]}
    made = back(tiny, compression={"method": "hankel", "target_order": 3, "schedule": cuts})
    with bad_gradient(9, math.nan, times=1):
        run = train(made, view=view)
    (told,) = [text for text in view.messages if "rolled back" in text]
    assert "rolled back from step 10 to 6, learning rate x 0.5 from here on (2 more" in told
    assert view.undone == [(6, [8])]
    assert run.read_summary()["orders"]["final"] == {LAYER: 3}


def test_within_a_trial_it_is_the_cut_that_is_undone(tiny: Maker, train: Trainer) -> None:
    cuts = {"kind": "listed", "at_steps": [8]}
    safety = {"trial_steps": 6, "tolerance": 1.0, "on_rejection": "stop"}
    cut = {"method": "hankel", "target_order": 3, "schedule": cuts, "safety": safety}
    made = back(tiny, compression=cut, train={"log_every": 1})
    with pytest.MonkeyPatch.context() as patch:
        original = loop.Trainer._update

        def update(trainer: loop.Trainer) -> None:
            original(trainer)
            if trainer.trial.is_on:
                state = trainer.state
                state.optimizer.state[state.model.get_parameter("head.weight")]["exp_avg"][0] = math.inf

        patch.setattr(loop.Trainer, "_update", update)
        run = train(made)
    (line,) = run.read_compression()
    assert line["accepted"] is False
    assert "head.weight: exp_avg is not finite after step 9" in line["reason"]
    assert run.read_summary()["rollbacks"] == 0


def test_back_into_a_trial_and_out_of_it(tiny: Maker, train: Trainer) -> None:
    """The checkpoint to go back to lies within a trial that was passed; this time it is failed."""
    cuts = {"kind": "listed", "at_steps": [8]}
    safety = {"trial_steps": 6, "tolerance": 1.0, "on_rejection": "stop"}
    cut = {"method": "hankel", "target_order": 3, "schedule": cuts, "safety": safety}
    made = back(tiny, compression=cut, train={"checkpoint_every": 12})
    verdict = loop.Trainer._verdict

    def strict(trainer: loop.Trainer) -> bool:
        if not trainer.rollbacks.made:
            return verdict(trainer)
        trainer._reject("as the test says")
        return False

    with bad_gradient(16, math.nan, times=1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_verdict", strict)
        whole = train(made)
        with pytest.MonkeyPatch.context() as other:
            dying(other, loop.Trainer, "_update", 5, True)  # after the rejection
            with pytest.raises(Died):
                train(made)
        part = newest(made)
        resumed(part)
    assert list(reliability.differences(whole, part)) == []
    (line,) = whole.read_compression()
    assert line["accepted"] is False
    (told,) = [m for m in whole.read_metrics() if "rollback" in m]
    assert (told["step"], told["from_step"], told["to_step"]) == (8, 16, 12)
    steps = [m["step"] for m in whole.read_metrics()]
    assert steps == sorted(steps)


# ---- no space, no permission ---------------------------------------------------------------------------


class Disk:
    """Counts what is written; from the ``broken``-th time on nothing can be."""

    def __init__(self, patch: pytest.MonkeyPatch, broken: int | None, code: int = errno.ENOSPC) -> None:
        self.writes: list[str] = []
        self.broken, self.code = broken, code
        fsync, append = os.fsync, Run._append

        def synced(descriptor: int) -> None:
            self._write(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
            fsync(descriptor)

        def appended(run: Run, name: str, line: dict[str, Any]) -> None:
            self._write(name)
            append(run, name, line)

        patch.setattr(os, "fsync", synced)
        patch.setattr(Run, "_append", appended)

    def _write(self, name: str) -> None:
        self.writes.append(name)
        if self.broken is not None and len(self.writes) > self.broken:
            raise OSError(self.code, os.strerror(self.code))


@pytest.fixture
def path(tiny: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rhythm = {"checkpoint_every": 2, "log_every": 2, "eval_every": 2, "form": "recurrent"}
    cuts = {"kind": "listed", "at_steps": [3]}
    file = tmp_path / "r.yaml"
    monkeypatch.setattr(plots, "run_plots", lambda *_: None)  # it takes longer than all the rest
    made = tiny(
        steps=5, train=rhythm, compression={"method": "hankel", "keep_fraction": 0.6, "schedule": cuts}
    )
    file.write_text(recipe_to_yaml(made))
    return file


def readable(run: Run) -> bool:
    """Whether everything that is there can be read."""
    for checkpoint in run.checkpoints.iterdir():
        Checkpoint.load(checkpoint)
    run.read_metrics(), run.read_compression()
    if (run.folder / "run.json").exists():
        run.read_info()
    return not run.is_done or bool(run.read_summary())


def test_a_disk_that_is_full_at_any_write_costs_nothing_that_was_written(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(path), "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, None)
        assert main.run(command) == 0
        names = list(disk.writes)
    whole = Run.find(tmp_path / "outputs" / "tiny")[0]
    kinds = {name.split(".")[1] if name.startswith(".") else name for name in names}
    assert {"recipe", "run", "last-000000002", "best", "final", "summary", "metrics.jsonl"} <= kinds
    assert len(names) > 25
    capsys.readouterr()
    kind_of = [name.split(".")[1].split("-")[0] if name.startswith(".") else name for name in names]
    first_and_last = {
        i for kind in kind_of for i in (kind_of.index(kind), len(kind_of) - 1 - kind_of[::-1].index(kind))
    }
    for broken in sorted(first_and_last):
        with pytest.MonkeyPatch.context() as patch:
            Disk(patch, broken)
            assert main.run(command) == 1, names[broken]
        told = capsys.readouterr().err
        assert told.count("\n") == 1, told
        assert "cannot be written: No space left on device; free some space. " in told, names[broken]
        part = Run(sorted((tmp_path / "outputs" / "tiny").glob("v*"))[-1])
        kind = part.folder.name if kind_of[broken] == whole.folder.name else kind_of[broken]
        assert kind in told or "a log in" in told
        assert "unexpected" not in told
        assert readable(part)
        if part.is_done:  # what is missing is that run.json says so
            assert told.endswith("The run is done; what it has written is whole\n")
            main.run(["train", "--resume", str(part.folder), "--quiet"])
            assert list(reliability.differences(whole, part)) == [], names[broken]
        elif "--resume" in told:
            assert told.rstrip().endswith(f"compressm train --resume {part.folder}")
            assert main.run(["train", "--resume", str(part.folder), "--quiet"]) == 0, names[broken]
            assert list(reliability.differences(whole, part)) == [], names[broken]
        else:
            assert "give the same command again" in told
            assert not (part.folder / "run.json").exists()
        capsys.readouterr()


@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.EROFS, "make it writable"), (errno.EACCES, "make it writable"), (errno.EDQUOT, "larger quota")],
)
def test_a_checkpoint_that_cannot_be_written_is_named(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int, advice: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, None)
        main.run(["train", str(path), "--quiet"])
        second = next(i for i, name in enumerate(disk.writes) if name.startswith(".last-000000004"))
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, second, code)
        assert main.run(["train", str(path), "--quiet"]) == 1
    run = Run.find(tmp_path / "outputs" / "tiny")[-1]
    told = capsys.readouterr().err
    assert f"{run.last_checkpoint(4)}: cannot be written: {os.strerror(code)}" in told
    assert advice in told
    assert run.last_checkpoints() == [run.last_checkpoint(2)]


def test_outputs_below_a_file_are_refused_before_anything_is_done(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert main.run(["train", str(path), "--quiet", f"output.root={tmp_path / 'file'}"]) in (1, 2)
    told = capsys.readouterr().err
    assert "Not a directory" in told
    assert "Traceback" not in told
    assert (tmp_path / "file").read_text() == "mine"


def in_a_process(work: Callable[[], int], output: Path) -> tuple[int | None, str]:
    """Exit code and standard error of a forked process: limits that it sets are its own."""

    def child() -> None:
        with output.open("w") as file, redirect_stderr(file):
            code = work()
        os._exit(code)

    process = processes.Process(target=child)
    process.start()
    process.join(120)
    return process.exitcode, output.read_text()


def test_a_limit_on_the_size_of_files(path: Path, tmp_path: Path) -> None:
    """The system itself refuses the write here, in the middle of a checkpoint."""

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return main.run(["train", str(path), "--quiet"])

    code, told = in_a_process(limited, tmp_path / "stderr")
    run = Run.find(tmp_path / "outputs" / "tiny")[-1]
    assert code == 1
    assert "cannot be written: File too large; lift the limit on the size of files (ulimit -f)" in told
    assert told.count("\n") == 1
    assert run.read_info()["status"] == "failed"
    assert "File too large" in run.read_info()["error"]
    assert list(run.checkpoints.iterdir()) == []  # no half of one, and no temporary file
    resumed(run)
    assert list(reliability.differences(train_again(path), run)) == []


def train_again(path: Path) -> Run:
    recipe = load_recipe(path)
    return experiment.start(recipe, 0, experiment.load_data(recipe), SilentView(), "test")


# ---- no memory -----------------------------------------------------------------------------------------


def test_memory_errors_are_known() -> None:
    with pytest.raises(MemoryError) as numpys:
        np.empty(2**55)
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**55)
    assert is_out_of_memory(numpys.value)
    assert is_out_of_memory(torchs.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert is_out_of_memory(ImportError("libXau.so.6: failed to map segment from shared object"))
    assert not is_out_of_memory(ImportError("No module named 'matplotlib'"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(OSError(errno.ENOSPC, "No space left on device"))


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from compressm_cli.cli import main
from compressm_cli.engine import loop

def limited(trainer):
    # Loads the kernels: libraries that find too little memory while they are loaded may end the process.
    trainer._update()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**25, resource.RLIM_INFINITY))
    return train(trainer)

torch.set_num_threads(1)
train, loop.Trainer.train = loop.Trainer.train, limited
sys.exit(main.run(["train", "--resume", sys.argv[1], "--quiet"]))
"""
"""A process of its own: this one may have memory left over from other tests."""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is read from /proc")
def test_a_limit_on_memory(tiny: Maker) -> None:
    """A run is resumed where there is too little memory, and then where there is enough."""
    # Tensors of 32 MiB.
    rhythm = {"batch_size": 512, "checkpoint_every": 1, "form": "recurrent", "eval_every": 2}
    made = tiny(steps=2, model={"model_dim": 256}, train=rhythm)
    with pytest.MonkeyPatch.context() as patch:
        log = loop.Trainer._log_if_due

        def dies(trainer: loop.Trainer) -> None:
            if trainer.state.step == 2:
                raise Died
            log(trainer)

        patch.setattr(loop.Trainer, "_log_if_due", dies)
        with pytest.raises(Died):
            experiment.start(made, 0, experiment.load_data(made), SilentView(), "test")
    run = newest(made)
    before = run.last_checkpoint(1).read_bytes()
    command = [sys.executable, "-c", LIMITED, str(run.folder)]
    # Large tensors are given back to the system, and asked for again.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "out of memory" in done.stderr
    assert "; lower train.batch_size" in done.stderr
    assert f"compressm train --resume {run.folder}" in done.stderr
    assert run.read_info()["status"] == "failed"
    assert "out of memory" in run.read_info()["error"]
    assert run.last_checkpoint(1).read_bytes() == before
    resumed(run)
    assert run.read_info()["status"] == "done"


def test_no_memory_to_tell_of_it(tiny: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ``run.json`` cannot be written for want of memory, the command still says how to go on."""
    made = tiny(steps=2)
    write, held = Run.write_info, []

    def writes(run: Run, info: dict[str, Any]) -> None:
        if info["status"] == "failed":
            raise MemoryError
        write(run, info)

    def fails(trainer: loop.Trainer) -> None:
        large = torch.zeros(2**20)
        held.append(weakref.ref(large))
        raise MemoryError

    monkeypatch.setattr(Run, "write_info", writes)
    monkeypatch.setattr(loop.Trainer, "_update", fails)
    with pytest.raises(RunFailedError, match=r"^out of memory; .*: compressm train --resume"):
        experiment.start(made, 0, experiment.load_data(made), SilentView(), "test")
    assert held[0]() is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (MemoryError(), "out of memory"),
        (ImportError("ft2font.so: failed to map segment from shared object"), "failed to map segment"),
    ],
)
def test_a_done_run_is_not_lost_for_want_of_plots(
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    told: str,
) -> None:
    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(plots, "run_plots", fails)
    assert main.run(["train", str(path), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: no plots were written: ")
    assert told in captured.err
    assert Run.open(Path(captured.out.strip())).read_info()["status"] == "done"


def test_other_commands_tell_it_as_well(
    monkeypatch: pytest.MonkeyPatch, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(_: Recipe) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore\nlines")

    monkeypatch.setattr(experiment, "load_data", load)
    assert main.run(["train", str(path), "--quiet"]) == 1
    told = capsys.readouterr().err
    assert "out of memory (CUDA out of memory. Tried to allocate 2 GiB); lower train.batch_size" in told
    assert told.count("\n") == 1


# ---- cuts that cannot be made --------------------------------------------------------------------------


def indefinite(gramians: Tensor) -> Tensor:
    """Of the same shape (..., n, n), with a negative eigenvalue, as round-off makes of a nearly singular one."""
    values = torch.ones(gramians.shape[-1], dtype=torch.float64)
    values[0] = -1.0
    return torch.diag(values).expand(gramians.shape).clone()


@pytest.fixture
def bad_gramians(monkeypatch: pytest.MonkeyPatch) -> None:
    covariances = empirical.StateCovariance.result
    monkeypatch.setattr(
        empirical.StateCovariance, "result", lambda seen: [indefinite(P) for P in covariances(seen)]
    )
    for owner, name in (
        (channel, "channel_moments"),
        (group, "head_moments"),
        (vector, "vector_moments"),
    ):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, f=original, **k: indefinite(f(*a, **k)))


def of_kind(tiny: Maker, kind: str, compression: dict[str, Any] | None) -> Recipe:
    layer = {"kind": kind, "state_dim": 8, **SMALL.get(kind, {})}
    return tiny(steps=4, compression=compression, model={"layer": layer, "dropout": 0.0})


def refused(tiny: Maker, train: Trainer, kind: str, **changes: Any) -> str:
    """The logged reason; the run must have ended like one without cuts."""
    cuts = {"method": "hankel", "target_order": 3, "schedule": {"kind": "listed", "at_steps": [2]}, **changes}
    run = train(of_kind(tiny, kind, cuts))
    uncut = train(of_kind(tiny, kind, None))
    one, other = (Checkpoint.load(r.final_checkpoint).weights for r in (run, uncut))
    assert all(torch.equal(one[name], other[name]) for name in other)
    (line,) = run.read_compression()
    assert (line["step"], line["order_after"], line["accepted"]) == (2, line["order_before"], None)
    assert run.read_info()["status"] == "done"
    json.dumps(line, allow_nan=False)
    return str(line["reason"])


@pytest.mark.usefixtures("bad_gramians")
@pytest.mark.parametrize("kind", [*TIME_INVARIANT, *SELECTIVE])
def test_an_ill_conditioned_gramian_costs_the_cut_alone(tiny: Maker, train: Trainer, kind: str) -> None:
    changes = {"gramian": "empirical"} if kind in TIME_INVARIANT else {}
    reason = refused(tiny, train, kind, **changes)
    assert reason == "nothing cut: refused: P must be positive semidefinite"


@pytest.mark.parametrize("realization", ["real", "complex"])
@pytest.mark.parametrize("kind", TIME_INVARIANT)
def test_an_ill_conditioned_basis_costs_the_cut_alone(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch, kind: str, realization: str
) -> None:
    for module in ("methods.hankel.balanced", "lti.realization"):
        monkeypatch.setattr(f"compressm_cli.{module}.MAX_EIGENVECTOR_CONDITION", 1.0)
    reason = refused(tiny, train, kind, realization=realization)
    assert reason.startswith("nothing cut: refused: ")
    assert "cannot be diagonalized" in reason


def test_too_few_coordinates_for_a_basis_cost_the_cut_alone(tiny: Maker, train: Trainer) -> None:
    """Nothing gets into the states of this layer: its Gramian has rank 0."""
    build = train_state.begun

    def without_input(*args: Any) -> torch.nn.Module:
        model = build(*args)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("x_proj.weight"):  # the step size, B and C
                    weight[-16:-8] = 0.0
                    weight.requires_grad_(False)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_state, "begun", without_input)
        reason = refused(tiny, train, "mamba", variant="balanced_real")
    assert reason == "nothing cut: refused: the Gramians have numerical rank 0, less than order 3"


@pytest.mark.parametrize("kind", ["lru", "mamba"])
def test_a_decomposition_that_does_not_converge_costs_the_cut_alone(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def diverges(*_: Any, **__: Any) -> None:
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    for module in (
        "compressm_cli.methods.hankel.balanced.balance_real_form",
        "compressm_cli.methods.hankel.balanced.balance",
        "compressm_cli.methods.hankel.selective.channel.balance",
    ):
        monkeypatch.setattr(module, diverges)
    assert refused(tiny, train, kind) == "nothing cut: refused: the algorithm failed to converge"


def test_a_run_that_fails_says_so_once(tiny: Maker, train: Trainer) -> None:
    """What run.json tells is what the command told."""
    made = tiny()
    with bad_gradient(2, math.nan), pytest.raises(RunFailedError) as failure:
        train(made)
    assert newest(made).read_info()["error"] == f"DivergedError: {failure.value}"
