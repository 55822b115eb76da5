"""Plug-ins are imported: those that the user asked for, and those of installed packages."""

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import create_model

from compressm_cli.core.invocation import INVOCATION
from compressm_cli.core.registry import DuplicateNameError, Entry, Origin, Registry
from compressm_cli.core.text import error_line, one_line, shorten
from compressm_cli.models import NETWORKS
from compressm_cli.plugins.origins import (
    EXPECTED,
    LOADED,
    LOADING,
    MODULE,
    REGISTRIES,
    WARNED,
    all_known,
    note_sources,
    origin_of_entry,
    origin_of_module,
    package_of,
    warn_of_changes,
)
from compressm_cli.plugins.registration import PluginError, checked

GROUP = "compressm.plugins"
"""Of the entry points of installed packages: each names a module that registers classes when it is imported."""
IMPORT_PATH = re.compile(r"([A-Za-z]\w*(?:\.[A-Za-z]\w*)*):([A-Za-z]\w*)")
"""``package.module:Class``; what begins with an underscore is nobody's to name."""
OURS = (str(Path(__file__).parent), importlib.__file__)
"""Where a plug-in is imported from."""

BROKEN: dict[str, PluginError] = {}
"""Plug-ins of installed packages that cannot be imported, by module."""


def load(module: str) -> None:
    """Import a plug-in that the user asked for: its classes can be named, also as ``package.module:Class``.

    Where no such module is installed, one in the current folder is taken, with what it imports from there meanwhile.
    Raises PluginError where there is none, or
    its import fails.
    """
    if module in LOADED:
        return
    package = package_of(module)
    if not MODULE.fullmatch(module):
        raise PluginError(f"--plugin {shorten(module)}: write the name of a module, such as my_package")
    if find_spec(package) is not None:
        entry = _installed().get(module)
        _import(module, origin_of_entry(entry) if entry else origin_of_module(module))
        return
    here = Path.cwd()
    if not any((here / place).exists() for place in (f"{package}.py", package)):
        raise PluginError(f"the plug-in {module}: no module {package} is installed, or in {here}; install it")
    with _looking_in(str(here)):
        _import(module, origin_of_module(module))


def find(registry: Registry[Any], name: str) -> str | None:
    """Let a registry know a name that a recipe gives, if a plug-in that may be imported has it; or why it does not."""
    if name in registry:
        return None
    if (path := IMPORT_PATH.fullmatch(name)) is not None:
        try:
            _find_path(registry, name, *path.groups())
        except (PluginError, DuplicateNameError) as error:
            return str(error)
        return None
    for module in _installed():
        _try_installed(module)
    if name in registry or not BROKEN:
        return None
    duplicates = {e.__cause__.name: e for e in BROKEN.values() if isinstance(e.__cause__, DuplicateNameError)}
    return str(duplicates.get(name) or next(iter(BROKEN.values())))


def require(origins: Iterable[Origin], where: object) -> None:
    """See that the plug-ins of a checkpoint or a run are loaded; PluginError where one is not, and may not be.

    One of another version, or whose source has changed, is a warning.
    """
    for origin in origins:
        if origin.module not in all_known():
            if origin.module not in _installed():
                raise PluginError(
                    f"{where}: made with the plug-in {origin}, which is not imported unless you ask for it; "
                    f"if you trust it: {INVOCATION.with_plugin(origin.module)}"
                )
            _try_installed(origin.module)
            if origin.module in BROKEN:
                raise PluginError(f"{where}: made with a plug-in that fails: {BROKEN[origin.module]}")
        version = all_known()[origin.module].version
        if version == origin.version:
            for source in origin.sources.items():
                EXPECTED.setdefault(source, (where, origin))
            warn_of_changes()
        elif origin not in WARNED:
            WARNED.add(origin)
            INVOCATION.warn(
                f"{where}: made with the plug-in {origin}; here it is {one_line(version or 'of no version')}"
            )


def load_installed() -> None:
    """Import all plug-ins of installed packages; a warning for each that fails."""
    for module in _installed():
        _try_installed(module)


@contextmanager
def _looking_in(folder: str) -> Iterator[None]:
    """Within, Python finds modules of a folder, too; afterwards no import of anybody's does."""
    # At the end, so that nothing there takes the place of an installed module.
    sys.path.append(folder)
    try:
        yield
    finally:
        if folder in sys.path:
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]


