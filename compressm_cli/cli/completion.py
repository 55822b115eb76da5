"""``compressm completion``: the completion scripts of the shells."""

from typing import Annotated, Literal

import typer
from typer.completion import get_completion_script

from compressm_cli.cli.commands import Command

app = typer.Typer(add_completion=False)


@app.command(cls=Command)
def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")
    ],
) -> None:
    """Print the completion script of SHELL.

    bash: add to ~/.bashrc                   eval "$(compressm completion bash)"
    zsh:  add to ~/.zshrc                    eval "$(compressm completion zsh)"
    fish: add to ~/.config/fish/config.fish  compressm completion fish | source
    """
    typer.echo(get_completion_script(prog_name="compressm", complete_var="_COMPRESSM_COMPLETE", shell=shell))
