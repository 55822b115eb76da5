"""The folder of a run: versions, links, logs and what is said where something is missing."""

import errno
import json
import multiprocessing
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.core.files import write_atomically
from compressm_cli.render.plots import run_plots
from compressm_cli.runs.folder import Run


def create(root: Path) -> str:
    return Run.create(root, "race").folder.name


def started(root: Path, name: str = "one") -> Run:
    run = Run.create(root, name)
    run.write_info({"status": "running"})
    return run


# ---- versions -----------------------------------------------------------------------------------------


def test_versions_count_up(tmp_path: Path) -> None:
    assert [Run.create(tmp_path, "one").folder.name for _ in range(3)] == ["v0001", "v0002", "v0003"]
    assert Run.create(tmp_path, "other").folder.name == "v0001"


def test_eight_processes_at_once_get_eight_versions(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(8) as pool:
        names = pool.map(create, [tmp_path] * 8, chunksize=1)
    assert sorted(names) == [f"v{i:04d}" for i in range(1, 9)]
    assert (tmp_path / "race" / "latest").resolve().name == "v0008"
    assert sorted(p.name for p in (tmp_path / "race").iterdir()) == ["latest", *sorted(names)]


def test_a_deleted_version_below_the_newest_is_not_taken_again(tmp_path: Path) -> None:
    for _ in range(3):
        Run.create(tmp_path, "one")
    for part in ("checkpoints", "plots", ""):
        (tmp_path / "one" / "v0001" / part).rmdir()
    assert Run.create(tmp_path, "one").folder.name == "v0004"


def test_versions_go_on_beyond_four_digits(tmp_path: Path) -> None:
    (tmp_path / "one" / "v9999").mkdir(parents=True)
    (tmp_path / "one" / "vacation").mkdir()
    assert Run.create(tmp_path, "one").folder.name == "v10000"
    started(tmp_path)
    assert [run.folder.name for run in Run.find(tmp_path / "one")] == ["v10001"]


def test_latest_points_to_the_newest_version(tmp_path: Path) -> None:
    Run.create(tmp_path, "one")
    run = started(tmp_path)
    link = tmp_path / "one" / "latest"
    assert link.is_symlink()
    assert link.readlink() == Path("v0002")
    assert Run.open(link).folder == run.folder.resolve()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        RunFailedError, match=r"cannot write to .*file.*one: Not a directory.*output\.root=DIR"
    ):
        Run.create(tmp_path / "file", "one")


# ---- finding runs -------------------------------------------------------------------------------------


def test_find_takes_a_run_its_link_or_all_of_a_recipe(tmp_path: Path) -> None:
    runs = [started(tmp_path) for _ in range(3)]
    Run.create(tmp_path, "one")  # began so recently that it has no run.json yet
    expected = [run.folder.resolve() for run in runs]
    assert [run.folder for run in Run.find(tmp_path / "one")] == expected
    assert [run.folder for run in Run.find(tmp_path / "one" / "v0002")] == [expected[1]]
    (tmp_path / "one" / "latest").unlink()
    (tmp_path / "one" / "latest").symlink_to("v0003")
    assert [run.folder for run in Run.find(tmp_path / "one" / "latest")] == [expected[2]]
    for name, run in (("", 2), ("latest", 2), ("v0002", 1)):
        assert Run.newest(tmp_path / "one" / name).folder == expected[run]


def test_what_is_no_run_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="not a run folder"):
        Run.open(tmp_path)
    with pytest.raises(BadInputError, match="no such file or folder"):
        Run.find(tmp_path / "nowhere")
    for name in ("file", "empty"):
        with pytest.raises(BadInputError, match=r"neither a run folder nor a folder of runs .*, \.\.\.\)$"):
            Run.find(tmp_path / name)


def test_the_runs_in_folders_of_a_folder_are_named(tmp_path: Path) -> None:
    for _ in range(7):
        started(tmp_path)
    for number in range(5):
        shutil.copytree(tmp_path / "one" / "v0001", tmp_path / "two" / f"v000{number + 1}")
    with pytest.raises(BadInputError) as error:
        Run.find(tmp_path)
    named = [f"{tmp_path}/one/v000{n}" for n in range(1, 8)] + [
        f"{tmp_path}/two/v000{n}" for n in range(1, 4)
    ]
    assert str(error.value).endswith(f"; give one of the runs in it: {', '.join(named)} and 2 more")


