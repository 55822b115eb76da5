"""Help: panels on a terminal, text in a pipe, and nothing that takes long to import."""

import subprocess
import sys

import pytest
from terminals import on_terminal

from compressm_cli.cli.main import COMMANDS, run

Capture = pytest.CaptureFixture[str]

GROUPED = {
    "train": ("Going on with a run",),
    "analyze": ("Figures",),
    "compress": ("How much is kept (one of them)",),
    "compare": ("Output", "Tolerances", "Inference speed"),
}
"""Panels of options, beside the one that every command has."""
EVERYWHERE = [
    *((name,) for name in COMMANDS),
    *(("recipes", name) for name in ("list", "show", "copy", "validate")),
]


@pytest.mark.parametrize("words", EVERYWHERE, ids=" ".join)
def test_in_a_pipe_help_is_text(words: tuple[str, ...], capsys: Capture) -> None:
    assert run([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert run([*words, "-h"]) == 0
    assert capsys.readouterr().out == text
    assert text.startswith(f"Usage: compressm {' '.join(words)} ")
    assert text.isascii()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "\nOptions:\n" in text
    for panel in GROUPED.get(words[-1], ()):
        assert f"\n{panel}:\n" in text
    # Types of Python say nothing to whoever calls a command.
    assert not any(kind in text for kind in ("<bool>", "<str>", "<path>", "<int", "list["))


@pytest.mark.parametrize("columns", [70, 80, 120])
def test_on_a_terminal_help_has_panels(columns: int) -> None:
    text = on_terminal(columns, "compare", "--help")
    for panel in ("Arguments", "Options", *GROUPED["compare"]):
        assert f"╭─ {panel} ─" in text
    for option in ("--tolerance-points", "--at-most", "--html", "METRIC=RATIO", "POINTS"):
        assert option in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= columns


def test_on_a_narrow_terminal_help_is_text() -> None:
    text = on_terminal(50, "compare", "--help")
    assert "--tolerance-points POINTS" in text
    assert "─" not in text


def test_panels_say_all_that_the_text_says(capsys: Capture) -> None:
    """No bracket in a help text is taken for markup, and lost."""
    for name in ("compare", "compress", "export"):
        run([name, "--help"])
        plain = capsys.readouterr().out.partition("Examples:")[0]
        shown = on_terminal(400, name, "--help")
        words = {word for word in plain.split() if word.isalpha() and word not in ("Usage",)}
        assert words <= set(shown.replace("[", " ").replace("]", " ").replace("│", " ").split())


@pytest.mark.parametrize(
    "name", [name for name in COMMANDS if name not in ("doctor", "recipes", "completion")]
)
def test_help_shows_how_it_is_called(name: str, capsys: Capture) -> None:
    run([name, "-h"])
    examples = capsys.readouterr().out.partition("Examples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith(f"    compressm {name} ") for line in examples)


def test_neither_help_nor_a_mistyped_word_waits_for_torch() -> None:
    words = [
        "--help",
        "train --help",
        "compare --help",
        "trian",
        "train --sedes 0",
        "compare --at-mots joules=1",
    ]
    # Typer validates values, once there are any, with pydantic.
    values = ["bench quickstart/baseline --repeats none", "export model.pt --to nowhere --output folder"]
    code = (
        "import sys\n"
        "from compressm_cli.cli import main\n"
        "heavy = {'torch', 'numpy', 'rich', 'matplotlib', 'datasets'}\n"
        f"for lines, absent in (({words!r}, heavy | {{'pydantic'}}), ({values!r}, heavy)):\n"
        "    for line in lines:\n"
        "        assert main.run(line.split()) == (0 if '--help' in line else 2), line\n"
        "        assert not absent & set(sys.modules), (line, absent & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
