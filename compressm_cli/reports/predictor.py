"""``compressm_cli.Predictor``: what a trained model says of files, or of rows in memory."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # what a model takes is imported when there is one
    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.engine.prediction import Predictions
    from compressm_cli.runs.folder import Run


class Predictor:
    """A trained model that is asked for classes or numbers: it encodes rows as those that it was trained on.

    Its answers are ``Predictions``: ``names`` of the rows in their order, and ``classes``, ``probabilities`` (rows,
    classes) in the order of ``class_names``, or ``targets`` (rows, targets) in the unit of the training data, called
    ``target_names``, or ``texts``, the translation of each.
    """

    def __init__(self, checkpoint: "Checkpoint", device: Literal["auto", "cpu", "cuda"] = "auto") -> None:
        """Raises BadInputError for a model that says tokens, or whose checkpoint does not say what its inputs are."""
        from compressm_cli.engine import prediction

        self._checkpoint = checkpoint
        self._model = prediction.Inference(checkpoint, device)

    @classmethod
    def open(cls, place: "str | Path | Run", device: Literal["auto", "cpu", "cuda"] = "auto") -> "Predictor":
        """That of a checkpoint or a run, as ``compressm_cli.load`` finds it. Raises as that does, too."""
        from compressm_cli import exchange

        return cls(exchange.load(place), device)

    def of(self, rows: Iterable[Any]) -> "Predictions":
        """What the model says of rows: texts; series; images, as arrays or files; recordings, as files.

        A text is str, or bytes in UTF-8. A series is (steps, channels), or (steps,) of one channel, in the unit of the
        training data; series may differ in length. An image is (height, width) or (height, width, channels) uint8.
        Raises BadInputError for a row that cannot be encoded, and TypeError for what is no such row.
        """
        from compressm_cli.engine.given_rows import given_rows

        return self._said(given_rows(self._model.encoding.inputs, rows))

    def file(self, place: "str | Path | Sequence[str | Path]", *settings: str) -> "Predictions":
        """What it says of a file or folder, or of several tables, laid out as the model's own data or as settings say.

        These are as of ``compressm predict``: ``data.text_column=body``. Raises BadInputError for what cannot be read.
        """
        from compressm_cli.engine.inputs import opened_input

        places = [str(place)] if isinstance(place, str | Path) else list(map(str, place))
        with opened_input(self._checkpoint, places, settings) as rows:
            return self._said(rows)

    def _said(self, rows: Any) -> "Predictions":
        said = self._model(rows)
        for remark in self._model.remarks(rows):
            warnings.warn(remark, stacklevel=3)
        return said
