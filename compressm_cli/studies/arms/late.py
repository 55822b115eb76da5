"""Arms that are trained whole, and cut then."""

from typing import Any

from compressm_cli.core.config import Config
from compressm_cli.recipe import Recipe
from compressm_cli.studies.arms.arm import Arm, LeftOutError, Source, derived

TARGETS = ("energy_threshold", "keep_fraction", "target_order", "target_order_total")
"""Settings of a method that say how much it keeps, where it has them."""


def _compression(source: Source, schedule: dict[str, Any]) -> dict[str, Any]:
    """The method's own settings, at another time, with the orders that it chose as its target."""
    config: Config = source.recipe.compression
    if "target_order" not in type(config).model_fields:
        raise LeftOutError("the method takes no target_order, so that a late cut has other orders")
    settings = config.model_dump(mode="json") | {"schedule": schedule, "safety": None}
    settings |= {name: None for name in TARGETS if name in settings}
    return settings | {"target_order": source.method.final}


def _post(source: Source) -> Recipe:
    schedule = {"kind": "listed", "fractions": [1.0]}
    return derived(source.recipe, budget=None, compression=_compression(source, schedule))


def _recovered(source: Source) -> Recipe:
    """One schedule of the learning rate over both parts, which lets the late cut be followed by larger steps."""
    steps, method = source.recipe.train.steps, source.method
    schedule = {"kind": "listed", "at_steps": [steps]}
    train = {"steps": steps + method.steps - method.last_cut}
    return derived(source.recipe, train=train, budget=None, compression=_compression(source, schedule))


ARMS = {
    "post": Arm("full size, cut to the same orders after training", _post, "more"),
    "post-recovered": Arm(
        "cut after training, then as many steps as the method had after its cut", _recovered, "more"
    ),
}
