"""Plug-ins: layers, models, methods, objectives and tasks of other packages, to be named in recipes.

What a recipe or a checkpoint names is never imported for that: only modules that the user asked for (``load``,
``--plugin``), and those of installed packages with an entry point in the group ``compressm.plugins``. What lies in the
current folder is not installed, also where Python looks for modules there.
"""

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
from typing import Any, Literal, get_args, get_origin

from pydantic import PydanticUserError, create_model

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.invocation import INVOCATION
from compressm_cli.core.registry import DuplicateNameError, Entry, Origin, Registry, config_of
from compressm_cli.core.text import error_line, one_line, shorten
from compressm_cli.data import TASKS
from compressm_cli.data.checksum import bytes_checksum
from compressm_cli.layers import LAYERS
from compressm_cli.methods import METHODS
from compressm_cli.models import MODELS
from compressm_cli.objectives import OBJECTIVES

GROUP = "compressm.plugins"
"""Of the entry points of installed packages: each names a module that registers classes when it is imported."""
REGISTRIES: tuple[Registry[Any], ...] = (LAYERS, METHODS, TASKS, OBJECTIVES, MODELS)
NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
IMPORT_PATH = re.compile(r"([A-Za-z]\w*(?:\.[A-Za-z]\w*)*):([A-Za-z]\w*)")
"""``package.module:Class``; what begins with an underscore is nobody's to name."""
OURS = (__file__, importlib.__file__)
"""Through which a plug-in is imported."""
MODULE = re.compile(r"[A-Za-z]\w*(\.\w+)*")
STRICT = ("extra", "strict", "frozen", "allow_inf_nan")


class PluginError(BadInputError):
    """What is wrong with a plug-in, in one line."""


_loaded: dict[str, Origin] = {}
_broken: dict[str, PluginError] = {}
_loading: list[Origin] = []
_warned: set[Origin] = set()
"""Those of which another version is here than a checkpoint was made with."""
_expected: dict[tuple[str, str], tuple[object, Origin] | None] = {}
"""Modules with their checksums that checkpoints and runs were made with -> which, and with what plug-in; None when
compared."""


def register(*classes: type[Any]) -> None:
    """Let recipes name these classes: layers, models, methods, objectives, tasks, each by the name in its ``Config``.

    To be called when the plug-in's module is imported. Raises PluginError for a class that is none of these, or whose
    configuration is not as it must be, and DuplicateNameError for a name that is taken.
    """
    for value in classes:
        registry = _registry_of(value)
        config = _checked(value, registry)
        default = config.model_fields[registry.tag].default
        kind = config.model_fields[registry.tag].annotation
        if (
            get_origin(kind) is not Literal
            or get_args(kind) != (default,)
            or not NAME.fullmatch(str(default))
        ):
            raise PluginError(
                f'{_shown(config)}: its name in recipes is missing; write {registry.tag}: Literal["my_name"] = '
                f'"my_name" with small letters, digits and underscores'
            )
        registry.add(default, value, config, _origin_of(value))


def load(module: str) -> None:
    """Import a plug-in that the user asked for: its classes can be named, also as ``package.module:Class``.

    Where no such module is installed, one in the current folder is taken, with what it imports from there meanwhile.
    Raises PluginError where there is none, or
    its import fails.
    """
    if module in _loaded:
        return
    package = _package(module)
    if not MODULE.fullmatch(module):
        raise PluginError(f"--plugin {shorten(module)}: write the name of a module, such as my_package")
    if find_spec(package) is not None:
        entry = _installed().get(module)
        _import(module, _origin_of_entry(entry) if entry else _origin(module))
        return
    here = Path.cwd()
    if not any((here / place).exists() for place in (f"{package}.py", package)):
        raise PluginError(f"the plug-in {module}: no module {package} is installed, or in {here}; install it")
    with _looking_in(str(here)):
        _import(module, _origin(module))


def is_module(name: object) -> bool:
    """Whether it can be the name of a plug-in's module."""
    return type(name) is str and len(name) <= 200 and MODULE.fullmatch(name) is not None


def loaded() -> list[str]:
    """The modules of all plug-ins that are loaded."""
    return list(_loaded)


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
    if name in registry or not _broken:
        return None
    duplicates = {
        e.__cause__.name: e for e in _broken.values() if isinstance(e.__cause__, DuplicateNameError)
    }
    return str(duplicates.get(name) or next(iter(_broken.values())))


