"""The recipe: one YAML file that describes one experiment.

The names are loaded on first use: the schema needs the layers, so torch, while looking through the
shipped recipes must not wait for that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressm_cli.recipe.loading import (
        load_recipe,
        recipe_from_mapping,
        recipe_in_short,
        recipe_schema,
        recipe_settings,
        recipe_to_mapping,
        recipe_to_yaml,
    )
    from compressm_cli.recipe.problems import RecipeError
    from compressm_cli.recipe.schema import Recipe

__all__ = [
    "Recipe",
    "RecipeError",
    "load_recipe",
    "recipe_from_mapping",
    "recipe_in_short",
    "recipe_schema",
    "recipe_settings",
    "recipe_to_mapping",
    "recipe_to_yaml",
]

_HOMES = {"Recipe": "schema", "RecipeError": "problems"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'loading')}"), name)
