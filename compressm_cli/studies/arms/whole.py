"""Arms of the size that the recipe has."""

from compressm_cli.studies.arms.arm import Arm, spending

ARMS = {
    "method": Arm("the recipe", lambda source: source.recipe, is_first=True),
    "dense": Arm("full size, never cut", lambda source: source.full(), "more", is_first=True),
    "dense-stopped": Arm(
        "full size, stopped at equal FLOPs, where its schedule ends",
        lambda source: source.matched(source.full()),
        unit="flops",
    ),
    "dense-stopped-seconds": Arm(
        "full size, stopped after equal seconds, where its schedule ends",
        lambda source: spending(source.full(), seconds=source.method.seconds),
        unit="seconds",
    ),
}
