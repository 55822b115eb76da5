"""``compressm compress``: cut the states of a trained model once, and perhaps train it on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressm_cli.cli import candidates, console, pruning
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Json, Plugins, share
from compressm_cli.cli.pruning import ScoreName
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import try_to_write, unwritable

if TYPE_CHECKING:
    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.engine.oneshot import OneShot

TARGETS = {
    "order": "target_order",
    "total": "target_order_total",
    "keep": "keep_fraction",
    "energy": "energy_threshold",
}
TARGET = "How much is kept (one of them)"
BUDGET = "With --budget"

app = typer.Typer(add_completion=False)


def _smaller_share(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value} is not in the range 0<x<1")
    return value


@app.command(
    cls=Command,
    epilog=examples(
        "compressm compress outputs/my-run --order 16 --output small.pt",
        "compressm compress mamba-130m --keep 0.5 --output half.pt data.path=text.txt",
        "compressm compress outputs/decoder --budget flops=0.6x --output small.pt",
        "compressm compress big.pt --energy 0.9 --output small.pt --recover my.yaml",
        "compressm compress llama --budget flops=0.6x --data text.txt --output small",
    ),
)
def compress(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A checkpoint (.pt), a run folder, or a folder with a Mamba or Mamba-2 model of Hugging Face or "
            "mamba-ssm.",
            autocompletion=candidates.models,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings instead of those of the model's recipe, such as data.path=corpus.txt or "
            "compression.calibration_batches=8.",
            autocompletion=candidates.keys,
        ),
    ] = None,
    order: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="States that every layer keeps.", rich_help_panel=TARGET),
    ] = None,
    total: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="States that all layers keep together.", rich_help_panel=TARGET
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            callback=_smaller_share,
            help="Share of the states kept, above 0 and below 1.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            callback=share,
            help="Share of the spectrum's sum to keep, above 0 and at most 1.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="flops=SHAREx",
            help="Units of all axes but states leave until no more than this share of its FLOPs is left.",
            rich_help_panel=TARGET,
        ),
    ] = None,
    score: Annotated[
        ScoreName | None,
        typer.Option(
            help="By what units leave: least increase of the loss, error of what reads them, size of weights, or lots.",
            show_default="taylor",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    no_fold: Annotated[
        bool,
        typer.Option(
            "--no-fold",
            help="Do not fold what units gave into what reads them.",
            rich_help_panel=BUDGET,
        ),
    ] = False,
    uniform: Annotated[
        bool,
        typer.Option(
            "--uniform", help="Layers that are built alike keep as many units.", rich_help_panel=BUDGET
        ),
    ] = False,
    rounds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Cut in so many parts, and judge and fold anew in each what is left; takes N times as long.",
            show_default="1",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text that calibrates and judges a language model of a folder of transformers.",
            autocompletion=candidates.files,
            rich_help_panel=BUDGET,
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT",
            help="How selective layers are reduced (see docs/methods/selective.md).",
            autocompletion=candidates.variants,
            show_default="the best for the layer",
        ),
    ] = None,
    distill: Annotated[
        int, typer.Option(metavar="N", min=0, help="Steps of local distillation a layer.")
    ] = 0,
    *,
    output: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="The checkpoint to write (.pt), or folder.", autocompletion=candidates.files
        ),
    ],
    recover: Annotated[
        str | None,
        typer.Option(
            metavar="RECIPE",
            help="Train the small model on, by this recipe.",
            autocompletion=candidates.recipes,
        ),
    ] = None,
    no_evaluation: Annotated[
        bool, typer.Option("--no-evaluation", help="Do not evaluate the validation split before and after.")
    ] = False,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Cut units of a trained model in one shot, and write the smaller model.

    Give one of --order, --total, --keep and --energy for states, or --budget for heads, neurons, channels and whatever
    else the model has. Calibration batches come from the data that the model was
    trained on. Layers are measured and reduced as the recipe's own compression says, where it has one.

    With --recover the small model is trained on with that recipe's data, training and compression; the run folder
    is then the last line on standard output. A folder of transformers is written when it is trained.
    """
    given = {"order": order, "total": total, "keep": keep, "energy": energy}
    target = {TARGETS[name]: value for name, value in given.items() if value is not None}
    if len(target) + (budget is not None) != 1:
        raise BadInputError("give exactly one of --order, --total, --keep, --energy and --budget")
    if budget is None and (score is not None or no_fold or uniform or rounds is not None):
        raise BadInputError(
            "--score, --no-fold, --uniform and --rounds go with --budget, such as --budget flops=0.6x"
        )
    if budget is not None and (variant is not None or distill):
        raise BadInputError("--variant and --distill are for states; they do not go with --budget")
    if data is not None and (budget is None or overrides):
        raise BadInputError("--data goes with --budget and a folder of transformers, without KEY=VALUE")
    _require_writable(output)
    if budget is not None:
        how = (budget, score or "taylor", not no_fold, uniform, rounds or 1)
        if data is not None:
            pruning.folder_to_budget(model, data, how, output, as_json, recover)
            return
        pruned = _to_budget(model, how, overrides or [], not no_evaluation, output, as_json)
        if recover is not None:
            _recover(pruned, recover)
        return
    compression: dict[str, Any] = {**target, "distill_steps": distill}
    if variant is not None:
        compression["variant"] = variant
    opened, done = _compressed(model, compression, overrides or [], not no_evaluation)
    if unjudged := done.checkpoint.recipe.data.unjudged():
        typer.echo(
            f"warning: the cut may fit the model's own data badly, and was not judged: {unjudged}", err=True
        )
    size = _write(done.checkpoint, output)
    if as_json:
        typer.echo(json.dumps(_as_json(model, output, size, done), indent=2, allow_nan=False))
    else:
        _show(f"{model}: {opened}", done, output, size)
    if recover is not None:
        _recover(done.checkpoint, recover)


