"""What a recipe may name: the built-in classes of a kind, and those that plug-ins add to them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from compressm_cli.core.config import Config
from compressm_cli.core.text import one_line

T = TypeVar("T")
BUILT_IN = "compressm"
BY_NAME = "by_name"
"""Marks, in a JSON schema, mappings that may be their ``kind`` alone."""
_generation = 0


def generation() -> int:
    """Another number after each change of a registry: what was made of them before is out of date."""
    return _generation


@dataclass(frozen=True)
class Origin:
    """The plug-in that a class comes from."""

    module: str
    """What ``--plugin`` names, or the entry point's module."""
    distribution: str | None = None
    version: str | None = None
    sources: dict[str, str] = field(default_factory=dict, compare=False)
    """Checksums of the files of its modules, by module, as they were when it was imported."""

    def __str__(self) -> str:
        if self.distribution is None:
            return self.module
        package = one_line(f"{self.distribution} {self.version or ''}".strip())
        return package if self.distribution == self.module else f"{self.module} ({package})"


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A class of a registry, and what a recipe says of it."""

    value: type[T]
    config: type[Config]
    origin: Origin | None = None
    """None of what is built in."""


class UnknownNameError(KeyError):
    """No class has this name; ``str()`` says which there are."""

    def __str__(self) -> str:
        return str(self.args[0])


class DuplicateNameError(ValueError):
    """Two classes have one name."""

    def __init__(self, registry: "Registry[Any]", name: str, message: str) -> None:
        super().__init__(message)
        self.registry, self.name = registry, name


class Registry(Mapping[str, type[T]]):
    """Classes by the name that a recipe gives them: the value of ``tag`` in its mapping.

    The class's ``Config`` is what the mapping must be, or the class itself where it is a configuration.
    """

    def __init__(
        self, subject: str, tag: str, base: type[Any], config: type[Config], builtin: Mapping[str, type[T]]
    ) -> None:
        self.subject, self.tag, self.base, self.config = subject, tag, base, config
        self._entries = {name: Entry(value, config_of(value)) for name, value in builtin.items()}

    def __getitem__(self, name: str) -> type[T]:
        """Raises UnknownNameError, which lists the names that there are."""
        if name not in self._entries:
            near = get_close_matches(name, self._entries, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._entries)}"
            raise UnknownNameError(f"{name!r} is no {self.subject}; {hint}")
        return self._entries[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entries(self) -> dict[str, Entry[T]]:
        """All of them, by name."""
        return dict(self._entries)

    def name_of(self, value: type[T]) -> str:
        """What a recipe calls a class; its own name where it is not registered."""
        return next((name for name, e in self._entries.items() if e.value is value), value.__name__)

    def add(self, name: str, value: type[T], config: type[Config], origin: Origin) -> None:
        """Register a plug-in's class; DuplicateNameError where another one has the name."""
        known = self._entries.get(name)
        if known is not None and known.value is not value:
            raise DuplicateNameError(
                self,
                name,
                f"the {self.subject} {name!r} is {known.origin or BUILT_IN}'s ({_place(known.value)}) and "
                f"{origin}'s ({_place(value)}); one of them needs another name",
            )
        if known is None:
            self._entries[name] = Entry(value, config, origin)
            _changed()

    def contest(self, error: DuplicateNameError) -> None:
        """A name that two plug-ins have, neither of which the user asked for, is nobody's."""
        if error.registry is self and self._entries[error.name].origin is not None:
            del self._entries[error.name]
            _changed()

    def restore(self, entries: Mapping[str, Entry[T]]) -> None:
        """Go back to what there was: ``entries`` of then."""
        self._entries = dict(entries)
        _changed()


def config_of(value: type[Any]) -> type[Config]:
    """The configuration of a registered class."""
    found: type[Config] = getattr(value, "Config", value)
    return found


@dataclass(frozen=True, eq=False)
class OneOf:
    """Annotation of a field: the configuration of any class of a registry, as it is when the schema is made."""

    registry: Registry[Any]
    others: Mapping[str, type[Config]] = field(default_factory=dict)
    """Further choices, by the name that a recipe gives them."""
    by_name: bool = False
    """Whether a name alone may stand for its configuration with all defaults."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        configs = {name: e.config for name, e in self.registry.entries().items()} | dict(self.others)
        choices = {name: handler.generate_schema(config) for name, config in configs.items()}
        tag = self.registry.tag
        if not self.by_name:
            return core_schema.tagged_union_schema(choices, discriminator=tag)
        marked = {"pydantic_js_updates": {BY_NAME: True}}
        mapping = core_schema.tagged_union_schema(choices, discriminator=tag, metadata=marked)
        return core_schema.no_info_before_validator_function(
            lambda value: {tag: value} if isinstance(value, str) else value, mapping
        )


def _changed() -> None:
    global _generation
    _generation += 1


def _place(value: type[Any]) -> str:
    return f"{value.__module__}.{value.__qualname__}"
