"""``compressm predict``: what a trained model says of a file, a folder, or standard input."""

from pathlib import Path
from typing import Annotated

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Device, Model, Plugins
from compressm_cli.core.text import counted

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm predict outputs/reviews new.csv --output said.csv",
        "compressm predict outputs/reviews new.jsonl data.text_column=body",
        "compressm predict outputs/reviews 'parts/part-*.csv' --output said.csv",
        "compressm predict outputs/pictures photos/ --output said.csv --top 3",
        "compressm predict outputs/reviews - < lines.txt",
    ),
)
def predict(
    model: Model,
    place: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A table, a pattern for several such as 'part-*.csv', a folder or file of texts, images or sounds, or "
            "- for standard input (a text a line, or another format with data.format=NAME).",
            autocompletion=candidates.files,
        ),
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT or KEY=VALUE",
            help="More tables; and how they are laid out, where not as the model's own data, such as "
            "data.text_column=body.",
            autocompletion=candidates.keys,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file .csv, .jsonl or .parquet to write.",
            autocompletion=candidates.files,
            show_default="csv, on standard output",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Tell the N most probable classes.",
            show_default="the first, and the probabilities of all where they are 20 or fewer",
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = "auto",
    plugin: Plugins = None,
) -> None:
    """Say the class, or the numbers, of each row of INPUT.

    Rows are encoded as those that the model was trained on: with its class names, standardization, sizes. A column
    of labels is not needed, and not read. Numbers are told in the unit of the training data.
    """
    from compressm_cli.engine.inputs import opened_input
    from compressm_cli.engine.prediction import Inference
    from compressm_cli.reports import open_model, predictions

    if output is not None:
        predictions.require_writable(output)
    checkpoint, chosen = open_model(model)
    console.tell(f"{model}: {chosen}")
    inference = Inference(checkpoint, device)
    settings = [word for word in more or [] if "=" in word and not Path(word).exists()]
    places = [place, *(word for word in more or [] if word not in settings)]
    with console.stderr().status("predicting"), opened_input(checkpoint, places, settings) as rows:
        columns = predictions.columns_of(inference(rows), top)
    for remark in inference.remarks(rows):
        console.warn(remark)
    if output is None:
        console.write(predictions.as_csv(columns))
        return
    predictions.write(columns, output)
    console.tell(f"{output}: {counted(len(rows), 'row')}")