# ---- files --------------------------------------------------------------------------------------------


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("compressm_cli.runs.folder.os.fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


UNKNOWN = [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS]
FAILED = [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS]


def answering(
    call: Callable[..., Any], code: int, concerns: Callable[..., bool], calls: list[int]
) -> Callable[..., Any]:
    """A call of the system that fails where it concerns what it is said to, and notes that it did."""

    def answers(target: Any, *rest: Any) -> Any:
        if concerns(target):
            calls.append(code)
            raise OSError(code, os.strerror(code))
        return call(target, *rest)

    return answers


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


@pytest.mark.parametrize("code", [*UNKNOWN, errno.EBADF])
def test_a_file_system_that_brings_no_folder_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", answering(os.fsync, code, is_folder, calls))
    write_atomically(tmp_path / "file", b"all")
    assert calls == [code]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"all"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EISDIR])
def test_a_folder_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(os, "open", answering(os.open, code, lambda path: path == tmp_path, calls))
    write_atomically(tmp_path / "file", b"all")
    assert calls == [code]
    assert (tmp_path / "file").read_bytes() == b"all"


@pytest.mark.parametrize("code", UNKNOWN)
def test_a_file_system_that_brings_nothing_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    run, calls = started(tmp_path), []  # type: ignore[var-annotated]
    monkeypatch.setattr(os, "fsync", answering(os.fsync, code, lambda _: True, calls))
    run.append_metrics({"step": 1})
    run.write_info({"status": "done"})
    run.sync_logs()
    assert calls == [code] * 3
    assert run.read_info() == {"status": "done"}
    assert run.read_metrics() == [{"step": 1}]


@pytest.mark.parametrize("code", FAILED)
@pytest.mark.parametrize("folder", [True, False])
def test_a_disk_that_fails_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, folder: bool
) -> None:
    monkeypatch.setattr(os, "fsync", answering(os.fsync, code, lambda d: is_folder(d) is folder, []))
    with pytest.raises(OSError) as caught:
        write_atomically(tmp_path / "file", b"all")
    assert caught.value.errno == code
    assert caught.value.filename == str(tmp_path if folder else tmp_path / "file")
    assert (tmp_path / "file").exists() is folder


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for code in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
        monkeypatch.setattr(os, "symlink", answering(os.symlink, code, lambda _: True, calls := []))  # type: ignore[var-annotated]
        Run.create(tmp_path, "one")
        assert calls == [code]
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == [f"v000{i}" for i in range(1, 5)]


def test_info_and_summary_come_back(tmp_path: Path) -> None:
    run = started(tmp_path)
    assert run.read_info() == {"status": "running"}
    with pytest.raises(BadInputError, match="has not finished"):
        run.read_summary()
    run.write_summary({"seed": 1})
    assert run.read_summary() == {"seed": 1}


