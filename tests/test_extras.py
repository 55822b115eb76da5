"""What ``pip install 'compressm[NAME]'`` brings is there for code that uses it."""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

import compressm_cli

ROOT = Path(compressm_cli.__file__).parent
EXTRAS = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
"""Name -> requirements."""


@cache
def imported() -> set[str]:
    """The first part of the names of all modules that the package imports anywhere."""
    names: set[str] = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(str(node.module))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)  # of importlib.import_module
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"test"}))
def test_each_extra_has_code(extra: str) -> None:
    modules = {re.split(r"[<>=\[ ]", requirement)[0].replace("-", "_") for requirement in EXTRAS[extra]}
    assert modules & imported(), f"nothing in the package imports {' or '.join(sorted(modules))}"
