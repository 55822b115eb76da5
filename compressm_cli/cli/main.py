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
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem, get_completion_class

from compressm_cli import __version__
from compressm_cli.cli.console import report_error
from compressm_cli.errors import CompressmError, ElsewhereError
from compressm_cli.recipe.problems import RecipeError
from compressm_cli.training.failures import is_out_of_memory, out_of_memory

COMMANDS = {
    "train": ("compressm_cli.cli.train:train", "Train a model by a recipe, compressing it meanwhile."),
    "analyze": ("compressm_cli.cli.analyze:analyze", "Show the Hankel spectrum of a checkpoint or run."),
    "compress": ("compressm_cli.cli.compress:compress", "Cut the states of a trained model, in one shot."),
    "compare": ("compressm_cli.cli.compare:compare", "Compare runs: accuracy, orders, size, speed, joules."),
    "bench": (
        "compressm_cli.cli.bench:bench",
        "Time a recipe's training step and inference on this machine.",
    ),
    "export": (
        "compressm_cli.cli.export:export",
        "Write a model for transformers, mamba-ssm or safetensors.",
    ),
    "recipes": ("compressm_cli.cli.recipes:recipes", "List, show, copy and validate recipes."),
    "doctor": ("compressm_cli.cli.doctor:doctor", "Show what this machine offers and what will be used."),
    "completion": ("compressm_cli.cli.main:completion", "Print the completion script of a shell."),
}
"""Name -> where the command is, and its line in the help text."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they run, not to be listed or completed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
            suggestion = f"did you mean {close[0]!r}?" if close else f"the commands are {', '.join(COMMANDS)}"
            raise click.UsageError(f"unknown command {name!r}; {suggestion}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        items = [
            CompletionItem(name, help=summary)
            for name, (_, summary) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return items + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="compressm %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Train sequence models that shrink while they learn.

    Start with: compressm train quickstart/compressed
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: add to ~/.bashrc                   eval "$(compressm completion bash)"
    zsh:  add to ~/.zshrc                    eval "$(compressm completion zsh)"
    fish: add to ~/.config/fish/config.fish  compressm completion fish | source
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    click.echo(kind(cli, {}, "compressm", "_COMPRESSM_COMPLETE").source())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (by default that of the process); returns the exit code."""
    try:
        result: Any = cli.main(arguments, prog_name="compressm", standalone_mode=False)
        sys.stdout.flush()
    except Exception as error:
        return _failed(error)
    except KeyboardInterrupt:
        return _interrupted()
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """The console script."""
    # Read when PyTorch is loaded. A thread that waits by spinning keeps the others of a busy machine from their work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    sys.exit(run())


def _failed(error: Exception) -> int:
    """Tell what went wrong, on stderr; returns the exit code."""
    if isinstance(error, ElsewhereError):
        return error.exit_code
    if isinstance(error, RecipeError) and len(error.problems) > 1:
        report_error(f"{error.count} errors in the recipe", str(error))
        return error.exit_code
    if isinstance(error, CompressmError):
        report_error(str(error))
        return error.exit_code
    if isinstance(error, click.exceptions.Abort):
        return _interrupted()
    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx else "compressm"
        report_error(error.format_message(), f"see '{command} --help'")
        return 2
    if isinstance(error, click.ClickException):
        report_error(error.format_message())
        return error.exit_code
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return _reader_gone()
    if is_out_of_memory(error):
        report_error(out_of_memory(error))
        return 1
    return _unexpected(error)


def _interrupted() -> int:
    report_error("interrupted")
    return 130


def _reader_gone() -> int:
    """Whoever read our output has stopped (``| head``): nothing to say, and nobody to say it to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


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