def _to_budget(
    path: Path,
    how: pruning.How,
    overrides: list[str],
    evaluated: bool,
    output: Path,
    as_json: bool,
) -> "Checkpoint":
    from compressm_cli import exchange

    if exchange.is_network_of_others(path):
        raise BadInputError(
            f"{path}: a folder of transformers is cut by a text, and becomes a folder again; it takes --data FILE"
        )
    opened, done = pruning.compressed(path, how, overrides, evaluated)
    if unjudged := done.checkpoint.recipe.data.unjudged():
        console.warn(f"the cut may fit the model's own data badly, and was not judged: {unjudged}")
    size = _write(done.checkpoint, output)
    if as_json:
        told = {"model": str(path), "output": str(output), "bytes": size, **pruning.model_as_json(done)}
        typer.echo(json.dumps(told, indent=2, allow_nan=False))
        return done.checkpoint
    from compressm_cli.core.quantities import quantity

    out = console.stdout()
    out.print(f"{path}: {opened}, compressed", markup=False, soft_wrap=True)
    pruning.show_model(done)
    out.print(f"{output}: {quantity(size, 'bytes')}", markup=False, soft_wrap=True)
    return done.checkpoint


def _compressed(
    path: Path, compression: dict[str, Any], overrides: list[str], evaluated: bool
) -> tuple[str, "OneShot"]:
    from dataclasses import replace

    from compressm_cli import reports
    from compressm_cli.engine import experiment, oneshot
    from compressm_cli.engine.same_data import names_data

    checkpoint, chosen = reports.open_model(path)
    recipe = oneshot.asked(checkpoint.recipe, compression, f"{path}: recipe", overrides)
    with console.stderr().status("compressing"):
        dataset = experiment.load_data(recipe)
        known = replace(checkpoint, recipe=recipe.located())
        done = oneshot.compress(known, recipe.compression, dataset, evaluated, names_data(overrides))
    return chosen, done


