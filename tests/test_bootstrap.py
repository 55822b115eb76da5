"""``bootstrap.py`` is started by whatever ``python3`` is there."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).parent.parent / "bootstrap.py"
NEEDS = "bootstrap: needs Python 3.11 or newer; this is "


def evaluated_annotations(tree: ast.AST) -> list[ast.expr]:
    """What Python evaluates when a file is run: annotations that are not quoted."""
    found: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            found.append(node.annotation)
    return [a for a in found if a is not None and not isinstance(a, ast.Constant)]


def test_an_old_python_can_read_it() -> None:
    """None need be at hand: the syntax is that of 3.6, and no annotation needs more than a name."""
    tree = ast.parse(BOOTSTRAP.read_text(encoding="utf-8"), feature_version=(3, 6))
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    needs_more = [a for a in evaluated_annotations(tree) if not isinstance(a, ast.Name | ast.Attribute)]
    assert [f"line {a.lineno}: {ast.unparse(a)}" for a in needs_more] == []


@pytest.mark.parametrize("version", [f"3.{minor}" for minor in range(6, 11)])
def test_an_old_python_is_told_so(version: str) -> None:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-V"], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no Python {version} here")
    done = subprocess.run([python, str(BOOTSTRAP), "test"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{NEEDS}{version}.")
    assert done.stderr.count("\n") == 1


def test_this_python_is_new_enough() -> None:
    done = subprocess.run([sys.executable, str(BOOTSTRAP)], capture_output=True, text=True, check=False)
    assert done.stderr.startswith("Make the environment in ``.venv`` and use it.")
