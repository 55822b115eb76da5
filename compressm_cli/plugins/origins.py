"""Which plug-in a class is from, and whether it is the one that a checkpoint or a run was made with."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from compressm_cli.core.config import Config
from compressm_cli.core.invocation import INVOCATION
from compressm_cli.core.registry import Origin, Registry
from compressm_cli.data import TASKS
from compressm_cli.data.checksum import bytes_checksum
from compressm_cli.layers import LAYERS
from compressm_cli.methods import METHODS
from compressm_cli.models import MODELS, NETWORKS
from compressm_cli.objectives import OBJECTIVES

REGISTRIES: tuple[Registry[Any], ...] = (LAYERS, METHODS, TASKS, OBJECTIVES, MODELS)
MODULE = re.compile(r"[A-Za-z]\w*(\.\w+)*")

LOADED: dict[str, Origin] = {}
"""The plug-ins that were imported, by the module that each is asked for by."""
LOADING: list[Origin] = []
"""Those that are being imported, the innermost last."""
WARNED: set[Origin] = set()
"""Those of which another version is here than a checkpoint was made with."""
EXPECTED: dict[tuple[str, str], tuple[object, Origin] | None] = {}
"""Modules with their checksums that checkpoints and runs were made with -> which, and with what plug-in; None when
compared."""


def is_module(name: object) -> bool:
    """Whether it can be the name of a plug-in's module."""
    return type(name) is str and len(name) <= 200 and MODULE.fullmatch(name) is not None


def loaded() -> list[str]:
    """The modules of all plug-ins that are loaded."""
    return list(LOADED)


def changed(origins: Iterable[Origin]) -> list[Origin]:
    """Of the plug-ins of a checkpoint those that are others here: of another version, source, or not loaded."""
    known = all_known()
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
    found = [entry for entry in entries if entry.config in used]
    networks = {getattr(config, "network_class", None) for config in _configs(recipe)}
    found += [entry for name, entry in NETWORKS.entries().items() if name in networks]
    return list(dict.fromkeys(entry.origin for entry in found if entry.origin is not None))


def all_known() -> dict[str, Origin]:
    """The plug-ins that there are by now, by module."""
    entries = (entry for registry in REGISTRIES for entry in registry.entries().values())
    origins = [*LOADED.values(), *(entry.origin for entry in entries if entry.origin is not None)]
    return {origin.module: origin for origin in origins}


def origin_of(value: type[Any]) -> Origin:
    """The plug-in that is being imported, or else the class's own package."""
    if LOADING:
        return LOADING[-1]
    own = origin_of_module(package_of(value.__module__))
    note_sources(own)
    return own


def origin_of_entry(entry: metadata.EntryPoint) -> Origin:
    module, package = entry.value.partition(":")[0].strip(), entry.dist
    return Origin(module) if package is None else Origin(module, package.name, package.version)


def origin_of_module(module: str) -> Origin:
    package = package_of(module)
    names = [name for name in metadata.packages_distributions().get(package, []) if name]
    return Origin(module, names[0], metadata.version(names[0])) if names else Origin(module)


def note_sources(origin: Origin) -> None:
    """Keep the checksums of the files of a plug-in's modules that are imported by now."""
    own = [name for name in list(sys.modules) if package_of(name) == package_of(origin.module)]
    for name in own:
        file = getattr(sys.modules[name], "__file__", None)
        known = name in origin.sources or not is_module(name)
        if not known and isinstance(file, str) and file.endswith(".py"):
            with suppress(OSError):
                origin.sources[name] = bytes_checksum(Path(file).read_bytes())


def warn_of_changes() -> None:
    """One line for each plug-in whose source is another one than a checkpoint was made with.

    Modules that are not imported yet are looked at when they are.
    """
    here = {name: source for origin in all_known().values() for name, source in origin.sources.items()}
    changed: dict[tuple[object, Origin], str] = {}
    for (module, source), made in EXPECTED.items():
        if made is not None and module in here:
            EXPECTED[module, source] = None
            if here[module] != source:
                changed.setdefault(made, module)
    for (where, origin), module in changed.items():
        INVOCATION.warn(
            f"{where}: the plug-in {origin} is another one than it was made with: its source has changed ({module})"
        )


def _configs(value: object) -> Iterator[Config]:
    """All mappings of a recipe."""
    if isinstance(value, Config):
        yield value
        for name in type(value).model_fields:
            yield from _configs(getattr(value, name))
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _configs(item)


def package_of(module: str) -> str:
    return module.partition(".")[0]
