"""Language models in folders of transformers, cut to a budget of FLOPs in one shot."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.core.modes import in_evaluation_mode
from compressm_cli.data.split import spread
from compressm_cli.data.tokenizer import known_tokenizer, read_tokenizer
from compressm_cli.exchange.folders import Folder, example_of, open_folder
from compressm_cli.models.discovered import FoundAxes
from compressm_cli.pruning import AxesReport, Pruned, Workload, axes_report, prune
from compressm_cli.structure.discovery import TraceError, discover

LENGTH, ROWS = 128, 8
"""Tokens of a row, at most, and rows of a batch."""
CALIBRATION_BATCHES = 32
DATA_FREE = ("magnitude", "random")
"""Scores that look at no batches."""
HELD_OUT = 10
"""One row of so many, the last ones, may judge the model and calibrates nothing."""
HELD_BATCHES = 32


@dataclass(frozen=True)
class PrunedFolder:
    """A network that was cut to a budget."""

    pruned: Pruned
    before: float
    """The loss, in nats a token, on rows that calibrated nothing."""
    after: float
    tokens: int
    """On how many it is the mean."""
    axes: FoundAxes
    """Those that were found in it before the cut."""


def prune_folder(
    folder: Folder, text: Path, share: float, score: str, *, fold: bool, uniform: bool, rounds: int = 1
) -> PrunedFolder:
    """Find the axes of a folder's network, and cut it in place by a file of text.

    FLOPs are those of one row. Raises BadInputError for what is no such network or text, and for a budget that cannot
    be met, and RunFailedError where the plan cannot be carried out.
    """
    workload, held = _workload(folder, text)
    model, pinned = folder.model, _discovered(folder)
    axes = FoundAxes.of(model)
    before = _mean_loss(model, held)
    try:
        pruned = prune(
            model, workload, share, score, fold=fold, uniform=uniform, rounds=rounds, pinned=pinned
        )
    except ValueError as error:
        raise RunFailedError(f"nothing was cut: {error}") from error
    after = _mean_loss(model, held)
    return PrunedFolder(pruned, before, after, held[:, 1:].numel(), axes)


def axes_of_folder(path: Path, text: Path | None, score: str) -> AxesReport:
    """Open a folder, find its axes, and judge them by a file of text; nothing is changed.

    Without a text, the folder may have any network, FLOPs are those of an example of its inputs, and ``score`` is one
    that wants no data. Raises BadInputError as ``prune_folder``.
    """
    folder = open_folder(path)
    if text is not None:
        workload, _ = _workload(folder, text)
    elif score in DATA_FREE:
        workload = Workload(
            [], _no_loss, len, lambda model, example: model(**example), folder.example(1, LENGTH)
        )
    else:
        raise BadInputError(
            f"--score {score} looks at data; give --data FILE, a text, or --score {' or '.join(DATA_FREE)}"
        )
    return axes_report(folder.model, workload, score, pinned=_discovered(folder))


def _no_loss(model: nn.Module, batch: Any) -> Tensor:
    raise AssertionError("a score that looks at no data asks for no loss")


def _discovered(folder: Folder) -> dict[str, str]:
    """Find the axes of its network, which has them from then on; what is pinned, and why."""
    try:
        found = discover(folder.model, (), example_of(folder.model))
    except TraceError as error:
        raise BadInputError(f"{folder.path}: its axes cannot be found: {error}") from error
    return {name: why for name, (_, why) in found.pinned.items()}


def _workload(folder: Folder, text: Path) -> tuple[Workload, Tensor]:
    """What calibrates, and the rows that do not, from the last part of the text."""
    rows = _rows(folder, text)
    last = max(1, len(rows) // HELD_OUT)
    held = rows[-last:]
    held = held[spread(len(held), ROWS * HELD_BATCHES)]
    calibration = rows[spread(len(rows) - last, ROWS * CALIBRATION_BATCHES)]
    batches = calibration.split(ROWS)
    return Workload(batches, _loss, lambda batch: batch[:, 1:].numel(), _scores, calibration[:1]), held


def _rows(folder: Folder, text: Path) -> Tensor:
    """The tokens of a text in rows (rows, length) of the network's context, or shorter ones."""
    if folder.task != "language":
        raise BadInputError(f"{folder.path}: only language models (...ForCausalLM) are cut by a text")
    place = folder.path / "tokenizer.json"
    if not place.is_file():
        raise BadInputError(f"{folder.path}: there is no tokenizer.json, which makes tokens of the text")
    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"--data {text}: cannot be read as text in UTF-8: {error}") from error
    numbers = torch.tensor(known_tokenizer(read_tokenizer(place)).encode(content).ids, dtype=torch.int64)
    config: Any = folder.model.config
    length = min(LENGTH, int(getattr(config, "max_position_embeddings", None) or LENGTH))
    if len(numbers) < 2 * ROWS * length:
        raise BadInputError(
            f"--data {text}: has {len(numbers)} tokens; give at least {2 * ROWS * length} to calibrate and judge by"
        )
    if int(numbers.max()) >= config.vocab_size:
        raise BadInputError(f"{folder.path}: tokenizer.json has tokens that the network has not")
    return numbers[: len(numbers) // length * length].view(-1, length)


def _scores(model: nn.Module, tokens: Tensor) -> Tensor:
    found: Tensor = model(input_ids=tokens, use_cache=False).logits
    return found


def _loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return functional.cross_entropy(_scores(model, tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def _mean_loss(model: nn.Module, rows: Tensor) -> float:
    with torch.no_grad(), in_evaluation_mode(model):
        losses = [float(_loss(model, part)) * len(part) for part in rows.split(ROWS)]
    return sum(losses) / len(rows)