def _installed() -> dict[str, metadata.EntryPoint]:
    """The entry points of installed plug-ins by the module that each names."""
    here = os.stat(os.curdir)
    return _found_on(tuple(sys.path), (here.st_dev, here.st_ino))


@cache
def _found_on(path: tuple[str, ...], here: tuple[int, int]) -> dict[str, metadata.EntryPoint]:
    """Looked for once on a path: it takes time, and a recipe may have very many names."""
    installed = [place for place in path if os.path.isabs(place) and _identity(place) != here]
    found: dict[str, metadata.EntryPoint] = {}
    for package in metadata.distributions(path=installed):
        for entry in package.entry_points.select(group=GROUP):
            found.setdefault(entry.value.partition(":")[0].strip(), entry)
    return found


def _identity(place: str) -> tuple[int, int] | None:
    """What a folder is known by, whatever links lead to it."""
    with suppress(OSError, ValueError):
        status = os.stat(place)
        return status.st_dev, status.st_ino
    return None


def _try_installed(module: str) -> None:
    if module in LOADED or module in BROKEN:
        return
    origin = origin_of_entry(_installed()[module])
    try:
        _import(module, origin)
    except PluginError as error:
        BROKEN[module] = error
        if isinstance(error.__cause__, DuplicateNameError):
            for registry in REGISTRIES:
                registry.contest(error.__cause__)
        INVOCATION.warn(f"{error}; nothing of it can be used")


def _import(module: str, origin: Origin) -> None:
    if module in LOADED:
        return
    before = [registry.entries() for registry in REGISTRIES]
    modules, known = set(sys.modules), set(LOADED)
    LOADING.append(origin)
    try:
        import_module(module)
    except (Exception, SystemExit) as error:
        _undo(before, modules, known)
        message = (
            str(error)
            if isinstance(error, (PluginError, DuplicateNameError))
            else error_line(error, _is_theirs)
        )
        raise PluginError(f"the plug-in {origin} cannot be imported: {message}") from error
    finally:
        LOADING.pop()
    LOADED[module] = origin
    note_sources(origin)
    warn_of_changes()


def _undo(before: list[dict[str, Entry[Any]]], modules: set[str], known: set[str]) -> None:
    """Forget what a failed import registered, and the other plug-ins that it imported: so they can be loaded again."""
    packages = {package_of(module) for module in LOADED if module not in known}
    for registry, entries in zip(REGISTRIES, before, strict=True):
        packages |= {
            package_of(e.value.__module__) for n, e in registry.entries().items() if n not in entries
        }
        registry.restore(entries)
    for module in set(LOADED) - known:
        del LOADED[module]
    for module in set(sys.modules) - modules:
        if package_of(module) in packages - {package_of(__name__)}:
            del sys.modules[module]


def _is_theirs(file: str) -> bool:
    return not file.startswith(("<frozen", *OURS))


def _find_path(registry: Registry[Any], path: str, module: str, leaf: str) -> None:
    package = package_of(module)
    asked = next((o for m, o in LOADED.items() if package_of(m) == package), None)
    if asked is None:
        name = next((m for m in _installed() if package_of(m) == package), None)
        if name is None:
            raise PluginError(
                f"{shorten(path)} is of the package {package}, which is not imported unless you ask for it; "
                f"if you trust it: {INVOCATION.with_plugin(package)}"
            )
        _try_installed(name)
        if name in BROKEN:
            raise BROKEN[name]
        asked = LOADED[name]
    _import(module, asked)
    value = getattr(sys.modules[module], leaf, None)
    if not (isinstance(value, type) and issubclass(value, registry.base)):
        raise PluginError(f"{shorten(path)} is no {registry.subject}: no class of {registry.base.__name__}")
    if registry is NETWORKS:  # any class, with whatever arguments it takes
        registry.add(path, value, registry.config, asked)
        return
    config = checked(value, registry)
    settings: dict[str, Any] = {registry.tag: (Literal[path], path)}
    named = create_model(config.__name__, __base__=config, __module__=config.__module__, **settings)
    named.__doc__ = config.__doc__
    if config is value:  # a task is its own configuration
        value = named
    registry.add(path, value, named, asked)
