"""The console script ``compressm``: finds the command, runs it, and turns what happened into an exit code.

Exit codes: 0 done, 1 the run failed, 2 bad input, 130 interrupted, 143 and 138 ended by SIGTERM and SIGUSR1.
Commands are imported when they run, so that ``--help`` need not wait for torch.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.main import get_command

from compressm_cli import __version__
from compressm_cli.cli.commands import Command, Group
from compressm_cli.cli.console import report_error, settle_size, tell, warn
from compressm_cli.cli.streams import guarded
from compressm_cli.core.caches import settle_libraries
from compressm_cli.core.errors import CompressmError, ElsewhereError
from compressm_cli.core.invocation import INVOCATION
from compressm_cli.core.lifeline import hold_on
from compressm_cli.core.memory import is_out_of_memory
from compressm_cli.engine.failures import out_of_memory
from compressm_cli.engine.signals import StoppedError
from compressm_cli.recipe.problems import RecipeError

MODELS, MACHINE, MORE = "Models and runs", "This machine", "More"
COMMANDS = {
    "train": ("compressm_cli.cli.train", MODELS, "Train a model by a recipe, compressing it meanwhile."),
    "sweep": (
        "compressm_cli.cli.sweep",
        MODELS,
        "Train a recipe with many settings and seeds, some at a time.",
    ),
    "analyze": ("compressm_cli.cli.analyze", MODELS, "Show the Hankel spectrum of a checkpoint or run."),
    "evaluate": ("compressm_cli.cli.evaluate", MODELS, "Judge a trained model on a split, or on other data."),
    "eval": ("compressm_cli.cli.eval", MODELS, "Ask language models tasks such as HellaSwag; compare them."),
    "predict": ("compressm_cli.cli.predict", MODELS, "Say the classes or numbers of the rows of a file."),
    "generate": ("compressm_cli.cli.generate", MODELS, "Let a language model write on from a prompt."),
    "compress": ("compressm_cli.cli.compress", MODELS, "Cut the states of a trained model, in one shot."),
    "compare": ("compressm_cli.cli.compare", MODELS, "Compare runs: accuracy, orders, size, speed, joules."),
    "study": ("compressm_cli.cli.study", MODELS, "Compare compression with what else its cost could buy."),
    "runs": ("compressm_cli.cli.runs", MODELS, "List runs, and what came of them."),
    "bench": (
        "compressm_cli.cli.bench",
        MACHINE,
        "Time a recipe's training step and inference on this machine.",
    ),
    "export": (
        "compressm_cli.cli.export",
        MODELS,
        "Write a model for transformers, mamba-ssm or safetensors.",
    ),
    "recipes": ("compressm_cli.cli.recipes", MORE, "List, show, copy and validate recipes."),
    "doctor": ("compressm_cli.cli.doctor", MACHINE, "Show what this machine offers and what will be used."),
    "completion": ("compressm_cli.cli.completion", MORE, "Print the completion script of a shell."),
}
"""Name -> the module whose ``app`` it is, its panel and its line in the help text."""


class LazyGroup(Group):
    """Commands that are imported when they are called; to list them takes only what is said of them here."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (_, panel, summary) in COMMANDS.items():
            self.add_command(Command(name, help=summary, rich_help_panel=panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name = args[0]
        if name not in COMMANDS:
            if name.startswith("-"):
                return super().resolve_command(ctx, args)
            close = get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
            suggestion = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(COMMANDS)}"
            ctx.fail(f"unknown command {name!r}; {suggestion}")
        command = get_command(import_module(COMMANDS[name][0]).app)
        command.name = name
        return name, command, args[1:]


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        typer.echo(f"compressm {__version__}")
        raise typer.Exit


@app.callback()
def compressm(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train sequence models that shrink while they learn.

    Start with: compressm train quickstart/compressed
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (by default that of the process); returns the exit code."""
    settle_libraries()
    settle_size()
    words = list(sys.argv[1:] if arguments is None else arguments)
    INVOCATION.words, INVOCATION.plugins, INVOCATION.warn = words, [], warn
    with guarded() as out:
        code = _run(words)
        out.flush()
        return code if out.failure is None else _not_shown(out.failure, code)


def _run(words: list[str]) -> int:
    command = get_command(app)
    if "_COMPRESSM_COMPLETE" in os.environ:
        from compressm_cli.cli.completion import answer

        return answer(command)
    try:
        os.getcwd()
    except OSError as error:
        # Whatever comes later would fail of it, libraries without a word.
        report_error(f"the current folder: {error.strerror}; it was deleted or moved: change to another one")
        return 2
    try:
        with command.make_context("compressm", words) as ctx:
            command.invoke(ctx)
    except typer.Exit as wanted:
        return wanted.exit_code
    except Exception as error:
        return _failed(error, _called(error, words))
    except KeyboardInterrupt:
        return _interrupted()
    return 0


def main() -> NoReturn:
    """The console script."""
    hold_on()
    sys.exit(run())


def _failed(error: Exception, command: str) -> int:
    """Tell what went wrong in a command, on stderr; returns the exit code."""
    if isinstance(error, ElsewhereError):
        return error.exit_code
    if isinstance(error, RecipeError) and len(error.problems) > 1:
        report_error(f"{error.count} errors in the recipe", str(error))
        return error.exit_code
    if isinstance(error, StoppedError):  # as somebody wished
        tell(str(error))
        return error.exit_code
    if isinstance(error, CompressmError):
        report_error(str(error))
        return error.exit_code
    if isinstance(error, typer.TyperException):
        report_error(_usage(error), f"see '{command} --help'")
        return 2
    if is_out_of_memory(error):
        report_error(out_of_memory(error))
        return 1
    return _unexpected(error)


def _called(error: Exception, words: Sequence[str]) -> str:
    """The command that an error is about, such as ``compressm recipes show``."""
    if (ctx := getattr(error, "ctx", None)) is not None:
        return str(ctx.command_path)
    # Typer does not say it of an option without its value.
    return " ".join(["compressm", *(word for word in words[:1] if word in COMMANDS)])


def _usage(error: typer.TyperException) -> str:
    """What is wrong with the words of a command line, with the word itself, in one line."""
    if isinstance(error, typer.BadParameter) and error.__cause__ is not None:
        (wrong, *_) = error.__cause__.errors()  # type: ignore[attr-defined] # pydantic's, which Typer validates with
        if wrong["type"] in ("greater_than_equal", "less_than_equal"):
            low, high = getattr(error.param, "min", None), getattr(error.param, "max", None)
            bounds = f"{'' if low is None else f'{low}<='}x{'' if high is None else f'<={high}'}"
            error.message = f"{wrong['input']} is not in the range {bounds}"
        elif wrong["type"] == "value_error":
            error.message = str(wrong["ctx"]["error"])
        else:
            error.message = f"{wrong['input']!r}: {wrong['msg']}"
    return " ".join(error.format_message().split())


def _interrupted() -> int:
    tell("interrupted")
    return 130


def _not_shown(error: OSError, code: int) -> int:
    """Tell that results are lost, unless their reader has stopped (``| head``); returns the exit code."""
    if error.errno != errno.EPIPE:
        report_error(
            f"standard output: cannot be written: {error.strerror}; not all that was to be printed there is there, "
            "but whatever the command wrote to files is whole"
        )
    return code or 1


def _unexpected(error: Exception) -> int:
    if os.environ.get("COMPRESSM_TRACEBACK"):
        traceback.print_exception(error)
    summary = " ".join(str(error).split()) or "no message"
    report_error(
        f"unexpected {type(error).__name__}: {summary}; run again with COMPRESSM_TRACEBACK=1 to see where"
    )
    return 1


if __name__ == "__main__":
    main()
