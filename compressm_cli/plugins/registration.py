"""What plug-ins may register: layers, models, methods, objectives, tasks, whose configuration is as it must be."""

import re
from typing import Any, Literal, get_args, get_origin

from pydantic import PydanticUserError

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.registry import Registry, config_of
from compressm_cli.core.text import shorten
from compressm_cli.plugins.origins import REGISTRIES, origin_of

NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
STRICT = ("extra", "strict", "frozen", "allow_inf_nan")


class PluginError(BadInputError):
    """What is wrong with a plug-in, in one line."""


def register(*classes: type[Any]) -> None:
    """Let recipes name these classes: layers, models, methods, objectives, tasks, each by the name in its ``Config``.

    To be called when the plug-in's module is imported. Raises PluginError for a class that is none of these, or whose
    configuration is not as it must be, and DuplicateNameError for a name that is taken.
    """
    for value in classes:
        registry = _registry_of(value)
        config = checked(value, registry)
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
        registry.add(default, value, config, origin_of(value))


def _registry_of(value: object) -> Registry[Any]:
    for registry in REGISTRIES:
        if isinstance(value, type) and issubclass(value, registry.base):
            return registry
    bases = ", ".join(registry.base.__name__ for registry in REGISTRIES)
    raise PluginError(f"{shorten(value)} cannot be registered: it is no class of {bases}")


def checked(value: type[Any], registry: Registry[Any]) -> type[Config]:
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
