"""What ``compress --budget`` does and shows."""

import re
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compressm_cli.cli import console
from compressm_cli.core.errors import BadInputError

if TYPE_CHECKING:
    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.data.interface import Dataset
    from compressm_cli.engine.evaluation import Evaluation
    from compressm_cli.engine.folder_pruning import PrunedFolder
    from compressm_cli.engine.folder_recovery import Recovery
    from compressm_cli.engine.pruning import PrunedModel
    from compressm_cli.pruning import Pruned

ScoreName = Literal["taylor", "least_squares", "magnitude", "random"]
"""As ``compressm_cli.pruning.SCORES`` has them, which a command line need not import."""

How = tuple[str, str, bool, bool, int]
"""The budget as it was typed, the score, whether is folded, whether uniformly, and in how many rounds."""


def share_of(budget: str) -> float:
    """``flops=0.6x`` -> 0.6; BadInputError for anything else."""
    found = re.fullmatch(r"flops=(\d*\.?\d+)x", budget)
    if found is None or not 0 < float(found[1]) < 1:
        raise BadInputError(
            f"--budget {budget}: write flops= and a share of the model's FLOPs, above 0 and below 1, such as flops=0.6x"
        )
    return float(found[1])


def compressed(path: Path, how: How, overrides: list[str], evaluated: bool) -> tuple[str, "PrunedModel"]:
    """A model of ours, cut to a budget; and which checkpoint it was."""
    from compressm_cli.engine.pruning import prune_checkpoint

    budget, score, fold, uniform, rounds = how
    share = share_of(budget)
    with console.stderr().status("compressing"):
        chosen, known, dataset, wanted = opened(path, overrides)
        done = prune_checkpoint(
            known,
            dataset,
            share,
            score,
            fold=fold,
            uniform=uniform,
            rounds=rounds,
            evaluated=evaluated,
            wanted=wanted,
        )
    return chosen, done


def opened(path: Path, overrides: list[str]) -> tuple[str, "Checkpoint", "Dataset", bool]:
    """A model of ours with its recipe's overrides: which one it is, its data, and whether these were asked for."""
    from dataclasses import replace

    from compressm_cli import reports
    from compressm_cli.engine import experiment
    from compressm_cli.engine.same_data import names_data
    from compressm_cli.recipe import recipe_from_mapping, recipe_to_mapping

    checkpoint, chosen = reports.open_model(path)
    recipe = recipe_from_mapping(recipe_to_mapping(checkpoint.recipe), f"{path}: recipe", overrides)
    dataset = experiment.load_data(recipe)
    return chosen, replace(checkpoint, recipe=recipe.located()), dataset, names_data(overrides)


def _has_runs(path: Path) -> bool:
    from compressm_cli.runs.folder import Run

    try:
        return bool(Run.find(path))
    except BadInputError:
        return False


def folder_to_budget(path: Path, data: Path, how: How, output: Path, json: bool, recover: str | None) -> None:
    """A folder of transformers, cut to a budget, perhaps trained on, written as another one, and shown."""
    budget, score, fold, uniform, rounds = how
    share = share_of(budget)
    if path.is_file() or _has_runs(path):
        raise BadInputError("--data goes with a folder of transformers; a model of ours takes data.KEY=VALUE")
    from compressm_cli.engine.folder_pruning import prune_folder
    from compressm_cli.engine.folder_recovery import Recovery
    from compressm_cli.exchange.folders import open_folder
    from compressm_cli.exchange.saving_folders import save_folder

    with console.stderr().status("compressing"):
        folder = open_folder(path)
        recovery = None if recover is None else Recovery.of(folder, recover)
        first = None if recovery is None else recovery.loss(folder.model)
        done = prune_folder(folder, data, share, score, fold=fold, uniform=uniform, rounds=rounds)
    if not json:
        show(done.pruned)
        console.stdout().print(
            f"validation loss {done.before:.4f} -> {done.after:.4f}, on {done.tokens:,} tokens"
        )
    told: dict[str, Any] = {}
    if recovery is None or first is None:
        files = save_folder(folder.model, output, folder.tokenizer_files)
    else:
        files, told = _recovered(recovery, done, first, data, output)
    if json:
        validation = {"before": done.before, "after": done.after, "tokens": done.tokens}
        told = {**as_json(done.pruned), "validation": validation, **told}
        content = {"model": str(path), "output": str(output), **told}
        console.write(dumps(content, indent=2, allow_nan=False) + "\n")
        return
    lines = [str(file) for file in files]
    if told:
        known = told["recovery"]
        losses = " -> ".join(f"{known[key]:.4f}" for key in ("before", "cut", "after"))
        lines = [f"loss on {known['data']}: {losses} (before, cut, recovered)", *lines, known["run"]]
    for line in lines:
        console.stdout().print(line, markup=False, soft_wrap=True)


