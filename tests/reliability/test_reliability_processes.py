"""Several processes that train one run: as one process would, together to the last bit, and through the loss of one."""

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import reliability
import torch
from torch import nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import main
from compressm_cli.core.errors import BadInputError, GroupEndedError, RunFailedError
from compressm_cli.data import encoded, mapped
from compressm_cli.data.interface import IGNORE, Split
from compressm_cli.engine.batches import share_of
from compressm_cli.engine.distributed.agreement import checksum
from compressm_cli.engine.distributed.group import Group, joined
from compressm_cli.engine.step import training_step
from compressm_cli.models.norms import SequenceNorm
from compressm_cli.objectives.classification import cross_entropy
from compressm_cli.recipe import load_recipe
from compressm_cli.recipe.problems import RecipeError
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.runs.folder import Run


class Average(nn.Module):
    """Logits of each step, from a row's mean over its valid steps."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4, dtype=torch.float64)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        assert lengths is not None
        valid = torch.arange(x.shape[1]) < lengths[:, None]
        mean = (x * valid[..., None]).sum(1) / lengths[:, None]
        logits: torch.Tensor = self.head(mean[:, None] + x)
        return logits


def example() -> Split:
    """Eleven rows of unequal length, most steps of which are not scored."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(11, 7, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (11, 7), generator=generator)
    lengths = torch.randint(1, 8, (11,), generator=generator)
    labels[(torch.rand(11, 7, generator=generator) < 0.5) | (torch.arange(7) >= lengths[:, None])] = IGNORE
    return Split(x, labels, lengths)


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (1, 3), (2, 1), (3, 2), (11, 1), (2, 4)])
def test_shares_make_up_the_batch_and_its_gradient(count: int, parts: int) -> None:
    batch, config = example().rows(torch.arange(11)), TrainConfig(steps=1, accumulate=parts)
    torch.manual_seed(0)
    model = Average()
    expected = cross_entropy(model(batch.inputs, batch.lengths), batch.labels)
    expected.backward()
    whole, losses, seen = model.head.weight.grad.clone(), [], []  # type: ignore[union-attr]
    gradient = torch.zeros_like(whole)
    for rank in range(count):
        share = share_of(batch, rank, count, parts)
        assert len(share.parts) == parts
        seen += [row for part in share.parts for row in part.lengths.tolist()]  # type: ignore[union-attr]
        losses.append(training_step(model, torch.optim.SGD(model.parameters(), lr=0.0), share, config))
        gradient += model.head.weight.grad / count  # type: ignore[operator]
    assert seen == batch.lengths.tolist()  # type: ignore[union-attr]
    torch.testing.assert_close(sum(losses), expected.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, whole, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("count", "parts"), [(1, 3), (2, 1), (2, 2), (3, 2), (2, 4)])
def test_in_step_the_processes_pass_the_parts_of_one(count: int, parts: int) -> None:
    batch = example()
    numbered = Split(batch.inputs, torch.arange(11))
    alone = share_of(numbered, 0, 1, parts).parts
    shares = [share_of(numbered, rank, count, parts, in_step=True).parts for rank in range(count)]
    for whole, *pieces in zip(alone, *shares, strict=True):
        assert torch.equal(torch.cat([piece.labels for piece in pieces]), whole.labels)


def test_a_process_without_others_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as group:
        assert (group.rank, group.size, group.is_main) == (0, 1, True)
        assert group.gather(3) == [3]
        assert group.main_first(lambda: 4) == group.from_main(lambda: 4) == 4
    with pytest.raises(RuntimeError, match="Connection closed by peer"), group.watched():
        raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment: must be a whole number; start several"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set in the environment, but RANK is not; start several"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK=-1 in the environment: must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 in the environment: must be below WORLD_SIZE=2"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "process 1 of 2 cannot meet the others: .*MASTER_ADDR"),
    ],
)
def test_an_environment_that_does_not_say_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told: str
) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInputError, match=told), joined():
        pass