def require(origins: Iterable[Origin], where: object) -> None:
    """See that the plug-ins of a checkpoint or a run are loaded; PluginError where one is not, and may not be.

    One of another version, or whose source has changed, is a warning.
    """
    for origin in origins:
        if origin.module not in _known():
            if origin.module not in _installed():
                raise PluginError(
                    f"{where}: made with the plug-in {origin}, which is not imported unless you ask for it; "
                    f"if you trust it: {INVOCATION.with_plugin(origin.module)}"
                )
            _try_installed(origin.module)
            if origin.module in _broken:
                raise PluginError(f"{where}: made with a plug-in that fails: {_broken[origin.module]}")
        version = _known()[origin.module].version
        if version == origin.version:
            for source in origin.sources.items():
                _expected.setdefault(source, (where, origin))
            _warn_of_changes()
        elif origin not in _warned:
            _warned.add(origin)
            INVOCATION.warn(
                f"{where}: made with the plug-in {origin}; here it is {one_line(version or 'of no version')}"
            )


def changed(origins: Iterable[Origin]) -> list[Origin]:
    """Of the plug-ins of a checkpoint those that are others here: of another version, source, or not loaded."""
    known = _known()
    here = {name: source for origin in known.values() for name, source in origin.sources.items()}
    return [
        origin
        for origin in origins
        if origin.module not in known
        or known[origin.module].version != origin.version
        or any(here.get(name, source) != source for name, source in origin.sources.items())
    ]


def needed(recipe: Config) -> list[Origin]:
    """The plug-ins whose classes a recipe names, each once."""
    used = {type(config) for config in _configs(recipe)}
    entries = [entry for registry in REGISTRIES for entry in registry.entries().values()]
    return list(dict.fromkeys(e.origin for e in entries if e.origin is not None and e.config in used))


def load_installed() -> None:
    """Import all plug-ins of installed packages; a warning for each that fails."""
    for module in _installed():
        _try_installed(module)


# ---- importing -----------------------------------------------------------------------------------------------------


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
    if module in _loaded or module in _broken:
        return
    origin = _origin_of_entry(_installed()[module])
    try:
        _import(module, origin)
    except PluginError as error:
        _broken[module] = error
        if isinstance(error.__cause__, DuplicateNameError):
            for registry in REGISTRIES:
                registry.contest(error.__cause__)
        INVOCATION.warn(f"{error}; nothing of it can be used")


def _import(module: str, origin: Origin) -> None:
    if module in _loaded:
        return
    before = [registry.entries() for registry in REGISTRIES]
    modules, known = set(sys.modules), set(_loaded)
    _loading.append(origin)
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
        _loading.pop()
    _loaded[module] = origin
    _note_sources(origin)
    _warn_of_changes()


def _undo(before: list[dict[str, Entry[Any]]], modules: set[str], known: set[str]) -> None:
    """Forget what a failed import registered, and the other plug-ins that it imported: so they can be loaded again."""
    packages = {_package(module) for module in _loaded if module not in known}
    for registry, entries in zip(REGISTRIES, before, strict=True):
        packages |= {_package(e.value.__module__) for n, e in registry.entries().items() if n not in entries}
        registry.restore(entries)
    for module in set(_loaded) - known:
        del _loaded[module]
    for module in set(sys.modules) - modules:
        if _package(module) in packages - {_package(__name__)}:
            del sys.modules[module]


def _note_sources(origin: Origin) -> None:
    """Keep the checksums of the files of a plug-in's modules that are imported by now."""
    own = [name for name in list(sys.modules) if _package(name) == _package(origin.module)]
    for name in own:
        file = getattr(sys.modules[name], "__file__", None)
        known = name in origin.sources or not is_module(name)
        if not known and isinstance(file, str) and file.endswith(".py"):
            with suppress(OSError):
                origin.sources[name] = bytes_checksum(Path(file).read_bytes())


