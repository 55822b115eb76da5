"""``compressm eval``: language models asked tasks, and compared on the same items."""

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Device, Plugins
from compressm_cli.core.errors import BadInputError, command
from compressm_cli.core.files import try_to_write, unwritable

if TYPE_CHECKING:
    from rich.status import Status

    from compressm_cli.integrations.asked import Asked
    from compressm_cli.reports.task_results import ModelResult, ResultsFile

ITEMS, COMPARISON = "Which items", "Comparison"
RESULTS = ".json"

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm eval model --tasks hellaswag=swag.jsonl,perplexity=new.txt",
        "compressm eval model --tasks my-tasks/ --limit 1000 --output full.json",
        "compressm eval full.json small --tasks my-tasks/ --limit 1000 --margin 2",
    ),
)
def evaluate_tasks(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL",
            help="A language model: a checkpoint (.pt), a run, a folder of runs, or a folder of transformers or "
            "mamba-ssm with its tokenizer.json; or what --output has written (.json). Of several, each is compared "
            "with the first.",
            autocompletion=candidates.models,
        ),
    ],
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK,...",
            help="hellaswag=FILE.jsonl, mmlu=FILE.jsonl (mmlu.dev=FILE.jsonl holds the examples of --shots), "
            "perplexity=FILE.txt, a YAML file of lm-evaluation-harness or a folder of such, or the name of a task of "
            "the harness, whose data the hub has.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Ask so many items of each task, always the same: their content and --seed decide which.",
            rich_help_panel=ITEMS,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Of the items and of examples.", rich_help_panel=ITEMS),
    ] = 0,
    shots: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=100,
            help="Examples before each question; by default what a task says, of files none.",
            rich_help_panel=ITEMS,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            dir_okay=False,
            help="Also write the scores and what was said of each item, as JSON, to compare with later.",
            autocompletion=candidates.files,
        ),
    ] = None,
    margin: Annotated[
        float,
        typer.Option(
            metavar="POINTS",
            min=0.0,
            max=100.0,
            help="The largest loss that does not matter: no loss is reported only where a larger one is excluded.",
            rich_help_panel=COMPARISON,
        ),
    ] = 1.0,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Texts at once.")] = 16,
    context: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Tokens that a model is shown at once; by default what it was trained on. What is longer is cut on "
            "the left.",
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the models run.")] = "auto",
    plugin: Plugins = None,
) -> None:
    """Ask language models tasks such as HellaSwag and MMLU, and compare them on the same items.

    Tasks are those of lm-evaluation-harness (pip install 'compressm[eval]'), which score them. For a model's own test
    rows, of whatever kind, there is: compressm evaluate
    """
    from compressm_cli.integrations.asked import asked

    wanted = asked(tasks or [])
    fresh = [path for path in models if path.suffix != RESULTS]
    _require_sense(fresh, models, bool(tasks), output)
    report = _results(models, fresh, wanted, limit, seed, shots, batch_size, context, device)
    if output is not None:
        from compressm_cli.reports.task_results import write_results

        write_results(output, report)
    _show(report.models, margin, fresh)
    if output is not None:
        console.tell(f"results: {output}")


def _require_sense(fresh: list[Path], models: list[Path], tasks: bool, output: Path | None) -> None:
    if fresh and not tasks:
        raise BadInputError(
            f"{fresh[0]}: what is it to be asked? Give --tasks hellaswag=FILE.jsonl, for example (see: "
            f"{command('eval', '--help')}); on its own test rows it is judged by: {command('evaluate', fresh[0])}"
        )
    if tasks and not fresh:
        raise BadInputError(
            "--tasks: only results are given, and no model to be asked; leave it out, or give a model"
        )
    if not fresh and len(models) == 1:
        raise BadInputError(f"{models[0]}: the results of one model alone; give others to compare them with")
    if output is not None:
        if output.suffix != RESULTS:
            raise BadInputError(
                f"--output {output}: let its name end in {RESULTS}, by which results are known"
            )
        try:
            if not output.parent.is_dir():
                raise BadInputError(f"--output {output}: no such folder: {output.parent}")
            try_to_write(output)
        except OSError as error:
            raise BadInputError(unwritable(f"--output {output}", error, "choose another file")) from error


def _results(
    models: list[Path],
    fresh: list[Path],
    wanted: "Asked",
    limit: int | None,
    seed: int,
    shots: int | None,
    batch_size: int,
    context: int | None,
    device: str,
) -> "ResultsFile":
    """All models' results, in the order in which they are given."""
    with console.stderr().status("loading PyTorch" if fresh else "reading results") as status:
        from compressm_cli import __version__
        from compressm_cli.reports.task_results import ResultsFile, read_results

        known = {path: read_results(path) for path in models if path not in fresh}
        found: list[ModelResult] = []
        harness = next((file.harness for file in known.values()), None)
        benchmark = None
        if fresh:
            from compressm_cli.integrations.benchmarks import Benchmark, require_at_hand
            from compressm_cli.integrations.opening import open_language_model

            require_at_hand(wanted)
            opened = {path: open_language_model(path, context, device) for path in fresh}
            status.update("loading lm-evaluation-harness and the tasks, which takes some ten seconds")
            benchmark = Benchmark(wanted, shots, limit, seed)
            harness = benchmark.harness
        for path in models:
            if path in known:
                found += known[path].models
            elif benchmark is not None:
                found.append(benchmark.ask(opened[path], batch_size, _progress(status, path)))
    return ResultsFile(compressm=__version__, harness=harness, limit=limit, seed=seed, models=found)


def _progress(status: "Status", path: Path) -> "Callable[[str], Callable[[int, int], None]]":
    """Shows how much of what is asked is answered, on a terminal."""

    def begin(title: str) -> Callable[[int, int], None]:
        begun = monotonic()

        def tell(done: int, total: int) -> None:
            left = (monotonic() - begun) * (total - done) / done
            name = console.escape(str(path))
            status.update(f"{name}: {title}: {done:,} of {total:,} requests, {left:,.0f} s left")

        return tell

    return begin


def _show(models: "list[ModelResult]", margin: float, fresh: list[Path]) -> None:
    from compressm_cli.render.task_tables import paired_table, scores_table
    from compressm_cli.reports.paired import paired

    compared = [(other, paired(models[0], other)) for other in models[1:]]
    out = console.stdout()
    for model in models:
        console.show(out, scores_table(model))
    for other, found in compared:
        console.show(out, paired_table(models[0], other, found, margin / 100))
