"""What a trained model says of rows of files."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.data.encodings import Classes, Encoding, Numbers, SourceTarget, Tokens
from compressm_cli.data.rows import Rows
from compressm_cli.engine.precision import resolve_device
from compressm_cli.engine.workload import evaluation_rows
from compressm_cli.objectives.greedy import greedy

UNKNOWN = (
    "its checkpoint does not say how inputs are encoded: an earlier version wrote it, or the task {task} has no "
    "inputs of files; train it again with data of your own (docs/your-data.md)"
)


@dataclass(frozen=True)
class Predictions:
    """What a model says of some rows, in their order."""

    names: list[str]
    """What each row is called: its file, its id, or its number from 1."""
    class_names: list[str] | None = None
    probabilities: np.ndarray | None = None
    """(rows, classes) float64, each row of sum 1; None where the model says numbers."""
    target_names: list[str] | None = None
    targets: np.ndarray | None = None
    """(rows, targets) float64, in the unit of the training data; None where the model says classes."""
    texts: list[str] | None = None
    """The translation of each row, of a model that translates; None of others."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def classes(self) -> list[str]:
        """The class of each row: the most probable one, the first of equals."""
        assert self.class_names is not None, "the model says numbers"
        assert self.probabilities is not None, "beside the names"
        return [self.class_names[place] for place in self.probabilities.argmax(axis=1)]


def encoding_of(checkpoint: Checkpoint) -> Encoding:
    """What a model's inputs and outputs are; BadInputError where its checkpoint does not say it."""
    if checkpoint.encoding is None:
        task = checkpoint.recipe.data.task
        raise BadInputError(f"the model of {checkpoint.recipe.name}: {UNKNOWN.format(task=task)}")
    return checkpoint.encoding


class Inference:
    """A trained model, ready for rows: built once, in evaluation mode, in single precision."""

    def __init__(self, checkpoint: Checkpoint, device: str = "auto") -> None:
        """Raises BadInputError for a model that says tokens, or whose encoding is not known."""
        self.encoding = encoding_of(checkpoint)
        if isinstance(self.encoding.outputs, Tokens):
            name = f"the model of {checkpoint.recipe.name}"
            if checkpoint.recipe.model.looks_ahead:
                raise BadInputError(
                    f"{name} says tokens that are hidden from it, no classes; train a classifier that begins with its "
                    "weights: train.initial=RUN"
                )
            raise BadInputError(f"{name} says the token that follows; let it write with: compressm generate")
        self._device = resolve_device(device)
        self._model = checkpoint.build_model().to(self._device).eval()
        self._rows = evaluation_rows(checkpoint.recipe.train)
        self.longest = checkpoint.data.length
        """Steps of the longest row that the model was trained or judged on."""
        self.longest_seen = 0
        """Of those that it was asked for last."""

    def __call__(self, rows: Rows) -> Predictions:
        """What the model says of all the rows.

        Raises BadInputError for one that cannot be encoded, and RunFailedError for one of which the model says no
        numbers, naming it.
        """
        self.longest_seen = 0
        if isinstance(self.encoding.inputs, SourceTarget):
            return self._translated(rows, self.encoding.inputs)
        rows = self.encoding.inputs.pieces(rows)
        said = torch.cat(list(self._outputs(rows)))
        names = [rows.name(row) for row in range(len(rows))]
        outputs = self.encoding.outputs
        if isinstance(outputs, Numbers):
            return Predictions(names, target_names=list(outputs.names), targets=outputs.decode(said))
        assert isinstance(outputs, Classes), "tokens are refused"
        shares = said.double().softmax(dim=-1).numpy()
        return Predictions(names, class_names=list(outputs.names), probabilities=shares)

    def remarks(self, rows: Rows) -> list[str]:
        """What a user should know of rows that it was asked for."""
        found = [f"{rows.source}: {count:,} left out: {reason}" for reason, count in rows.left_out.items()]
        found += [f"{rows.source}: {warning}" for warning in rows.warnings]
        if rows.filled:
            found.append(f"{rows.source}: {rows.filled:,} rows end in NaN or empty: taken as shorter series")
        if self.longest_seen > self.longest:
            found.append(
                f"{rows.source}: rows of up to {self.longest_seen:,} steps; the model was trained on "
                f"{self.longest:,} at most"
            )
        return found

    @torch.inference_mode()
    def _translated(self, rows: Rows, inputs: SourceTarget) -> Predictions:
        """Greedy translations of texts."""
        texts = []
        for start in range(0, len(rows), self._rows):
            part = rows.taken(range(start, min(start + self._rows, len(rows))))
            beginnings = inputs.encode(part)[0].to(self._device, torch.int64)
            _finite(self._model(beginnings)[:, -1].float().cpu(), part)
            said = greedy(self._model, beginnings, inputs.end, inputs.target)
            texts += [inputs.text(tokens) for tokens in said.tolist()]
        return Predictions([rows.name(row) for row in range(len(rows))], texts=texts)

    @torch.inference_mode()
    def _outputs(self, rows: Rows) -> Iterator[Tensor]:
        """(some rows, outputs), on the CPU."""
        for start in range(0, len(rows), self._rows):
            part = rows.taken(range(start, min(start + self._rows, len(rows))))
            inputs, lengths = self.encoding.inputs.encode(part)
            self.longest_seen = max(self.longest_seen, inputs.shape[1])
            given = None if lengths is None else lengths.to(self._device)
            tokens = inputs if inputs.is_floating_point() else inputs.to(torch.int64)
            said = self._model(tokens.to(self._device), given)
            if said.ndim == 3:  # a forecast at each step, of which the last is asked for
                last = torch.full((len(said),), said.shape[1]) if lengths is None else lengths
                said = said[torch.arange(len(said)), last.to(said.device) - 1]
            yield _finite(said.float().cpu(), part)


def _finite(said: Tensor, rows: Rows) -> Tensor:
    """(rows, outputs) as they are; RunFailedError naming the first row of which they are no numbers."""
    odd = (~said.isfinite().all(dim=-1)).nonzero()
    if len(odd):
        raise RunFailedError(
            f"{rows.source}, row {rows.name(int(odd[0]))}: the model says numbers that are not finite; what is in "
            "the row is too large for it, or its weights are of no use"
        )
    return said
