"""What a sweep shows: on a terminal, in a log, and how it tells the time left."""

import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console
from stand_ins import MakeJobs

from compressm_cli.render.sweep_view import LiveBoardView, PlainBoardView, make_board_view, render, summary
from compressm_cli.runs.folder import Run
from compressm_cli.sweeps import board as board_module
from compressm_cli.sweeps import progress as progress_module
from compressm_cli.sweeps.board import Board, Outcome
from compressm_cli.sweeps.progress import Watch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FakeTime:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(board_module, "time", fake)
    monkeypatch.setattr(progress_module, "time", fake)
    return fake


@pytest.fixture
def board(make_jobs: MakeJobs, fake_time: FakeTime) -> Board:
    """One training done in 20 s, one failed, one half done after 10 s, and one that waits."""
    names = ("done", "failed", "learning_rate=0.004,state_dim=8,recurrent_lr_factor=0.25", "waiting")
    jobs = make_jobs(*names)
    board = Board(2)
    board.add(jobs)
    board.begin(jobs[0])
    board.begin(jobs[1])
    fake_time.now += 20
    board.end(Outcome(jobs[0], Run(Path("x"))))
    board.end(Outcome(jobs[1], None, "the training loss became nan\nand more"))
    entry = board.begin(jobs[2])
    assert entry.watch is not None
    line = {"train_loss": 0.5234, "orders": {"a": 64, "b": 64}}
    entry.watch.progress.read({"step": 2, **line})
    entry.watch.look()
    fake_time.now += 10
    entry.watch.progress.read({"step": 10, **line, "orders": {"a": 9, "b": 12}})
    entry.watch.progress.read({"step": 10, "validation_loss": 1.0, "validation_accuracy": 0.8812})
    entry.watch.look()
    return board


def test_the_time_left_is_that_of_all(board: Board) -> None:
    (entry,) = board.running
    assert entry.watch is not None
    # 8 of 20 steps in 10 seconds: 10 steps take another 12.5.
    assert entry.watch.seconds_left() == pytest.approx(12.5)
    # One that waits takes the mean of 20 and 22.5, and two are trained at a time.
    assert board.seconds_left() == pytest.approx((12.5 + 21.25) / 2)
    assert Board(2).seconds_left() is None
    # As long as nothing new is told, the time goes by.
    assert isinstance(progress_module.time, FakeTime)
    progress_module.time.now += 2
    assert entry.watch.seconds_left() == pytest.approx(10.5)
    progress_module.time.now -= 2
    assert summary(board) == "1 of 4 done, 1 failed, 1 running, 1 waiting, 0:17 left"


@pytest.mark.parametrize("width", [60, 110])
def test_all_is_seen_on_a_narrow_terminal(board: Board, width: int) -> None:
    stream = io.StringIO()
    Console(file=stream, width=width, height=40, highlight=False).print(render(board, "digits", width, 40))
    text = stream.getvalue()
    assert all(cell_len(line) == width for line in text.splitlines())
    for part in (
        *("digits", "1 of 4 done, 1 failed", "0:17 left", "learning_rate=0.004,state_dim=8"),
        *("step 10/20", "loss 0.523", "88.1%", "128 -> 21", "0:12 left", "failed, seed 0: the training loss"),
    ):
        assert part in " ".join(text.replace("│", " ").split())
    assert "and more" not in text


def test_no_terminal_gets_lines(board: Board) -> None:
    stream = io.StringIO()
    view = make_board_view("digits", stream)
    assert isinstance(view, PlainBoardView)
    assert isinstance(make_board_view("digits", Terminal()), LiveBoardView)
    view.start(board)
    for entry in board.entries:
        if entry.outcome is not None:
            view.ended(entry.outcome)
    view.tick()
    view.close()
    assert stream.getvalue().splitlines() == [
        "done: done, seed 0, 0:20",
        "failed: failed, seed 0: the training loss became nan",
        "and more",
    ]


def test_a_watch_follows_a_run_that_goes_back(tmp_path: Path, make_jobs: MakeJobs) -> None:
    (job,) = make_jobs("a")
    watch = Watch(job)
    assert watch.look().step == 0
    run = Run.create(tmp_path / "runs", "a")
    run.recipe_path.write_text(job.write(tmp_path).read_text())
    run.write_info({"status": "running"})
    run.append_metrics({"step": 5, "train_loss": 1.0, "orders": {"a": 4}})
    assert (watch.look().share, watch.look().loss) == (0.25, 1.0)
    run.append_metrics({"step": 10, "validation_accuracy": 0.5})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 15, ')  # a line that is being written
    assert watch.look().judged == [(0.5, 0.5)]
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('"train_loss": 0.5}\n')
    assert (watch.look().step, watch.look().loss) == (15, 0.5)
    run.forget_after(5)
    run.append_metrics({"step": 6, "train_loss": 0.9, "progress": 0.125})
    assert (watch.look().step, watch.look().share, watch.look().judged) == (6, 0.125, [])
