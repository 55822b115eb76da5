"""Arms that are small from the start on."""

from collections.abc import Sequence

from compressm_cli.recipe import Recipe
from compressm_cli.studies.arms.arm import Arm, Source, spending
from compressm_cli.studies.costs import nearest


def _scratch(source: Source) -> Recipe:
    return source.small(source.method.final, steps=source.method.steps)


def _matched(source: Source) -> Recipe:
    return source.matched(source.small(source.method.final))


def _for_seconds(source: Source) -> Recipe:
    return spending(source.small(source.method.final), seconds=source.method.seconds)


def _average(source: Source) -> Recipe:
    """Between the final orders and those at the start, all layers by the same share of the way."""
    method = source.method
    most = max(first - last for first, last in zip(method.start, method.final, strict=True))
    sizes = [
        [
            last + round((first - last) * part / most)
            for first, last in zip(method.start, method.final, strict=True)
        ]
        for part in range(1, most + 1)
    ]
    small = [source.small(orders, steps=method.steps) for orders in [method.final, *sizes]]
    return source.matched(nearest(small, method.flops / method.steps, source.count))


def sized(size: int) -> Arm:
    """A size of all layers, as who knows nothing of the method would choose it."""

    def make(source: Source) -> Recipe:
        return source.matched(source.small([size] * len(source.method.final)))

    return Arm(f"{size} states from scratch, equal FLOPs", make, unit="flops")


def sizes_up_to(orders: Sequence[int]) -> list[int]:
    """The powers of two from 4 on below the largest of these orders."""
    return [2**power for power in range(2, 17) if 2**power < max(orders, default=0)]


ARMS = {
    "scratch": Arm("final size from scratch, equal steps", _scratch, "less"),
    "scratch-matched": Arm("final size from scratch, equal FLOPs", _matched, unit="flops"),
    "scratch-matched-seconds": Arm("final size from scratch, equal seconds", _for_seconds, unit="seconds"),
    "average": Arm("the size of the average cost, equal steps and FLOPs", _average, unit="flops"),
}
