"""``compressm compress``: cut the states of a trained model once, and perhaps train it on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compressm_cli.cli import console
from compressm_cli.errors import BadInputError

if TYPE_CHECKING:
    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.training.oneshot import OneShot

TARGETS = {
    "order": "target_order",
    "total": "target_order_total",
    "keep": "keep_fraction",
    "energy": "energy_threshold",
}


@click.command()
@click.argument("model", metavar="CHECKPOINT_RUN_OR_FOLDER", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--order", type=click.IntRange(min=1), help="States that every layer keeps.")
@click.option("--total", type=click.IntRange(min=1), help="States that all layers keep together.")
@click.option(
    "--keep", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Share of the states kept."
)
@click.option(
    "--energy", type=click.FloatRange(0, 1, min_open=True), help="Share of the spectrum's sum to keep."
)
@click.option(
    "--variant", help="How selective layers are reduced (see docs/methods/selective.md). [default: default]"
)
@click.option("--distill", type=click.IntRange(min=0), default=0, help="Steps of local distillation a layer.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="The checkpoint to write (.pt)."
)
@click.option("--recover", metavar="RECIPE", help="Train the small model on, by this recipe.")
@click.option("--no-evaluation", is_flag=True, help="Do not evaluate the validation split before and after.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def compress(
    model: Path,
    overrides: tuple[str, ...],
    order: int | None,
    total: int | None,
    keep: float | None,
    energy: float | None,
    variant: str | None,
    distill: int,
    output: Path,
    recover: str | None,
    no_evaluation: bool,
    as_json: bool,
) -> None:
    """Cut the states of a trained model in one shot, and write the smaller model.

    CHECKPOINT_RUN_OR_FOLDER is a checkpoint (.pt), a run folder, or a folder with a Mamba or Mamba-2 model of Hugging
    Face or mamba-ssm. Give one of --order, --total, --keep and --energy. Calibration batches come from the data that
    the model was trained on. Layers are measured and reduced as the recipe's own compression says, where it has one;
    KEY=VALUE changes settings of the recipe, such as data.path=corpus.txt or compression.calibration_batches=8.

    With --recover the small model is trained on with that recipe's data, training and compression; the run folder
    is then the last line on standard output.
    """
    given = {"order": order, "total": total, "keep": keep, "energy": energy}
    target = {TARGETS[name]: value for name, value in given.items() if value is not None}
    if len(target) != 1:
        raise BadInputError("give exactly one of --order, --total, --keep and --energy")
    if output.exists():
        raise BadInputError(f"{output}: exists already; choose another --output")
    compression: dict[str, Any] = {**target, "distill_steps": distill}
    if variant is not None:
        compression["variant"] = variant
    opened, done = _compressed(model, compression, overrides, not no_evaluation)
    if unjudged := done.checkpoint.recipe.data.unjudged():
        click.echo(
            f"warning: the cut may fit the model's own data badly, and was not judged: {unjudged}", err=True
        )
    size = _write(done.checkpoint, output)
    if as_json:
        click.echo(json.dumps(_as_json(model, output, size, done), indent=2, allow_nan=False))
    else:
        _show(opened, done, output, size)
    if recover is not None:
        _recover(done.checkpoint, recover)


def _compressed(
    path: Path, compression: dict[str, Any], overrides: tuple[str, ...], evaluated: bool
) -> tuple[str, "OneShot"]:
    from dataclasses import replace

    from compressm_cli import reports
    from compressm_cli.training import experiment, oneshot

    checkpoint, chosen = reports.open_model(path)
    recipe = oneshot.asked(checkpoint.recipe, compression, f"{path}: recipe", overrides)
    with console.stderr().status("compressing"):
        dataset = experiment.load_data(recipe)
        done = oneshot.compress(replace(checkpoint, recipe=recipe), recipe.compression, dataset, evaluated)
    return chosen, done


def _write(checkpoint: "Checkpoint", output: Path) -> int:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        return checkpoint.save(output)
    except OSError as error:
        raise BadInputError(f"{output}: cannot be written: {error.strerror or error}") from error


def _recover(checkpoint: "Checkpoint", source: str) -> None:
    import sys

    from compressm_cli.cli.train import command_line, draw_plots
    from compressm_cli.recipe import load_recipe
    from compressm_cli.training import experiment
    from compressm_cli.training.view import make_view

    recipe = load_recipe(source).model_copy(update={"model": checkpoint.recipe.model})
    dataset = experiment.load_data(recipe)
    for seed in recipe.seeds:
        run = experiment.start(
            recipe, seed, dataset, make_view(sys.stderr), command_line(), initial=checkpoint
        )
        draw_plots(run)
        click.echo(str(run.folder))


def _as_json(model: Path, output: Path, size: int, done: "OneShot") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "model": str(model),
        "output": str(output),
        "bytes": size,
        "layers": [asdict(record) for record in done.records],
        "parameters": {"before": done.parameters_before, "after": done.parameters_after},
        "validation": {
            "before": None if done.before is None else asdict(done.before),
            "after": None if done.after is None else asdict(done.after),
            "reason": None
            if done.after
            else done.checkpoint.recipe.data.unjudged() or "not evaluated: --no-evaluation",
        },
    }


def _show(chosen: str, done: "OneShot", output: Path, size: int) -> None:
    from compressm_cli.reports.formats import percent, summed_gramians

    out = console.stdout()
    out.print(f"{chosen}, compressed", markup=False)
    recipe = done.checkpoint.recipe
    real, batches = recipe.data.unjudged() is None, recipe.compression.calibration_batches
    kinds = [(r.gramian, real, batches, r.horizon, r.realization is None) for r in done.records if r.gramian]
    for kind in dict.fromkeys(kinds):
        out.print(f"by {summed_gramians(*kind)}", markup=False)
    table = console.table(
        "layer", "order", "variant", "recurrence's\nerror", "the same,\npredicted", "what was done"
    )
    for r in done.records:
        order = (
            f"{r.order_before} -> {r.order_after}" if r.order_before != r.order_after else str(r.order_after)
        )
        variant = r.variant or r.realization or "-"
        errors = percent(r.measured_error), percent(r.predicted_error)
        if r.kernel_order not in (None, r.order_after):
            order += f" [mamba-ssm's kernels: {r.kernel_order}]"
        table.add_row(*map(console.escape, (r.layer, order, variant, *errors, r.reason)))
    out.print(table)
    before, after = done.before, done.after
    if before is not None and after is not None:
        out.print(
            f"validation loss {before.loss:.4f} -> {after.loss:.4f}, "
            f"accuracy {100 * before.accuracy:.2f} % -> {100 * after.accuracy:.2f} %"
        )
    out.print(f"parameters {done.parameters_before:,} -> {done.parameters_after:,}")
    out.print(f"{output}: {size:,} bytes", markup=False, soft_wrap=True)