def test_the_loss_of_another_process_is_one_line() -> None:
    with pytest.raises(GroupEndedError, match=r"process 1 of 2 lost contact") as found, Group(1, 2).watched():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711")
    assert isinstance(found.value.error, RunFailedError)
    with pytest.raises(GroupEndedError, match="shape") as found, Group(1, 2).watched():
        raise RuntimeError("shape mismatch")
    assert isinstance(found.value.error, RuntimeError)


def test_the_checksum_sees_every_bit() -> None:
    linear, norm = nn.Linear(2, 2), SequenceNorm(2, 1e-5)
    model = nn.Sequential(linear, norm)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.tensor([[[1.0, 2.0], [3.0, 5.0]]])).square().sum().backward()
    optimizer.step()
    before = checksum(model, optimizer)
    assert checksum(model, optimizer) == before
    with torch.no_grad():
        linear.bias[1] = torch.nextafter(linear.bias[1], torch.tensor(9.0))
    after_weight = checksum(model, optimizer)
    optimizer.state[linear.weight]["exp_avg_sq"][0, 0] += 1
    after_moment = checksum(model, optimizer)
    mean = norm.norm.get_buffer("running_mean")
    mean[1] = torch.nextafter(mean[1], torch.tensor(9.0))
    assert len({before, after_weight, after_moment, checksum(model, optimizer)}) == 4


def stop_at(run: Run, step: int, found: list[BaseProcess]) -> None:
    """Stop processes by a signal to the last of them, once there is the checkpoint of a step."""
    until = time.monotonic() + processes.LIMIT_SECONDS
    while time.monotonic() < until and not run.last_checkpoint(step).exists():
        time.sleep(0.002)
    os.kill(int(found[-1].pid or 0), signal.SIGTERM)
    assert processes.ended(found) == [143] * len(found)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["lru", "mamba"])
def test_two_processes_do_what_one_does(case: str, tmp_path: Path) -> None:
    one = processes.train(tmp_path / "one", case, 1)
    halves = processes.train(tmp_path / "halves", case, 1, train={"accumulate": 2})
    two = processes.train(tmp_path / "two", case, 2)
    # Float32: the sums of the gradients are taken in another order, and the steps add that up.
    assert processes.largest_difference(one, two) < 1e-4
    # In the same order all is the same.
    a, b = (Checkpoint.load(run.final_checkpoint) for run in (halves, two))
    assert a.orders == b.orders == {"blocks.0.layer": 3}
    assert [name for name in a.weights if not torch.equal(a.weights[name], b.weights[name])] == []
    assert len(processes.checksums(two)) == 3  # at the start and at two cuts
    assert not processes.checksums(one)
    assert (one.read_summary()["processes"], two.read_summary()["processes"]) == (1, 2)


def put_tokens(folder: Path) -> dict[str, Any]:
    """A file that is mapped."""
    np.save(folder / "tokens.npy", (np.arange(3000) ** 2 % 47).astype(np.uint16))
    return {"task": "tokens", "vocabulary": 50, "path": str(folder / "tokens.npy"), "length": 16}


def put_recordings(folder: Path) -> dict[str, Any]:
    """Files of unequal length, which are encoded into a temporary one where memory has no room."""
    soundfile = pytest.importorskip("soundfile")
    for number in range(40):
        path = folder / "sounds" / "ab"[number % 2] / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = np.arange(800 + 40 * number) / 4000
        soundfile.write(path, 0.5 * np.sin(2 * np.pi * (200, 900)[number % 2] * seconds + number), 4000)
    where = {"task": "files", "format": "audio_folder", "train": str(folder / "sounds"), "features": "mfcc"}
    return {**where, "validation": 0.2, "test": 0.2}


def with_little_memory(*arguments: str) -> None:
    """A command whose data, where they are encoded, are in temporary files."""
    mapped.free_memory = lambda: 1000  # type: ignore[attr-defined]
    encoded.PART = 2000
    sys.exit(main.run(arguments))


