"""What commands say, wherever in the package it is written."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import compressm_cli
from compressm_cli.core.errors import command

ROOT = Path(compressm_cli.__file__).parent


def texts_with_values() -> Iterator[tuple[str, str]]:
    """Where and how texts are put together: a value in them is ``\\0``."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else "\0" for p in node.values]
                yield f"{path.relative_to(ROOT)}:{node.lineno}", "".join(parts)


def test_commands_with_values_in_them_are_quoted_by_one_function() -> None:
    unquoted = [
        (where, text) for where, text in texts_with_values() if re.search(r"compressm [a-z].*\0", text)
    ]
    assert not unquoted, "use errors.command"


def test_a_command_is_quoted_for_a_shell() -> None:
    assert command("train", "--resume", Path("outputs/My Run/v0001")) == (
        "compressm train --resume 'outputs/My Run/v0001'"
    )
    assert command("recipes", "list") == "compressm recipes list"
