"""Who imports whom. The parts stay apart because this test says so."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import compressm_cli

PACKAGE = "compressm_cli"
ROOT = Path(compressm_cli.__file__).parent

# Part -> parts it stands directly on. It may import those, whatever these stand on, and what is COMMON.
ARROWS: dict[str, set[str]] = {
    "lti": set(),
    "ops": set(),
    "runs": set(),
    "data": set(),
    "layers": {"ops", "lti"},
    "models": {"layers"},
    "structure": {"layers"},
    "methods": {"structure"},
    "objectives": {"data"},
    "plugins": {"objectives", "methods", "models"},
    "recipe": {"plugins"},
    "checkpoint": {"recipe"},
    "measure": {"objectives"},
    "exchange": {"checkpoint", "runs"},
    "engine": {"exchange", "measure", "pruning"},
    "pruning": {"methods", "measure"},
    "compressor": {"methods"},
    "sweeps": {"engine"},
    "studies": {"sweeps", "reports"},
    "reports": {"sweeps"},
    "integrations": {"reports"},
    "render": {"studies"},
    "cli": {"render", "engine", "recipe", "integrations"},
}

# Part -> part -> the modules of it that may be imported from there.
NARROW: dict[tuple[str, str], str | tuple[str, ...]] = {
    ("structure", "layers"): "layers.interface",
    ("methods", "layers"): ("layers.interface", "layers.time_invariant", "layers.selective"),
    ("checkpoint", "data"): ("data.interface", "data.encodings"),
    ("engine", "exchange"): (
        "exchange.folders",
        "exchange.loading",
        "exchange.places",
        "exchange.saving_folders",
    ),
    ("measure", "data"): "data.interface",
    ("objectives", "data"): "data.interface",
    ("reports", "data"): ("data.interface", "data.encodings"),
}

COMMON = {"core"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@cache
def imported(path: Path) -> set[str]:
    """Modules of this package, without its name, that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n if is_module(n.removeprefix(f"{PACKAGE}.")) else str(node.module) for n in names}
    return {name.removeprefix(f"{PACKAGE}.") for name in found if name.startswith(f"{PACKAGE}.")}


def part_of(name: str) -> str:
    return name.split(".")[0]


def reachable(part: str) -> set[str]:
    """The part itself and everything below it."""
    return {part}.union(*(reachable(below) for below in ARROWS[part]))


def is_allowed(part: str, target: str) -> bool:
    other = part_of(target)
    if other in COMMON or other == part:
        return True
    return other in reachable(part) and target.startswith(NARROW.get((part, other), other))


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py")) if module_name(path)}


def test_every_part_is_ruled() -> None:
    assert {part_of(name) for name in MODULES} == set(ARROWS) | COMMON | {"__main__"}


@pytest.mark.parametrize("part", [*ARROWS, *sorted(COMMON)])
def test_imports_go_one_way(part: str) -> None:
    mine = {name: path for name, path in MODULES.items() if part_of(name) == part}
    assert mine, f"no module in {part}"
    wrong = [
        f"{name} imports {target}"
        for name, path in mine.items()
        for target in sorted(imported(path))
        if not (part_of(target) in COMMON if part in COMMON else is_allowed(part, target))
    ]
    assert not wrong


def test_models_know_nothing_of_compression() -> None:
    assert reachable("models") == {"models", "layers", "ops", "lti"}
    assert reachable("methods") == {"methods", "structure", "layers", "ops", "lti"}


def drawn_arrows() -> list[tuple[str, str]]:
    text = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^ +(\w+) --> (\w+)$", text, flags=re.MULTILINE)


def test_behind_each_arrow_is_an_import() -> None:
    made = {(part_of(name), part_of(target)) for name, path in MODULES.items() for target in imported(path)}
    arrows = drawn_arrows() + [(part, below) for part, those in ARROWS.items() for below in those]
    assert arrows
    assert [arrow for arrow in arrows if arrow not in made] == []


def test_the_picture_in_the_documentation_is_this_one() -> None:
    drawn = drawn_arrows()
    assert len(drawn) == len(set(drawn))
    closure = {(part, below) for part in ARROWS for below in reachable(part) - {part}}
    assert set(drawn) <= closure
    direct = {(a, b) for a, b in closure if not any((a, m) in closure and (m, b) in closure for m in ARROWS)}
    assert direct <= set(drawn)


def test_the_command_line_starts_without_torch_and_pydantic() -> None:
    code = (
        "import sys, compressm_cli.cli.main; "
        "print([m for m in ('torch', 'pydantic', 'numba', 'datasets', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
