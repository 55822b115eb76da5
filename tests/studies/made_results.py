"""Results of studies that nobody has trained."""

from typing import Any

from compressm_cli.studies.results import Results

SEEDS = [0, 1, 2, 3, 4]
NOISE = [0.0, 0.01, -0.01, 0.005, -0.005]
ACCURACY = {"name": "accuracy", "title": "accuracy", "higher_is_better": True, "unit": "share"}
LOSS = {"name": "mse", "title": "mean squared error", "higher_is_better": False, "unit": "number"}


def arm(name: str, cost: str = "equal", **more: Any) -> dict[str, Any]:
    return {"name": name, "about": f"what {name} is", "cost": cost, **more}


def runs(
    name: str, test: float, spread: float = 0.0, rates: tuple[float, ...] = (0.002, 0.004, 0.008), **more: Any
) -> list[dict[str, Any]]:
    """An arm's runs at three rates, of which the middle one is best; ``spread`` varies it against the method's."""
    return [
        {
            "arm": name,
            "rate": rate,
            "seed": seed,
            "validation": test - abs(rate - 0.004),
            "test": test + NOISE[seed] + spread * (-1) ** seed,
            "steps": 100,
            "samples": 6400.0,
            "parameters": 640,
            "orders": [8 + seed % 2],
            "flops": 1e9,
            "seconds": 10.0,
            "hindrance": 1.1,
            "commit": "abc",
            "machine": "a machine",
            **more,
        }
        for rate in rates
        for seed in SEEDS
    ]


def results(arms: list[dict[str, Any]], made: list[list[dict[str, Any]]], **more: Any) -> Results:
    return Results.model_validate(
        {
            "recipe": "made",
            "command": "compressm study made",
            "primary": ACCURACY,
            "seeds": SEEDS,
            "rate": 0.004,
            "grid": 3,
            "arms": arms,
            "runs": [run for of_arm in made for run in of_arm],
            **more,
        }
    )
