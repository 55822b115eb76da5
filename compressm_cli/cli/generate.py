"""``compressm generate``: a language model writes on from a prompt."""

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Device, Model, Plugins, share
from compressm_cli.cli.streams import is_lost
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.standard_input import standard_input
from compressm_cli.core.text import is_writable, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compressm_cli.engine.generation import Piece

SAMPLING = "How tokens are drawn"

app = typer.Typer(add_completion=False)


def _finite(value: float) -> float:
    if value == float("inf"):
        raise typer.BadParameter(f"{value} is no number to divide by")
    return value


def _texts(values: list[str] | None) -> list[str] | None:
    if values is not None and not all(values):
        raise typer.BadParameter("an empty text is found everywhere; give one character at least")
    return values


Prompts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", help="What the text goes on from. Several are written at once, as JSON lines."
    ),
]
PromptFiles = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="A file with the prompt, UTF-8, or - for standard input. May be given several times.",
        autocompletion=candidates.files,
    ),
]
Tokens = Annotated[int, typer.Option(metavar="N", min=1, help="Tokens to write, at most.")]
Stops = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", callback=_texts, help="End before this text. May be given several times."),
]
Temperature = Annotated[
    float,
    typer.Option(
        metavar="T",
        min=0.0,
        callback=_finite,
        help="What logits are divided by; 0 takes the most probable token.",
        rich_help_panel=SAMPLING,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        metavar="K", min=1, help="Draw from the K most probable tokens alone.", rich_help_panel=SAMPLING
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        callback=share,
        help="Draw from the fewest tokens alone that have this probability together.",
        rich_help_panel=SAMPLING,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        max=2**63 - 1,
        help="Of the draws: the same gives the same text to a prompt, alone or beside others.",
        rich_help_panel=SAMPLING,
    ),
]


@app.command(
    cls=Command,
    epilog=examples(
        "compressm generate outputs/my-text --prompt 'Once upon'",
        "compressm generate outputs/my-text --prompt A --prompt B --tokens 50",
        "compressm generate outputs/my-text --prompt-file a.txt --temperature 0",
    ),
)
def generate(
    model: Model,
    prompt: Prompts = None,
    prompt_file: PromptFiles = None,
    tokens: Tokens = 200,
    stop: Stops = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = 0,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = "auto",
    plugin: Plugins = None,
) -> None:
    """Let a language model write on from a prompt, as it comes.

    Each token takes the same time and memory, however long the text is. One prompt and what follows it are written to
    standard output as text; of several each is a line {"prompt", "text", "end"} when all are done.
    """
    prompts = _prompts(prompt or [], prompt_file or [])
    from compressm_cli.engine.generation import Writer
    from compressm_cli.engine.sampling import Sampling
    from compressm_cli.reports import open_model

    checkpoint, chosen = open_model(model)
    console.tell(f"{model}: {chosen}")
    writer = Writer(checkpoint, device)
    begun = perf_counter()
    pieces = writer(prompts, tokens, Sampling(temperature, top_k, top_p), seed, stop or [])
    for remark in writer.remarks:
        console.warn(remark)
    _stream(prompts[0], pieces) if len(prompts) == 1 else _lines(prompts, pieces)
    seconds = perf_counter() - begun
    console.tell(f"{writer.written:,} tokens in {seconds:.1f} s, {writer.written / seconds:,.0f} a second")


def _prompts(given: list[str], files: list[Path]) -> list[str]:
    if bool(given) == bool(files):
        raise BadInputError("give --prompt TEXT or --prompt-file FILE, one of them")
    if files.count(Path("-")) > 1:
        raise BadInputError("--prompt-file - is given twice; standard input is read once")
    for prompt in given:
        if not is_writable(prompt):
            raise BadInputError(f"--prompt {shorten(prompt)}: not UTF-8 text; write it as UTF-8")
    return given or [_prompt(file) for file in files]


def _prompt(file: Path) -> str:
    """The text of a file."""
    from compressm_cli.data.sources.text import plain_text

    try:
        content = standard_input().read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise BadInputError(f"--prompt-file {file}: cannot be read: {error.strerror}") from error
    return plain_text(content, f"--prompt-file {file}").decode("utf-8")


def _stream(prompt: str, pieces: "Iterator[Piece]") -> None:
    console.write(prompt)
    for piece in pieces:
        console.write(piece.text)
        sys.stdout.flush()
        if is_lost(sys.stdout):  # nobody reads on, as behind a pipe to head
            break
    typer.echo()


def _lines(prompts: list[str], pieces: "Iterator[Piece]") -> None:
    texts, ends = [""] * len(prompts), [""] * len(prompts)
    for piece in pieces:
        texts[piece.prompt] += piece.text
        ends[piece.prompt] = piece.end or ""
    for prompt, text, end in zip(prompts, texts, ends, strict=True):
        typer.echo(json.dumps({"prompt": prompt, "text": text, "end": end}))
