"""What a one-shot cut to a budget of FLOPs costs a trained model, by each score, with folds and without.

    python benchmarks/pruning.py outputs/text-lm-decoder-baseline [--budgets 0.8,0.6] [--scores taylor,random]
        [--rows 256] [--rounds 1] [--uniform] [--markdown] [data.path=corpus.txt]

Trains nothing. MODEL is a run, or a checkpoint of ours, as ``compressm compress`` takes it. Each cut begins with the
whole model and is calibrated on its training data, as ``compress --budget`` does it; the loss is that of its validation
data, of at most so many rows, from all over them. Prints the losses and, for scores that are prices, the increase of
the loss that was predicted beside the one that came of it without folds. The same model, data and options print the
same figures on one machine.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.pruning import opened
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import Dataset
from compressm_cli.data.split import spread
from compressm_cli.engine.evaluation import evaluate
from compressm_cli.engine.precision import prepare
from compressm_cli.engine.pruning import CALIBRATION_BATCHES, prune_checkpoint
from compressm_cli.objectives import objective_of
from compressm_cli.pruning import SCORES


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the model's recipe")
    parser.add_argument("--budgets", type=_shares, default=[0.8, 0.6], metavar="SHARE,...")
    parser.add_argument("--scores", type=_scores, default=list(SCORES), metavar="NAME,...")
    parser.add_argument("--rows", type=int, default=256, metavar="N", help="of the validation split, at most")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="that each cut is made in")
    parser.add_argument("--uniform", action="store_true", help="layers that are built alike stay alike")
    parser.add_argument("--markdown", action="store_true", help="a table for a page")
    options = parser.parse_args()
    prepare(torch.device("cpu"), "fp32")  # as a training run does
    try:
        chosen, checkpoint, dataset, wanted = opened(options.model, options.overrides)
        _print(chosen, checkpoint, dataset, wanted, options)
    except BadInputError as error:
        parser.error(str(error))


def _shares(text: str) -> list[float]:
    found = [float(part) for part in text.split(",")]
    if not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError("budgets are shares of the FLOPs, above 0 and below 1")
    return found


def _scores(text: str) -> list[str]:
    found = text.split(",")
    if unknown := [name for name in found if name not in SCORES]:
        raise argparse.ArgumentTypeError(f"there is no score {unknown[0]}; there are {', '.join(SCORES)}")
    return found


def _print(
    chosen: str, checkpoint: Checkpoint, dataset: Dataset, wanted: bool, options: argparse.Namespace
) -> None:
    recipe, validation = checkpoint.recipe, dataset.validation
    judged = validation.rows(spread(len(validation), options.rows))
    objective = objective_of(recipe, dataset.spec)

    def loss_of(known: Checkpoint) -> float:
        return evaluate(known.build_model(), judged, recipe.train.rows(), objective=objective).loss

    whole = loss_of(checkpoint)
    print(f"{recipe.name}, seed {recipe.seeds[0]}, step {checkpoint.step}, {chosen}")
    print(
        f"whole: loss {whole:.4f} on {len(judged)} validation rows; {CALIBRATION_BATCHES} calibration batches"
    )
    columns = ["score", "budget", "folded", "not folded", "price", "came of it", "too low by"]
    _row(columns, options.markdown)
    if options.markdown:
        _row(["---"] * len(columns), True)
    for score in options.scores:
        for share in options.budgets:
            how: dict[str, Any] = {
                "uniform": options.uniform,
                "rounds": options.rounds,
                "evaluated": False,
                "wanted": wanted,
            }
            folded, plain = (
                prune_checkpoint(checkpoint, dataset, share, score, fold=fold, **how)
                for fold in (True, False)
            )
            losses, price = [loss_of(done.checkpoint) for done in (folded, plain)], plain.pruned.price
            rise = None if price is None else losses[1] - whole
            ratio = rise / price if rise is not None and price else None
            numbers = [*losses, price, rise]
            cells = ["-" if number is None else f"{number:.4f}" for number in numbers]
            name = f"`{score}`" if options.markdown else score
            _row([name, f"{share}x", *cells, "-" if ratio is None else f"{ratio:.2g}x"], options.markdown)


def _row(cells: list[str], markdown: bool) -> None:
    line = f"| {' | '.join(cells)} |" if markdown else "".join(f"{cell:15}" for cell in cells)
    print(line.rstrip(), flush=True)


if __name__ == "__main__":
    main()
