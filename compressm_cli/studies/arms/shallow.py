"""Arms with fewer blocks, and so many states in each that a step costs what one of another arm does."""

from collections.abc import Callable

from compressm_cli.recipe import Recipe
from compressm_cli.studies.arms.arm import Arm, LeftOutError, Source, derived, spending
from compressm_cli.studies.costs import nearest


def _obstacle(recipe: Recipe) -> str | None:
    depth = getattr(recipe.model, "depth", None)
    if depth is None:
        return f"a model of kind {recipe.model.kind} has no model.depth"
    if getattr(recipe.model, "layer", None) is None:
        return f"a model of kind {recipe.model.kind} has no model.layer, of whose states there could be fewer or more"
    return None if depth > 1 else "the model has a single block"


def _shallow(source: Source, step_flops: float) -> Recipe:
    """Half as many blocks, with the number of states whose step costs nearest to what is wanted.

    No more states than the widest block of the recipe has: where even these cost less, there are more steps.
    """
    if source.method.others:
        raise LeftOutError(f"the method changed more than states ({', '.join(source.method.others)})")
    full, depth = source.full(), source.recipe.model.depth // 2
    layer = full.model.layer
    candidates = []
    for order in range(1, max(source.method.start) + 1):
        fewer = layer.model_copy(update={"state_dim": [order] * depth})
        model = full.model.model_copy(update={"depth": depth, "layer": fewer})
        candidates.append(full.model_copy(update={"model": model}))
    return derived(nearest(candidates, step_flops, source.count))


def _as_scratch(source: Source) -> Recipe:
    method = source.method
    small = _shallow(source, method.final_step_flops)
    return spending(small, flops=float(method.steps * method.final_step_flops))


def _matched(of: Callable[[Source], float]) -> Callable[[Source], Recipe]:
    return lambda source: source.matched(_shallow(source, of(source)))


ARMS = {
    "shallow": Arm("half the blocks, the FLOPs of scratch", _as_scratch, "less", "flops", obstacle=_obstacle),
    "shallow-matched": Arm(
        "half the blocks, a step as one of scratch, equal FLOPs",
        _matched(lambda source: source.method.final_step_flops),
        unit="flops",
        obstacle=_obstacle,
    ),
    "shallow-average": Arm(
        "half the blocks, a step as one of average, equal FLOPs",
        _matched(lambda source: source.method.flops / source.method.steps),
        unit="flops",
        obstacle=_obstacle,
    ),
}
