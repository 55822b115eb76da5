"""A folder of transformers that was cut in one shot, trained on in a run, and saved as a folder again."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.axes import declared
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.core.files import unwritable
from compressm_cli.data.encodings import Encoding, Ids, Tokenizer
from compressm_cli.data.interface import Dataset
from compressm_cli.data.tokenizer import TOKENIZER, read_tokenizer
from compressm_cli.engine import experiment
from compressm_cli.engine.evaluation import evaluate
from compressm_cli.engine.settling import tried_out
from compressm_cli.engine.view import View
from compressm_cli.exchange.folders import Folder
from compressm_cli.exchange.saving_folders import save_folder
from compressm_cli.models import External
from compressm_cli.models.discovered import FoundAxes
from compressm_cli.objectives import Language, objective_of
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.runs.folder import Run
from compressm_cli.structure.map import tensors_of
from compressm_cli.structure.surgery import sizes

NETWORK = "network"
"""Where a folder's network is in a model of a run."""


@dataclass(frozen=True)
class Recovery:
    """A recipe that trains the network of a folder on, with its data."""

    folder: Folder
    recipe: Recipe
    dataset: Dataset

    @classmethod
    def of(cls, folder: Folder, source: str) -> "Recovery":
        """By a recipe file whose model is this folder and whose data are tokens for it; the network is left as it is.

        Raises BadInputError for a recipe of another model, of other data than tokens that the folder's tokenizer makes,
        or are numbers already, and of several seeds, of which no folder could be written.
        """
        recipe = load_recipe(source)
        if len(recipe.seeds) > 1:
            raise BadInputError(
                f"{source}: seeds: {len(recipe.seeds)} of them, and one folder is written; write one, seeds: [0]"
            )
        _require_model(folder, recipe, source)
        here = recipe.model.model_copy(update={"network": None, "axes": None})
        recipe = recipe.model_copy(update={"model": here}).located()
        dataset = experiment.load_data(recipe)
        if told := recipe.data.unjudged():
            raise BadInputError(f"{source}: data: nothing can be learned of them: {told}")
        if not isinstance(objective_of(recipe, dataset.spec), Language):
            raise BadInputError(
                f"{source}: objective: a language model is trained on the next tokens; write kind: language, or leave "
                "objective out"
            )
        _require_tokens(folder, dataset.encoding, source)
        tried_out(recipe, dataset)
        return cls(folder, recipe, dataset)

    def loss(self, network: nn.Module) -> float:
        """The loss of a network like the folder's, in nats a token, on the validation split of the recipe's data."""
        spec = self.dataset.spec
        objective, rows = objective_of(self.recipe, spec), self.recipe.train.rows()
        return evaluate(
            External(network, spec, True), self.dataset.validation, rows, objective=objective
        ).loss

    def checkpoint(self, axes: FoundAxes) -> Checkpoint:
        """What the run begins with: the folder's network as it is now; ``axes`` are those that it had uncut."""
        model: Any = self.recipe.model
        recipe = self.recipe.model_copy(
            update={"model": model.model_copy(update={"axes": axes.within(NETWORK)})}
        )
        whole = nn.ModuleDict({NETWORK: self.folder.model})
        values = {name: value.detach().clone() for name, value in tensors_of(whole).items()}
        return Checkpoint(
            recipe,
            self.dataset.spec,
            sizes(whole),
            values,
            fingerprint=self.dataset.fingerprint,
            encoding=self.dataset.encoding,
        )

    def train(self, axes: FoundAxes, view: View, command: str) -> Run:
        """The run that trains the folder's network on, as it is now."""
        initial = self.checkpoint(axes)
        recipe = self.recipe.model_copy(update={"model": initial.recipe.model})
        return experiment.start(recipe, recipe.seeds[0], self.dataset, view, command, initial=initial)

    def calibrates(self, text: Path) -> bool:
        """Whether a text is one of the files that the recipe's splits are cut of."""
        files = {file.resolve() for found in self.recipe.data.sources().values() for file in found}
        return text.resolve() in files


def require_saveable(folder: Folder, output: Path) -> None:
    """Before it is trained on: BadInputError where a folder's network, as it is now, could not be saved."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=output.parent) as place:
            save_folder(folder.model, Path(place) / "cut", folder.tokenizer_files)
    except OSError as error:
        raise RunFailedError(unwritable(output, error, "choose another place")) from error


def save_recovered(folder: Folder, run: Run, output: Path) -> tuple[nn.Module, list[Path]]:
    """Write what a run made of a folder's network to a new folder; the network, and the files."""
    model = Checkpoint.load(run.final_checkpoint).build_model().eval()
    assert isinstance(model, External)
    return model.network, save_folder(model.network, output, folder.tokenizer_files, axes=declared(model))


def _require_model(folder: Folder, recipe: Recipe, source: str) -> None:
    """BadInputError where the recipe's model is another than the folder with its weights."""
    config: Any = recipe.model
    write = f"write model: {{from: {folder.path}}}"
    if not isinstance(config, External.Config) or config.folder is None:
        raise BadInputError(f"{source}: model: is of kind {config.kind}, and a folder is trained on; {write}")
    if Path(config.folder).expanduser().resolve() != folder.path.resolve():
        raise BadInputError(
            f"{source}: model.from: {config.folder} is another folder than the one cut; {write}"
        )
    if not config.begins_with_folder:
        raise BadInputError(f"{source}: model.weights: fresh ones would be no recovery; leave weights out")


def _require_tokens(folder: Folder, encoding: Encoding | None, source: str) -> None:
    """BadInputError where the data are no tokens of the folder's tokenizer, as far as they say."""
    place, inputs = folder.path / TOKENIZER, None if encoding is None else encoding.inputs
    if isinstance(inputs, Ids):
        return
    write = f"write task: tokens, with vocabulary: {_vocabulary(folder)} and tokenizer: {place}"
    if not isinstance(inputs, Tokenizer):
        raise BadInputError(f"{source}: data: are not tokens as the folder's tokenizer makes them; {write}")
    if json.loads(inputs.json_text) != json.loads(read_tokenizer(place)):
        raise BadInputError(f"{source}: data.tokenizer: is another one than the folder's; {write}")


def _vocabulary(folder: Folder) -> int:
    config: Any = folder.model.config
    return int(config.get_text_config().vocab_size)
