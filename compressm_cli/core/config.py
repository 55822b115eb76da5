"""The base of every part of a recipe: immutable, and strict about unknown keys and types."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """One mapping of a recipe. Each component declares its own beside its code.

    Strict: an unknown key or a value of another type is an error, never silently converted
    (an integer is accepted where a float is wanted, as everywhere in Python); no infinity, no NaN.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
