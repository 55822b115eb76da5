"""A plug-in's package, installed into a folder of its own as pip would, without pip, a network or a build backend."""

import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

from compressm_cli import plugins
from compressm_cli.models import NETWORKS

EXAMPLE = Path(__file__).parent / "example_plugin"


def install(source: Path, target: Path) -> Path:
    """Put the packages of a ``pyproject.toml`` and their metadata into ``target``, which is to be on ``sys.path``."""
    told = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
    project = told["project"]
    for package in told["tool"]["setuptools"]["packages"]:
        shutil.copytree(source / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    points = project.get("entry-points", {})
    return write_metadata(
        target, project["name"], project["version"], points, told["tool"]["setuptools"]["packages"]
    )


def write_metadata(
    target: Path, name: str, version: str, points: dict[str, dict[str, str]], packages: list[str]
) -> Path:
    """What an installed distribution is known by."""
    folder = target / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )
    groups = (
        f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in them.items()) for group, them in points.items()
    )
    (folder / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    (folder / "top_level.txt").write_text("".join(f"{package}\n" for package in packages), encoding="utf-8")
    (folder / "INSTALLER").write_text("the tests\n", encoding="utf-8")
    (folder / "RECORD").write_text("", encoding="utf-8")
    return target


def examples(subject: str) -> dict[str, dict[str, Any]]:
    """Settings for small models that the plug-ins of this test session have in ``EXAMPLES``, by name."""
    entries = [entry for registry in plugins.REGISTRIES for entry in registry.entries().values()]
    modules = {entry.origin.module for entry in entries if entry.origin is not None}
    found: dict[str, dict[str, Any]] = {}
    for module in modules:
        found |= getattr(sys.modules[module], "EXAMPLES", {}).get(subject, {})
    return found


@contextmanager
def on_path(folder: Path, *packages: str) -> Iterator[None]:
    """What lies in ``folder`` can be imported meanwhile; afterwards nothing of it is loaded, or registered."""
    registries = (*plugins.REGISTRIES, NETWORKS)
    before = [registry.entries() for registry in registries]
    path = list(sys.path)
    sys.path.insert(0, str(folder))
    invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        for registry, entries in zip(registries, before, strict=True):
            registry.restore(entries)
        plugins.origins.LOADED.clear()
        plugins.importing.BROKEN.clear()
        plugins.origins.WARNED.clear()
        plugins.origins.EXPECTED.clear()
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]