def _warn_of_changes() -> None:
    """One line for each plug-in whose source is another one than a checkpoint was made with.

    Modules that are not imported yet are looked at when they are.
    """
    here = {name: source for origin in _known().values() for name, source in origin.sources.items()}
    changed: dict[tuple[object, Origin], str] = {}
    for (module, source), made in _expected.items():
        if made is not None and module in here:
            _expected[module, source] = None
            if here[module] != source:
                changed.setdefault(made, module)
    for (where, origin), module in changed.items():
        INVOCATION.warn(
            f"{where}: the plug-in {origin} is another one than it was made with: its source has changed ({module})"
        )


def _is_theirs(file: str) -> bool:
    return not file.startswith("<frozen") and file not in OURS


def _find_path(registry: Registry[Any], path: str, module: str, leaf: str) -> None:
    package = _package(module)
    asked = next((o for m, o in _loaded.items() if _package(m) == package), None)
    if asked is None:
        name = next((m for m in _installed() if _package(m) == package), None)
        if name is None:
            raise PluginError(
                f"{shorten(path)} is of the package {package}, which is not imported unless you ask for it; "
                f"if you trust it: {INVOCATION.with_plugin(package)}"
            )
        _try_installed(name)
        if name in _broken:
            raise _broken[name]
        asked = _loaded[name]
    _import(module, asked)
    value = getattr(sys.modules[module], leaf, None)
    if not (isinstance(value, type) and issubclass(value, registry.base)):
        raise PluginError(f"{shorten(path)} is no {registry.subject}: no class of {registry.base.__name__}")
    config = _checked(value, registry)
    settings: dict[str, Any] = {registry.tag: (Literal[path], path)}
    named = create_model(config.__name__, __base__=config, __module__=config.__module__, **settings)
    named.__doc__ = config.__doc__
    if config is value:  # a task is its own configuration
        value = named
    registry.add(path, value, named, asked)


# ---- what is registered ---------------------------------------------------------------------------------------------


def _registry_of(value: object) -> Registry[Any]:
    for registry in REGISTRIES:
        if isinstance(value, type) and issubclass(value, registry.base):
            return registry
    bases = ", ".join(registry.base.__name__ for registry in REGISTRIES)
    raise PluginError(f"{shorten(value)} cannot be registered: it is no class of {bases}")


def _checked(value: type[Any], registry: Registry[Any]) -> type[Config]:
    """The configuration of a class; PluginError where one of them is not as it must be."""
    config = config_of(value)
    if not (isinstance(config, type) and issubclass(config, registry.config)):
        raise PluginError(f"{_shown(value)}: its Config is no subclass of {registry.config.__name__}")
    if missing := sorted(getattr(value, "__abstractmethods__", ())):
        raise PluginError(f"{_shown(value)}: it lacks {', '.join(missing)}")
    if any(config.model_config.get(key) != Config.model_config.get(key) for key in STRICT):
        raise PluginError(f"{_shown(config)}: leave model_config out; a recipe is strict")
    try:
        config.model_json_schema()
    except PydanticUserError as error:
        first = str(error).splitlines()[0]
        raise PluginError(f"{_shown(config)}: a recipe, which is text, cannot hold it: {first}") from error
    return config


def _shown(value: type[Any]) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _configs(value: object) -> Iterator[Config]:
    """All mappings of a recipe."""
    if isinstance(value, Config):
        yield value
        for name in type(value).model_fields:
            yield from _configs(getattr(value, name))
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _configs(item)


def _known() -> dict[str, Origin]:
    """The plug-ins that there are by now, by module."""
    entries = (entry for registry in REGISTRIES for entry in registry.entries().values())
    origins = [*_loaded.values(), *(entry.origin for entry in entries if entry.origin is not None)]
    return {origin.module: origin for origin in origins}


def _origin_of(value: type[Any]) -> Origin:
    """The plug-in that is being imported, or else the class's own package."""
    if _loading:
        return _loading[-1]
    own = _origin(_package(value.__module__))
    _note_sources(own)
    return own


def _origin_of_entry(entry: metadata.EntryPoint) -> Origin:
    module, package = entry.value.partition(":")[0].strip(), entry.dist
    return Origin(module) if package is None else Origin(module, package.name, package.version)


def _origin(module: str) -> Origin:
    package = _package(module)
    names = [name for name in metadata.packages_distributions().get(package, []) if name]
    return Origin(module, names[0], metadata.version(names[0])) if names else Origin(module)


def _package(module: str) -> str:
    return module.partition(".")[0]