def _recovered(
    recovery: "Recovery", done: "PrunedFolder", first: float, text: Path, output: Path
) -> tuple[list[Path], dict[str, Any]]:
    """A folder's network, which was cut, trained on and written; the files, and what is told of it."""
    import sys

    from compressm_cli.cli.train import command_line, draw_plots
    from compressm_cli.engine.folder_recovery import require_saveable, save_recovered
    from compressm_cli.render.plain_view import make_view

    if recovery.calibrates(text):
        console.warn(
            f"{text} is also data of the recipe: rows of its validation split may have calibrated the cut, and "
            "its loss there may be too low; give --data a text apart from it"
        )
    with console.stderr().status("trying out how it is saved"):
        require_saveable(recovery.folder, output)
        cut = recovery.loss(recovery.folder.model)
    run = recovery.train(done.axes, make_view(sys.stderr), command_line())
    draw_plots(run)
    network, files = save_recovered(recovery.folder, run, output)
    losses = {"before": first, "cut": cut, "after": recovery.loss(network)}
    told = {"run": str(run.folder), "data": "the validation split of the recipe's data", **losses}
    return files, {"recovery": told}


def as_json(pruned: "Pruned") -> dict[str, Any]:
    """The plan's records, folds and costs as plain data."""
    return {
        "axes": [record.line() for record in pruned.plan.records],
        "folds": [asdict(fold) for fold in pruned.folds],
        "flops": {"before": pruned.before.flops, "after": pruned.after.flops},
        "parameters": {"before": pruned.before.parameters, "after": pruned.after.parameters},
        "price": pruned.price,
        "price_reason": pruned.no_price,
    }


def model_as_json(done: "PrunedModel") -> dict[str, Any]:
    """All that is told of a model of ours, but the files."""
    reason = done.checkpoint.recipe.data.unjudged() or "not evaluated: --no-evaluation"
    return {
        "data": done.data,
        **as_json(done.pruned),
        "validation": {
            "before": None if done.before is None else done.before.record(),
            "after": None if done.after is None else done.after.record(),
            "reason": None if done.after else reason,
        },
    }


def show(pruned: "Pruned") -> None:
    """The axes, the folds and what it all comes to."""
    from compressm_cli.core.quantities import quantity

    out = console.stdout()
    table = console.table("axis", "units", "FLOPs saved", "parameters\nsaved", "price", "what was done")
    for record in pruned.plan.records:
        size = f"{record.before} -> {record.after}" if record.is_change else str(record.after)
        known = record.details
        saved = quantity(known["flops_saved"], "flops") if known else "-"
        fewer = f"{known['parameters_saved']:,.0f}" if known else "-"
        price = _price(known.get("price"))
        table.add_row(*map(console.escape, (record.unit, size, saved, fewer, price, record.reason)))
    out.print(table)
    if pruned.folds:
        folds = console.table("folded into", "inputs", "output's error,\nsilent", "folded", "what was folded")
        for fold in pruned.folds:
            size = f"{fold.inputs} -> {fold.inputs - fold.removed}"
            row = (fold.module, size, _share(fold.error_silent), _share(fold.error), fold.reason)
            folds.add_row(*map(console.escape, row))
        out.print(folds)
    before, after = pruned.before, pruned.after
    out.print(f"FLOPs {before.flops:,.0f} -> {after.flops:,.0f} ({after.flops / before.flops:.3f}x)")
    out.print(f"parameters {before.parameters:,} -> {after.parameters:,}")
    told = f"no prediction of the loss: {pruned.no_price}"
    out.print(
        told if pruned.price is None else f"price: {_price(pruned.price)} of loss, predicted without folds"
    )


def show_model(done: "PrunedModel") -> None:
    """The same of a model of ours, with what it was measured on and how well it does."""
    show(done.pruned)
    console.stdout().print(f"data: {done.data}", markup=False, soft_wrap=True)
    show_validation(done.checkpoint, done.before, done.after)


def show_validation(
    checkpoint: "Checkpoint", before: "Evaluation | None", after: "Evaluation | None"
) -> None:
    """Loss and primary metric before and after a cut; nothing where they were not measured."""
    from compressm_cli.objectives import primary_of

    if before is None or after is None:
        return
    metric = primary_of(checkpoint.recipe)
    values = (metric.precisely(before.value(metric)), metric.precisely(after.value(metric)))
    console.stdout().print(
        f"validation loss {before.loss:.4f} -> {after.loss:.4f}, {metric.title} {values[0]} -> {values[1]}"
    )


def _price(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