def _write(checkpoint: "Checkpoint", output: Path) -> int:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        return checkpoint.save(output)
    except OSError as error:
        raise _unwritable(output, error) from error


def _require_writable(output: Path) -> None:
    """Before any work is done: BadInputError where the small model could not be written."""
    try:
        if output.exists():
            raise BadInputError(f"{output}: exists already; choose another --output")
        try_to_write(output)
    except OSError as error:
        raise _unwritable(output, error) from error


def _unwritable(output: Path, error: OSError) -> BadInputError:
    return BadInputError(unwritable(output, error, "choose another --output"))


def _recover(checkpoint: "Checkpoint", source: str) -> None:
    import sys

    from compressm_cli.cli.train import command_line, draw_plots
    from compressm_cli.engine import experiment
    from compressm_cli.engine.same_data import as_before, relation
    from compressm_cli.recipe import load_recipe
    from compressm_cli.render.plain_view import make_view

    recipe = load_recipe(source).model_copy(update={"model": checkpoint.recipe.model})
    dataset = as_before(checkpoint.fingerprint, experiment.load_data(recipe))
    told = relation(checkpoint, dataset, recipe.located().data, wanted=True)
    typer.echo(f"training on: {told}", err=True)
    for seed in recipe.seeds:
        run = experiment.start(
            recipe, seed, dataset, make_view(sys.stderr), command_line(), initial=checkpoint
        )
        draw_plots(run)
        typer.echo(str(run.folder))


def _as_json(model: Path, output: Path, size: int, done: "OneShot") -> dict[str, Any]:

    return {
        "model": str(model),
        "output": str(output),
        "bytes": size,
        "data": done.data,
        "layers": [record.line() for record in done.records],
        "parameters": {"before": done.parameters_before, "after": done.parameters_after},
        "validation": {
            "before": None if done.before is None else done.before.record(),
            "after": None if done.after is None else done.after.record(),
            "reason": None
            if done.after
            else done.checkpoint.recipe.data.unjudged() or "not evaluated: --no-evaluation",
        },
    }


def _show(chosen: str, done: "OneShot", output: Path, size: int) -> None:
    from compressm_cli.core.quantities import quantity
    from compressm_cli.reports.formats import percent, summed_gramians

    out = console.stdout()
    out.print(f"{chosen}, compressed", markup=False, soft_wrap=True)
    recipe = done.checkpoint.recipe
    real, batches = recipe.data.unjudged() is None, recipe.compression.calibration_batches
    known = [r.details for r in done.records]
    kinds = [
        (d["gramian"], real, batches, d["horizon"], d["realization"] is None) for d in known if d["gramian"]
    ]
    for kind in dict.fromkeys(kinds):
        out.print(f"by {summed_gramians(*kind)}", markup=False)
    distilled = any(d["output_error"] is not None for d in known)
    errors = [
        "recurrence's\nerror",
        "the same,\npredicted",
        *(["layer's error,\ndistilled"] if distilled else []),
    ]
    table = console.table("layer", "order", "variant", *errors, "what was done")
    for r, d in zip(done.records, known, strict=True):
        order = f"{r.before} -> {r.after}" if r.is_change else str(r.after)
        variant = d["variant"] or d["realization"] or "-"
        found = [d["measured_error"], d["predicted_error"], *([d["output_error"]] if distilled else [])]
        if d["kernel_order"] not in (None, r.after):
            order += f" [mamba-ssm's kernels: {d['kernel_order']}]"
        table.add_row(*map(console.escape, (r.title, order, variant, *map(percent, found), r.reason)))
    out.print(table)
    out.print(f"data: {done.data}", markup=False, soft_wrap=True)
    pruning.show_validation(done.checkpoint, done.before, done.after)
    out.print(f"parameters {done.parameters_before:,} -> {done.parameters_after:,}")
    out.print(f"{output}: {quantity(size, 'bytes')}", markup=False, soft_wrap=True)