@pytest.mark.slow
@pytest.mark.parametrize("put", [put_tokens, put_recordings])
def test_two_processes_do_what_one_does_on_data_in_files(
    put: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    data, found = put(tmp_path), []
    for count in (1, 2):
        train = {"accumulate": 3 - count, "steps": 40}
        path = processes.write_recipe(tmp_path / str(count), "lru", data=data, train=train)
        begun = processes.begun(count, with_little_memory, "train", str(path), "--quiet")
        assert processes.ended(begun) == [0] * count
        found.append(Run.open(tmp_path / str(count) / "kill" / "v0001"))
    one, two = (Checkpoint.load(run.final_checkpoint) for run in found)
    assert (one.encoding, one.fingerprint) == (two.encoding, two.fingerprint)
    assert one.encoding is not None
    assert [name for name in one.weights if not torch.equal(one.weights[name], two.weights[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("budget", [{"flops": "0.7x"}, {"seconds": "0.8x"}], ids=str)
def test_processes_share_a_budget(budget: dict[str, Any], tmp_path: Path) -> None:
    """What each has spent differs in seconds; all end after the same step, with the same checks."""
    run = processes.train(tmp_path / "two", "lru", 2, budget=budget)
    summary, found = run.read_summary(), run.read_summary()["budget"]
    assert found["spent"] >= found["limit"]
    assert found["steps"]["done"] == summary["steps"] == Checkpoint.load(run.final_checkpoint).step
    assert len({line["checksum"] for line in run.read_metrics() if "checksum" in line}) > 1


@pytest.mark.slow
def test_processes_with_a_part_of_the_model_each_do_what_one_does(tmp_path: Path) -> None:
    one = processes.train(tmp_path / "one", "lru-trial", 1)
    path = processes.write_recipe(tmp_path / "parts", "lru-trial", train={"parallel": "fsdp"})
    run = Run(tmp_path / "parts" / "kill" / "v0001")
    stop_at(run, 20, processes.members(2, "train", str(path), "--quiet"))
    copy = Run(Path(shutil.copytree(run.folder, tmp_path / "copy")))
    for again, count in ((run, 2), (copy, 1)):
        resumed = processes.members(count, "train", "--resume", str(again.folder), "--quiet")
        assert processes.ended(resumed) == [0] * count
        assert processes.largest_difference(one, again) < 1e-3
    assert len(processes.checksums(run)) == 3
    assert [m.step for m in (Checkpoint.load(r.final_checkpoint) for r in (one, run, copy))] == [60] * 3


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "difference"), [("ddp", 1e-4), ("fsdp", 1e-3)])
def test_processes_learn_from_one_teacher(parallel: str, difference: float, tmp_path: Path) -> None:
    teacher = processes.train(tmp_path / "teacher", "lru", 1)
    objective = {"kind": "classification", "teacher": {"model": str(teacher.folder)}}
    one = processes.train(tmp_path / "one", "lru", 1, objective=objective)
    two = processes.train(tmp_path / "two", "lru", 2, objective=objective, train={"parallel": parallel})
    # As without a teacher, in each kind of parallel training.
    assert processes.largest_difference(one, two) < difference
    assert processes.largest_difference(teacher, two) > 100 * difference
    assert one.read_summary()["flops"] == two.read_summary()["flops"]


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_they_go_on_exactly(tmp_path: Path) -> None:
    """With dropout, which each process draws for itself, and in the middle of trials of cuts."""
    changes = {"model": {"dropout": 0.1}}
    whole = processes.train(tmp_path / "whole", "lru-trial", 2, **changes)
    path = processes.write_recipe(tmp_path / "stopped", "lru-trial", **changes)
    run = Run(tmp_path / "stopped" / "kill" / "v0001")
    stop_at(run, 20, processes.members(2, "train", str(path), "--quiet"))
    assert (run.read_info()["status"], run.read_info()["signal"]) == ("interrupted", "SIGTERM")
    copy = Run(Path(shutil.copytree(run.folder, tmp_path / "copy")))

    assert processes.ended(processes.members(2, "train", "--resume", str(run.folder), "--quiet")) == [0, 0]
    assert list(reliability.differences(whole, run)) == []
    # One process goes on as well, though not bit for bit.
    assert processes.ended(processes.members(1, "train", "--resume", str(copy.folder), "--quiet")) == [0]
    assert copy.read_info()["status"] == "done"
    assert copy.read_summary()["processes"] == 1


@pytest.mark.slow
def test_torchrun_goes_on_when_a_process_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reliability, "PREPARATIONS", [])  # torchrun's processes count FLOPs as well
    whole = processes.train(tmp_path / "whole", "lru", 2)
    chance = random.Random(1)
    what, found = processes.lost(tmp_path / "lost", "lru", 2, chance, whole, 2.0)
    assert not found, "\n".join([what, *found])


def test_parts_are_not_compiled() -> None:
    overrides = ["train.parallel=fsdp", "train.compile=true"]
    with pytest.raises(RecipeError, match=r"write parallel: ddp or compile: false"):
        load_recipe("quickstart/baseline", overrides)
    assert load_recipe("quickstart/baseline", overrides[:1]).train.parallel == "fsdp"


def in_own_folder(folder: Path, *arguments: str) -> None:
    """A process whose files are its own, as on machines that share none."""
    rank = os.environ["RANK"]
    os.chdir(folder / rank)
    os.dup2(os.open(folder / f"told-{rank}", os.O_WRONLY | os.O_CREAT), 2)
    code = main.run(arguments)
    (folder / f"threads-{rank}").write_text("\n".join(threads()))
    sys.exit(code)


def threads() -> list[str]:
    """Names of the threads of this process, also of those that Python has not begun."""
    found = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it ended meanwhile
            found.append(path.read_text().strip())
    return found


@pytest.mark.slow
def test_all_processes_must_have_the_same_data(tmp_path: Path) -> None:
    data = {"task": "text_lm", "path": "text.txt", "length": 16}
    path = processes.write_recipe(tmp_path, "lru", data=data)
    text = "abcdefgh" * 100
    for rank, own in enumerate((text, f"{text[:-30]}x{text[-29:]}")):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / "text.txt").write_text(own)

    def codes(*arguments: str) -> list[int]:
        return processes.ended(processes.begun(2, in_own_folder, tmp_path, *arguments))

    assert codes("train", str(path), "--quiet") == [2, 2]
    told = [(tmp_path / f"told-{rank}").read_text() for rank in range(2)]
    assert told[0] == ""
    assert "error: process 1 of 2 has other data than process 0: test: other values in the 2 rows" in told[1]
    assert not (tmp_path / "kill").exists()
    (tmp_path / "1" / "text.txt").write_text(text)
    assert codes("train", str(path), "--quiet", "train.steps=20") == [0, 0]
    # Those of gloo, which hold tensors, would abort a process whose interpreter ends meanwhile.
    for rank in range(2):
        assert "runloop" not in (tmp_path / f"threads-{rank}").read_text()
    run = Run.open(tmp_path / "kill" / "v0001")
    assert load_recipe(run.recipe_path).data.places() == {"path": str(tmp_path / "0" / "text.txt")}

    assert codes("train", "--resume", str(run.folder), "--quiet", "train.steps=25") == [0, 0]
    assert run.read_summary()["steps"] == 25
    (tmp_path / "0" / "text.txt").write_text(text[::-1])
    assert codes("train", "--resume", str(run.folder), "--quiet", "train.steps=30") == [2, 2]
    assert "these are not the data that this run was trained on" in (tmp_path / "told-0").read_text()


@pytest.mark.slow
def test_bad_input_is_told_once(tmp_path: Path) -> None:
    path = processes.write_recipe(tmp_path, "lru", train={"batch_size": 1})
    launcher = processes.torchrun(path, 2)
    _, told = launcher.communicate(timeout=processes.LIMIT_SECONDS)
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "train.batch_size: 1 rows for 2 processes" in errors[0]
    assert told.count("exitcode  : 2") >= 1  # torchrun may end the other one first
