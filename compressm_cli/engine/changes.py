"""What may be changed in a run that goes on: how long, how it is watched, and on what; nothing that it learns by."""

from collections.abc import Sequence
from typing import Any

from compressm_cli.core.errors import BadInputError, command
from compressm_cli.engine.divergence import Rollbacks
from compressm_cli.engine.optimizer import learning_rate
from compressm_cli.engine.standing import Standing
from compressm_cli.engine.teaching import placed
from compressm_cli.methods.faults import ask
from compressm_cli.methods.method import Method
from compressm_cli.methods.registry import method_of
from compressm_cli.recipe import Recipe, load_recipe, recipe_settings
from compressm_cli.runs.folder import Run

ALLOWED = (
    "train.steps", "budget", "train.eval_every", "train.log_every", "train.checkpoint_every", "train.on_divergence",
    "train.accumulate", "train.threads", "train.parallel", "train.compile", "device", "output.keep_last",
    "output.trackers", "objective.teacher.model",
)  # fmt: skip
"""Settings, or mappings of settings; paths of the data too, where they are known to be the same. So is a teacher."""
NOT_OF_THE_RUN = ("device", "output")
"""What ``--auto-resume`` takes from the recipe at hand, whatever the run had."""


def identity(recipe: Recipe) -> dict[str, Any]:
    """The settings that make two recipes the same experiment for ``--auto-resume``."""
    settings = recipe_settings(placed(recipe))
    return {key: value for key, value in settings.items() if key.partition(".")[0] not in NOT_OF_THE_RUN}


def is_same_run(one: Recipe, other: Recipe) -> bool:
    """Whether a run of one recipe can go on by the other: they differ in nothing but what may be changed."""
    return all(
        key.partition(".")[0] in NOT_OF_THE_RUN or _is_allowed(key, one) for key in changes(one, other)
    )


def changes(before: Recipe, after: Recipe) -> dict[str, dict[str, Any]]:
    """Every setting that differs, ``from`` what and ``to`` what."""
    one, two = recipe_settings(placed(before)), recipe_settings(placed(after))
    return {
        key: {"from": one.get(key), "to": two.get(key)}
        for key in {**one, **two}
        if one.get(key) != two.get(key) or (key in one) != (key in two)
    }


def changed_recipe(run: Run, overrides: Sequence[str]) -> Recipe:
    """The recipe of a run with some settings changed.

    Raises BadInputError where one of them is invalid, or would make another run of it.
    """
    before, after = load_recipe(run.recipe_path), load_recipe(run.recipe_path, overrides)
    refused = [key for key in changes(before, after) if not _is_allowed(key, before)]
    if refused:
        places = [f"data.{key}" for key in before.data.paths if key in type(before.data).model_fields]
        raise BadInputError(
            f"{refused[0]}: a run that has begun goes on with its own; of a run can be changed: "
            f"{', '.join([*ALLOWED, *places])}. For another {refused[0]} begin a new run: "
            f"{command('train', run.recipe_path, f'{refused[0]}=VALUE')}"
        )
    return after


def described(before: Recipe, after: Recipe, step: int, training: dict[str, Any]) -> str | None:
    """What another length of the run makes of the learning rate and the checks, in a line; None where it is the same.

    ``training`` is a checkpoint's: what was spent, and the rollbacks, each of which has lowered the learning rate.
    """
    if before.train.steps == after.train.steps and before.budget == after.budget:
        return None
    method = method_of(after.compression)
    here = Standing.of(after, step, training)
    total, now, budget = here.course.total, here.position(), after.budget
    checks = [check for check in ask(method, Method.check_steps, total) if check > now]
    ahead = [str(check) if budget is None else f"{100 * check / total:.3g} %" for check in checks]
    shown = ", ".join(ahead[:5]) + (f" and {len(ahead) - 5} more" if len(ahead) > 5 else "")
    rates = _rate(before, max(1, step), training), _rate(after, step, training, ahead=1)
    what = [
        f"{name} {'none' if one is None else one} -> {'none' if two is None else two}"
        for name, one, two in (
            ("train.steps", before.train.steps, after.train.steps),
            ("budget", before.budget, budget),
        )
        if one != two
    ]
    where, scale = f"from step {step} on", f"that of a run of {total} steps"
    if budget is not None:
        # How many steps it will be is told of the run, as the model is now; this is a scale of an uncut one.
        where += f", where {100 * now / total:.3g} % of the {'budget is spent' if budget.reinvest else 'run is done'}"
        scale = "by that share"
    return (
        f"{', '.join(what)}, {where}: the learning rate is {scale} ({rates[0]:.3g} at step {step}, "
        f"{rates[1]:.3g} at step {step + 1}); checks to come: {'at ' if budget and shown else ''}{shown or 'none'}"
    )


def _rate(recipe: Recipe, step: int, training: dict[str, Any], ahead: int = 0) -> float:
    lowered = Rollbacks(recipe.train.on_divergence)
    lowered.made = training.get("rollbacks", [])
    here = Standing.of(recipe, step, training)
    return learning_rate(recipe.train, here.position(ahead), here.course.total) * lowered.factor


def _is_allowed(key: str, recipe: Recipe) -> bool:
    allowed = (*ALLOWED, *(f"data.{place}" for place in recipe.data.paths))
    return any(key == name or key.startswith(f"{name}.") for name in allowed)
