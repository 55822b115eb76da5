"""Streams that are full, closed, gone, or of an encoding with few characters: commands do their work all the same."""

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from terminals import on_terminal

from compressm_cli.cli.main import run
from compressm_cli.cli.streams import REPLACEMENTS, Stream, guarded, shown_in
from compressm_cli.render.plain_view import make_view
from compressm_cli.runs.folder import Run

RHYTHM = ["train.steps=8", "train.eval_every=4", "train.checkpoint_every=4"]
TINY = [*RHYTHM, "model.model_dim=4", "model.layer.state_dim=4", "device=cpu"]
TRAINING = ["train", "quickstart/compressed", *TINY, "seeds=[0,1]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run."""
    root = tmp_path_factory.mktemp("outputs")
    assert run(["train", "quickstart/compressed", *TINY, "seeds=0", f"output.root={root}", "--quiet"]) == 0
    return Run.newest(root / "quickstart-compressed").folder


@pytest.fixture
def commands(trained: Path, tmp_path: Path) -> Callable[[], list[list[str]]]:
    """One line of each command that prints something; each time anew, since some write files."""
    turn = iter(range(1000))

    def lines() -> list[list[str]]:
        place = tmp_path / str(next(turn))
        place.mkdir()
        model = str(trained)
        return [
            ["--help"],
            ["--version"],
            ["recipes", "list"],
            ["recipes", "show", "quickstart/baseline"],
            ["recipes", "validate", "quickstart/baseline"],
            ["recipes", "copy", "quickstart/baseline", str(place / "copied.yaml")],
            ["recipes", "schema"],
            ["completion", "zsh"],
            ["doctor"],
            ["train", "quickstart/compressed", *TINY, "seeds=0", f"output.root={place / 'runs ü→'}"],
            ["train", "quickstart/compressed", *TINY, "--dry-run"],
            ["analyze", model, "--no-plots"],
            ["analyze", model, "--no-plots", "--json"],
            ["compress", model, "--order", "2", "--output", str(place / "ü→.pt")],
            ["compare", model, model, "--no-speed"],
            ["compare", model, model, "--no-speed", "--markdown"],
            ["export", model, "--to", "safetensors", "--output", str(place / "ü→")],
        ]

    return lines


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_command_prints_in_any_encoding(
    encoding: str, commands: Callable[[], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in commands():
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = run(line)
        out.flush()
        err.flush()
        assert code == 0, (line, err.buffer.getvalue())  # type: ignore[attr-defined]
        shown = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        assert shown
        assert out.errors == "strict"
        if line[0] == "analyze" and "--json" not in line:
            charts = [text for text in shown.splitlines() if " |" in text]
            assert any(("█" if encoding == "utf-8" else "#") in text for text in charts)
            assert "?" not in "".join(charts)
        if encoding == "ascii" and "--markdown" not in line:
            assert "\\u25" not in shown  # blocks and lines have characters of their own


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("kind", ["full", "closed", "none"])
def test_results_that_cannot_be_printed_are_told(
    kind: str,
    commands: Callable[[], list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for line in commands():
        with monkeypatch.context() as patch:
            stream = None if kind == "none" else open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115
            if stream is not None and kind == "closed":
                stream.close()
            patch.setattr(sys, "stdout", stream)
            assert run(line) == 1, line
        if stream is not None:
            stream.close()
        told = capsys.readouterr().err.splitlines()
        reason = {"full": "No space left on device", "none": "it is closed"}.get(
            kind, "I/O operation on closed file."
        )
        assert told[-1].startswith(f"error: standard output: cannot be written: {reason}; "), line
        assert not any(text.startswith("error: ") for text in told[:-1])


SIZES = [
    {"COLUMNS": value} for value in ("0", "-5", "1", "abc", "", "1e3", "\N{SUPERSCRIPT TWO}", "9" * 5000)
]
SIZES += [{"LINES": value} for value in ("0", "-5", "abc", "")]


def test_a_size_that_nothing_can_be_shown_in_counts_as_not_given(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (
        ["recipes", "list"],
        ["analyze", str(trained), "--no-plots"],
        ["compare", *[str(trained)] * 2, "--no-speed"],
    )

    def shown(size: dict[str, str]) -> list[str]:
        for name in ("COLUMNS", "LINES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in size.items():
            monkeypatch.setenv(name, value)
        codes = [run(line) for line in lines]
        make_view(sys.stderr).finish(Run(trained).read_summary())
        found = capsys.readouterr()
        assert codes == [0, 0, 0]
        return [found.out, found.err]

    expected = shown({})
    for size in SIZES:
        assert shown(size) == expected, size


def test_help_on_a_terminal_that_tells_no_size() -> None:
    assert "--resume" in on_terminal(0, "train", "--help")


def whole(root: Path) -> bool:
    """Whether the runs of two seeds are there, and done."""
    runs = Run.find(root / "quickstart-compressed")
    assert {run.read_info()["status"] for run in runs} == {"done"}
    return [run.read_summary()["seed"] for run in runs] == [0, 1]


@pytest.mark.slow
def test_a_run_is_trained_to_its_end_without_any_stream(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "compressm_cli", *TRAINING, f"output.root={tmp_path}"]
    script = '"$@" <&- >&- 2>&-'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120
    )
    assert done.returncode == 1
    assert whole(tmp_path)


IN_STREAMS = """
import json, os, runpy, sys
import matplotlib.backends.backend_agg, matplotlib.figure, torch._dynamo  # with the first figure and optimizer
import compressm_cli.engine.experiment, compressm_cli.render.plots

def unread():
    reading, writing = os.pipe()
    os.close(reading)
    return writing

def full():
    return os.open("/dev/full", os.O_WRONLY)

def kept(name):
    return os.open(name, os.O_WRONLY | os.O_CREAT)

def begun(name, out, err):
    number = os.fork()
    if number == 0:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)
        sys.stderr = sys.__stderr__ = open(2, "w", closefd=False, errors="backslashreplace")
        sys.argv[1:] = [*sys.argv[1:], f"output.root={name}"]
        runpy.run_module("compressm_cli", run_name="__main__", alter_sys=True)
    return name, number

found = [
    begun("full", full(), kept("full.err")),
    begun("unread", unread(), kept("unread.err")),
    begun("untold", kept("untold.out"), unread()),
]
codes = {name: os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for name, number in found}
print(json.dumps(codes))
"""
"""Python that becomes ``compressm`` several times, each time with other streams; it ends as an interpreter does."""


@pytest.fixture(scope="module")
def in_streams(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Where runs were trained, each below the name of its streams, and their exit codes."""
    folder = tmp_path_factory.mktemp("streams")
    done = subprocess.run(
        [sys.executable, "-c", IN_STREAMS, *TRAINING],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    return folder, json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(("streams", "code", "errors"), [("full", 1, 1), ("unread", 1, 0), ("untold", 0, 0)])
def test_a_run_is_trained_to_its_end_whoever_reads(
    streams: str, code: int, errors: int, in_streams: tuple[Path, dict[str, int]]
) -> None:
    """With a full standard output, with one that nobody reads any more, and with such a standard error."""
    folder, codes = in_streams
    assert codes[streams] == code
    assert whole(folder / streams)
    if streams == "untold":
        assert len((folder / "untold.out").read_text().splitlines()) == 2
        return
    told = (folder / f"{streams}.err").read_text()
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    assert len([line for line in told.splitlines() if line.startswith("error")]) == errors


def test_a_run_goes_on_when_its_terminal_is_gone(tmp_path: Path) -> None:
    words = [
        *TRAINING,
        "train.steps=100",
        "train.checkpoint_every=50",
        f"output.root={tmp_path}",
    ]
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "compressm_cli", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=child,
        env={**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"},
    )
    os.close(child)
    os.read(parent, 1)  # the view has begun
    os.close(parent)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(out.splitlines()) == 2
    assert whole(tmp_path)


def test_characters_have_stand_ins() -> None:
    assert shown_in("95.3 ± 0.8 µs", "ascii") == "95.3 +/- 0.8 us"
    assert shown_in("95.3 ± 0.8 µs →", "latin-1") == "95.3 ± 0.8 µs ->"
    assert shown_in("▁█ 語", "utf-8") == "▁█ 語"
    assert all(text.isascii() and text.isprintable() for text in REPLACEMENTS.values())
    blocks = "▁▂▃▄▅▆▇█"
    assert len({REPLACEMENTS[sign] for sign in blocks}) == 8


def test_a_stream_keeps_what_it_cannot_say_readable() -> None:
    inner = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    stream = Stream(inner)
    print("語 ± \udcff \ud800", file=stream, flush=True)  # type: ignore[call-overload]
    assert inner.buffer.getvalue() == b"\\u8a9e +/- \xff \\ud800\n"  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="text is written here"):
        stream.write(b"bytes")  # type: ignore[arg-type]
    assert not hasattr(stream, "buffer")


def test_what_cannot_be_written_is_dropped_once_and_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        tries = 0

        def write(self, text: str) -> int:
            self.tries += 1
            raise BrokenPipeError(32, "Broken pipe")

    broken = Broken()
    monkeypatch.setattr(sys, "stdout", broken)
    with guarded() as out:
        assert out.failure is None
        print("lost")
        print("and this", flush=True)
    assert out.failure is not None
    assert out.failure.errno == 32
    assert broken.tries == 1
    assert sys.stdout is broken
