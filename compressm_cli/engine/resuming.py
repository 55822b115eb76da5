"""From where a run goes on: which checkpoint, with what changed, and what is to be settled before it does."""

from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from compressm_cli.checkpoint import Checkpoint, OtherPluginError
from compressm_cli.core.errors import BadInputError, command
from compressm_cli.core.text import shorten
from compressm_cli.core.validation import is_number
from compressm_cli.data.interface import Fingerprint
from compressm_cli.engine.changes import changes, described, is_same_run
from compressm_cli.engine.origins import load, now
from compressm_cli.engine.same_data import recorded
from compressm_cli.engine.standing import Standing
from compressm_cli.engine.view import View
from compressm_cli.objectives import primary_of
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_yaml
from compressm_cli.runs.folder import Run
from compressm_cli.structure.plan import line_of_today


@dataclass
class Departure:
    """From where a run goes on."""

    info: dict[str, Any]
    """Of ``run.json``, as it was."""
    checkpoint: Checkpoint | None
    """None where the run has not written one yet, and begins again."""
    fingerprint: Fingerprint | None
    """Of the data that it was trained on; None where that is not known."""
    changed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The settings that are others from here on, ``from`` what ``to`` what."""

    @property
    def step(self) -> int:
        return 0 if self.checkpoint is None else self.checkpoint.step

    def outline(self) -> "Departure":
        """What the processes beside the main one need of it."""
        return replace(self, checkpoint=outline_of(self.checkpoint))


def outline_of(checkpoint: Checkpoint | None) -> Checkpoint | None:
    """What the processes beside the main one need of a checkpoint: they get the tensors where they take them over."""
    return None if checkpoint is None else checkpoint.outline()


def newest_checkpoint(run: Run, view: View) -> Checkpoint | None:
    """The newest checkpoint that a run can go on from, with a warning for each newer one that is unusable.

    None where the run has not written one yet. BadInputError where it has, and none can be used: beginning
    again would replace what is left of it.
    """
    saved = run.last_checkpoints()
    reasons, is_lost = [], True
    for path in reversed(saved):
        try:
            checkpoint = Checkpoint.load(path)
            if checkpoint.training is None:
                raise BadInputError(f"{path}: this checkpoint has no state of training")
        except BadInputError as error:
            reasons.append(str(error))
            is_lost = is_lost and not isinstance(error, OtherPluginError)
            continue
        for reason in reasons:
            view.message(f"warning: {reason}; going on from {path.name}")
        return checkpoint
    if not is_lost:
        raise BadInputError("; ".join(reasons))
    if reasons:
        raise BadInputError(
            f"{'; '.join(reasons)}. The run cannot go on from any checkpoint; delete {run.checkpoints}/last-*.pt "
            "to begin it again from step 0"
        )
    return None


def is_over(run: Run) -> bool:
    """Whether a run is done and says so; one killed between its last two files does not say so."""
    return run.is_done and run.read_info().get("status") == "done"


def is_longer(run: Run, recipe: Recipe) -> bool:
    """Whether a recipe asks a run that came to its end for more steps."""
    steps = _steps_done(run)
    if recipe.budget is None:
        return recipe.train.steps > steps
    try:
        return not Standing.at_end(recipe, steps, run.read_summary()).is_over
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise BadInputError(
            f"{run.folder / 'summary.json'}: does not say what the run has spent; the run's record is damaged"
        ) from error


def _steps_done(run: Run) -> int:
    steps = run.read_summary().get("steps")
    if type(steps) is not int:
        raise BadInputError(
            f"{run.folder / 'summary.json'}: has no number of steps; the run's record is damaged"
        )
    return steps


def require_open(run: Run, recipe: Recipe) -> None:
    """BadInputError where a run is done, and is not to be trained longer."""
    if not is_over(run) or is_longer(run, recipe):
        return
    done = _steps_done(run)
    if recipe.budget is None and recipe.train.steps < done:
        raise _too_few(run, recipe, done)
    more = f"train.steps=N with an N above {done}"
    if recipe.budget is not None:
        more = f"a larger budget.{recipe.budget.unit}=X" + ("" if recipe.budget.reinvest else f", and {more}")
    raise BadInputError(
        f"{run.folder}: this run is done; there is nothing to resume; to train it longer, add {more}"
    )


def _too_few(run: Run, recipe: Recipe, done: int) -> BadInputError:
    spent = "" if recipe.budget is None else ", and has spent as much"
    asked = " ".join(_length(recipe))
    return BadInputError(
        f"{asked}: {run.folder} has been trained for {done} steps already{spent}; write more"
    )


def _length(recipe: Recipe) -> list[str]:
    """The settings that say how long a run is."""
    steps, budget = f"train.steps={recipe.train.steps}", recipe.budget
    if budget is None:
        return [steps]
    return [f"budget.{budget.unit}={budget.amount}", *([] if budget.reinvest else [steps])]


def departure(run: Run, recipe: Recipe, view: View) -> Departure | None:
    """From where a run goes on by a recipe; nothing of it is touched. None where it came to its end already.

    Raises BadInputError where it has checkpoints and none can be used, or none that the recipe could go on from.
    """
    info = run.read_info()
    longer = run.is_done and is_longer(run, recipe)
    if run.is_done and not longer:
        return None
    checkpoint = newest_checkpoint(run, view)
    known = None if checkpoint is None else checkpoint.fingerprint
    found = Departure(info, checkpoint, known or recorded(run, info))
    if longer and (checkpoint is None or checkpoint.step != _steps_done(run)):
        _raise_without_end(run, recipe, checkpoint)
    if checkpoint is None:
        if info.get("from_checkpoint"):
            raise BadInputError(
                f"{run.folder}: this run began from another model and ended before its first checkpoint; "
                "give the command that began it once more"
            )
        return replace(found, changed=changes(load_recipe(run.recipe_path), recipe))
    if not is_same_run(checkpoint.recipe, recipe):
        raise BadInputError(
            f"{run.checkpoints}: the newest checkpoint is one of another recipe than {run.recipe_path}; "
            "put the run's own in its place"
        )
    found = replace(found, changed=changes(checkpoint.recipe, recipe))
    _require_possible(run, recipe, found)
    if found.changed:
        _keep_best(run, checkpoint)
    return found


def _keep_best(run: Run, checkpoint: Checkpoint) -> None:
    """The best model stays the best one, also where it is of steps that are to be trained again, otherwise."""
    try:
        kept = Checkpoint.load(run.best_checkpoint)
    except BadInputError:  # none yet
        return
    step = kept.step
    # A cut that is on trial is not kept as the best model, whatever its evaluation; one that was judged at once may be.
    tried = checkpoint.recipe.compression.safety is not None and not _has_cut(run, kept)
    lines = (
        line for line in run.read_metrics() if line["step"] == step and not (tried and line.get("after_cut"))
    )
    primary, best = primary_of(checkpoint.recipe), None
    for value in (line.get(f"validation_{primary.name}") for line in lines):
        if value is not None and not is_number(value):
            raise BadInputError(
                f"{run.folder / 'metrics.jsonl'}: validation_{primary.name} of step {step} must be a number or null, "
                f"found {shorten(value)}; the run's record is damaged"
            )
        best = value if primary.is_better(value, best) else best
    if step > checkpoint.step and best is not None:
        assert checkpoint.training is not None
        checkpoint.training["best"] = {"value": best, "step": step}


def _has_cut(run: Run, kept: Checkpoint) -> bool:
    """Whether a model is what an accepted cut made of that of its step."""
    lines = [line_of_today(line) for line in run.read_compression() if line["step"] == kept.step]
    cut = {line["unit"]: line["after"] for line in lines if line["accepted"]}
    return bool(cut) and all(kept.sizes.get(unit) == after for unit, after in cut.items())


def _raise_without_end(run: Run, recipe: Recipe, checkpoint: Checkpoint | None) -> NoReturn:
    left = "none is left" if checkpoint is None else f"the newest is of step {checkpoint.step}"
    raise BadInputError(
        f"{run.folder}: this run cannot be trained longer: that takes the state of training of its last step, "
        f"{_steps_done(run)}, and {left} (versions before this one kept none); begin a longer run with: "
        f"{command('train', run.recipe_path, *_length(recipe))}"
    )


def _require_possible(run: Run, recipe: Recipe, found: Departure) -> None:
    assert found.checkpoint is not None
    assert found.checkpoint.training is not None
    length = any(key.partition(".")[0] == "budget" or key == "train.steps" for key in found.changed)
    if length and Standing.of(recipe, found.step, found.checkpoint.training).is_over:
        raise _too_few(run, recipe, found.step)
    moved = [key for key in found.changed if key.startswith("data.")]
    if moved and found.fingerprint is None:
        raise BadInputError(
            f"{moved[0]}: {run.folder} does not say which data it was trained on, so whether others are the same "
            f"cannot be known; leave it at {found.changed[moved[0]]['from']}"
        )


def set_out(run: Run, recipe: Recipe, found: Departure, view: View, keep_recipe: bool) -> None:
    """Make the folder that of a run which goes on so; its lock is held, and all that could be refused is settled.

    With ``keep_recipe`` the run's own stays, whatever it is gone on with.
    """
    run.remove_leftovers()
    if found.checkpoint is None:
        view.message("there is no checkpoint yet: beginning again from step 0")
        run.forget_after(-1)  # also what is told of step 0, which is told again
    else:
        path = run.last_checkpoint(found.step).relative_to(run.folder)
        before, training = found.checkpoint.recipe, found.checkpoint.training or {}
        earlier, here = (Standing.of(one, found.step, training) for one in (before, recipe))
        end = f"{'' if recipe.budget is None else 'about '}{here.expected:,}"
        view.message(f"going on from step {found.step:,} of {end} ({path})")
        if earlier.is_over and not here.is_over:
            run.set_aside(found.step)
        if change := described(before, recipe, found.step, training):
            view.message(change)
    if found.fingerprint is None and found.checkpoint is not None:
        view.message(
            "warning: the run does not say which data it was trained on; these are taken for the same"
        )
    # The last of them: until it is written, a run that had come to its end goes on to that end, and no further.
    if not keep_recipe and load_recipe(run.recipe_path) != recipe:
        run.write_recipe(recipe_to_yaml(recipe))


def record(found: Departure, command: str, processes: int) -> dict[str, Any]:
    """An entry of the list ``resumed`` of ``run.json``."""
    entry = {"command": command, "at": now(), "step": found.step, "processes": processes, "load": load()}
    return {**entry, "changed": found.changed} if found.changed else entry