def test_a_value_that_is_not_a_number_never_reaches_a_file(tmp_path: Path) -> None:
    run = started(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append_metrics({"step": 1, "train_loss": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_summary({"loss": float("inf")})
    assert run.read_metrics() == []


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "\xff", "[" * 100_000, f'{{"steps": {"1" * 5000}}}'])
def test_a_damaged_file_is_bad_input(tmp_path: Path, content: str) -> None:
    run = started(tmp_path)
    (run.folder / "summary.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BadInputError, match=r"summary\.json: "):
        run.read_summary()


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    run = started(tmp_path)
    for step in (1, 2):
        run.append_metrics({"step": step})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train_lo')
    assert run.read_metrics() == [{"step": 1}, {"step": 2}]
    assert run.read_compression() == []


@pytest.mark.parametrize("line", [b"\xff", b'{"st', b"\0\0", b"[" * 100_000, b'{"step": %s}' % (b"1" * 5000)])
def test_a_damaged_line_before_others_is_told_and_nothing_forgotten(tmp_path: Path, line: bytes) -> None:
    run, path = started(tmp_path), tmp_path / "one" / "v0001" / "metrics.jsonl"
    run.append_metrics({"step": 1})
    with path.open("ab") as file:
        file.write(line + b"\n")
    run.append_metrics({"step": 2})
    before = path.read_bytes()
    for read in (run.read_metrics, lambda: run.forget_after(5)):
        with pytest.raises(
            BadInputError, match=r"metrics\.jsonl:2: cannot be read: .*mend the line, or delete it"
        ):
            read()
    assert path.read_bytes() == before


def test_what_is_kept_of_a_log_stays_as_it_is(tmp_path: Path) -> None:
    run, path = started(tmp_path), tmp_path / "one" / "v0001" / "metrics.jsonl"
    path.write_text('{"step":1, "train_loss": NaN}\n{"step": 2}\n{"step": 3}\n', encoding="utf-8")
    run.forget_after(2)
    assert path.read_text(encoding="utf-8") == '{"step":1, "train_loss": NaN}\n{"step": 2}\n'


@pytest.mark.parametrize(("key", "value"), [("resumed", 3), ("resumed", {}), ("device", [1]), ("git", "a")])
def test_a_damaged_entry_of_its_beginnings_is_told(tmp_path: Path, key: str, value: Any) -> None:
    run = started(tmp_path)
    run.write_info({"status": "running", key: value})
    with pytest.raises(BadInputError, match=rf"run\.json: {key} must be a (list|mapping) or null, found "):
        run.read_info()


def test_later_lines_are_forgotten(tmp_path: Path) -> None:
    run = started(tmp_path)
    for step in (1, 5, 9):
        run.append_metrics({"step": step})
        run.append_compression({**EARLIER, "step": step})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"st')
    run.forget_after(5)
    assert run.read_metrics() == [{"step": 1}, {"step": 5}]
    assert [line["step"] for line in run.read_compression()] == [1, 5]
    run.append_metrics({"step": 6})
    assert [json.loads(t)["step"] for t in (run.folder / "metrics.jsonl").read_text().splitlines()] == [
        1,
        5,
        6,
    ]


def test_the_lines_of_an_undecided_check_are_forgotten_too(tmp_path: Path) -> None:
    run = started(tmp_path)
    for step in (1, 5, 9):
        run.append_metrics({"step": step})
        run.append_compression({**EARLIER, "step": step})
    run.forget_after(9, undecided=5)
    assert [line["step"] for line in run.read_metrics()] == [1, 5, 9]
    assert [line["step"] for line in run.read_compression()] == [1, 9]


def test_forgetting_in_an_empty_folder(tmp_path: Path) -> None:
    run = started(tmp_path)
    run.forget_after(0)
    assert run.read_metrics() == []


def test_checkpoints_to_resume_from_are_in_order(tmp_path: Path) -> None:
    run = started(tmp_path)
    for step in (1000, 5, 200):
        run.last_checkpoint(step).write_bytes(b"")
    run.best_checkpoint.write_bytes(b"")
    assert run.last_checkpoints() == [run.last_checkpoint(step) for step in (5, 200, 1000)]


LINE: dict[str, Any] = {
    "step": 1,
    "unit": "a:states",
    "kind": "state",
    "before": 3,
    "after": 2,
    "accepted": True,
}
EARLIER: dict[str, Any] = {
    "step": 1,
    "layer": "a",
    "order_before": 3,
    "order_after": 2,
    "accepted": None,
    "hsv": [1.0, 0.5],
}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"step": 1}, "layer is missing"),
        ({**LINE, "unit": 3}, "unit must be text, found the number 3"),
        ({**LINE, "after": "x"}, "after must be a whole number, found the text 'x'"),
        ({**LINE, "before": -1}, "before must be a whole number, found the number -1"),
        ({key: LINE[key] for key in LINE if key != "accepted"}, "accepted is missing"),
        ({**LINE, "accepted": [1]}, "accepted must be true, false or null, found a list"),
        ({**EARLIER, "order_after": None}, "order_after must be a whole number, found nothing"),
        ({**EARLIER, "hsv": [1.0, "x"]}, "hsv must be a list of numbers, found a list"),
    ],
)
def test_a_line_about_a_check_says_what_was_looked_at(
    tmp_path: Path, line: dict[str, Any], message: str
) -> None:
    run = Run.create(tmp_path, "run")
    for good in (LINE, EARLIER, line):
        run.append_compression(good)
    with pytest.raises(BadInputError) as caught:
        run.read_compression()
    place = run.folder / "compression.jsonl"
    assert str(caught.value).startswith(f"{place}:3: {message}")
    assert "the run's record is damaged: mend the line, or delete it" in str(caught.value)
    told: list[str] = []
    run_plots(run, told.append)
    assert len(told) == 1
    assert f"({place}:3: {message}" in told[0]
