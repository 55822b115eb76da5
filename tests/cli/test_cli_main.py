"""The entry point: lazy commands, exit codes, errors on stderr."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from compressm_cli import __version__
from compressm_cli.cli import main as main_module
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.engine.signals import EXIT_CODES, StoppedError
from compressm_cli.recipe.problems import Place, Problem, RecipeError


def compressm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "compressm_cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Lets ``run_raising`` put a command of its own in the place of ``doctor``."""
    monkeypatch.setitem(main_module.COMMANDS, "doctor", (__name__, "Panel", "A command of a test."))
    return monkeypatch


def run_raising(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command that raises ``error``."""

    replaced = typer.Typer(add_completion=False)

    @replaced.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(sys.modules[__name__], "app", replaced, raising=False)
    return main_module.run(["doctor"])


def test_help_is_fast() -> None:
    began = time.perf_counter()
    done = compressm("--help")
    seconds = time.perf_counter() - began
    assert done.returncode == 0
    assert seconds < 1.5
    for name, (_, panel, summary) in main_module.COMMANDS.items():
        assert name in done.stdout
        assert summary in done.stdout
        assert f"\n{panel}:\n" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from compressm_cli.cli import main\n"
        "assert main.run(['--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'rich', 'yaml', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_every_command_can_be_imported_and_has_the_help_that_is_listed() -> None:
    group = get_command(main_module.app)
    for name in main_module.COMMANDS:
        _, command, rest = group.resolve_command(typer.Context(group), [name, "word"])
        assert isinstance(command, TyperCommand | TyperGroup)
        assert rest == ["word"]
        assert command.name == name
        assert command.help


@pytest.mark.parametrize(
    "arguments", [["--version"], ["-h"], [], ["recipes"], ["recipes", "-h"], ["completion", "-h"]]
)
def test_done_is_zero(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main_module.run(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out
    assert captured.err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main_module.run(["--version"])
    assert capsys.readouterr().out == f"compressm {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "error: unknown command 'trian'; did you mean 'train'?"),
        (["zzz"], "error: unknown command 'zzz'; the commands are train, sweep, analyze,"),
        (["--zzz"], "error: No such option"),
        (["recipes", "show"], "error: Missing argument 'NAME'"),
        (["recipes", "zzz"], "error: No such command 'zzz'"),
        (["completion", "tcsh"], "'tcsh' is not one of"),
    ],
)
def test_bad_usage_is_two(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main_module.run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "--help'" in captured.err


def test_the_exit_code_of_the_process() -> None:
    done = compressm("trian")
    assert (done.returncode, done.stdout) == (2, "")


def test_bad_input_is_two(failing: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(BadInputError("no [bold]such file"), failing) == 2
    assert capsys.readouterr().err == "error: no [bold]such file\n"


def test_errors_of_a_recipe_have_a_line_each(
    failing: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = [Problem(Place("r.yaml", line, 1), ("a",), "wrong; write b") for line in (2, 1)]
    assert run_raising(RecipeError(problems), failing) == 2
    expected = "error: 2 errors in the recipe\nr.yaml:1:1: a: wrong; write b\nr.yaml:2:1: a: wrong; write b\n"
    assert capsys.readouterr().err == expected
    assert run_raising(RecipeError(problems[:1]), failing) == 2
    assert capsys.readouterr().err == "error: r.yaml:2:1: a: wrong; write b\n"


def test_a_failed_run_is_one(failing: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(RunFailedError("the loss is not finite at step 3"), failing) == 1
    assert capsys.readouterr().err == "error: the loss is not finite at step 3\n"


def test_the_unexpected_is_one_line(failing: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing.delenv("COMPRESSM_TRACEBACK", raising=False)
    assert run_raising(TypeError("a\nb"), failing) == 1
    error = capsys.readouterr().err
    assert error == "error: unexpected TypeError: a b; run again with COMPRESSM_TRACEBACK=1 to see where\n"
    failing.setenv("COMPRESSM_TRACEBACK", "1")
    assert run_raising(TypeError("a\nb"), failing) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupted_is_130(failing: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(KeyboardInterrupt(), failing) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("name", EXIT_CODES)
def test_a_stop_that_was_asked_for_is_no_error(
    name: str, failing: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(StoppedError(name, f"stopped by {name}; go on with"), failing) == EXIT_CODES[name]
    assert capsys.readouterr().err == f"stopped by {name}; go on with\n"


@pytest.mark.parametrize(
    "line", ["--help", "doctor", "recipes list", "train quickstart/baseline", "analyze x", "zzz"]
)
def test_a_current_folder_that_is_gone_is_told(line: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd "{gone}" && rmdir "{gone}" && exec {sys.executable} -m compressm_cli {line}'
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: the current folder: No such file or directory; it was deleted or moved: change to another one\n"
    )


def test_a_command_may_choose_its_exit_code(failing: pytest.MonkeyPatch) -> None:
    assert run_raising(typer.Exit(1), failing) == 1


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    script = f"{sys.executable} -m compressm_cli recipes show quickstart/baseline | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
