"""Arms that cut when the method did, to the orders that it chose, and keep other states."""

from collections.abc import Callable

from compressm_cli.recipe import Recipe
from compressm_cli.studies.arms.arm import NONE, Arm, LeftOutError, Source, derived


def _scored(name: str) -> Callable[[Source], Recipe]:
    def make(source: Source) -> Recipe:
        method = source.method
        if method.others:
            raise LeftOutError(f"the method changed more than states ({', '.join(method.others)})")
        if not method.cuts:
            return derived(source.recipe, compression=NONE)
        schedule = {"kind": "listed", "fractions": [cut.share for cut in method.cuts]}
        units = [cut.orders for cut in method.cuts]
        return derived(source.recipe, compression={"method": name, "units": units, "schedule": schedule})

    return make


ARMS = {
    "random": Arm("same schedule and orders, states drawn by lot", _scored("random")),
    "magnitude": Arm("same schedule and orders, states with the largest weights", _scored("magnitude")),
}
