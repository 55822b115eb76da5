"""One training of many: a recipe with one seed, and the run that comes of it."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from compressm_cli.core.errors import BadInputError, CompressmError
from compressm_cli.core.files import write_atomically
from compressm_cli.engine.changes import identity
from compressm_cli.engine.resuming import is_over
from compressm_cli.engine.teaching import is_other
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_yaml
from compressm_cli.runs.folder import Run


@dataclass(frozen=True)
class Job:
    """A resolved recipe with its one seed; its ``name`` and ``output.root`` say where its run goes."""

    recipe: Recipe

    @property
    def seed(self) -> int:
        return self.recipe.seeds[0]

    @property
    def name(self) -> str:
        """What it is called where many are told of."""
        return f"{self.recipe.name}, seed {self.seed}"

    @property
    def stem(self) -> str:
        """Of the names of its files."""
        return f"{self.recipe.name}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """Of its runs: that of this seed, and of others of the same name."""
        return Path(self.recipe.output.root) / self.recipe.name

    def runs(self) -> list[Run]:
        """The runs of this recipe and seed, oldest first."""
        wanted, found = identity(self.recipe), []
        try:
            known = Run.find(self.folder)
        except BadInputError:  # none yet
            return []
        for run in known:
            try:
                if identity(load_recipe(run.recipe_path)) == wanted:
                    found.append(run)
            except CompressmError:  # damaged, or of another version of this tool
                continue
        return found

    def finished(self) -> Run | None:
        """The newest of them that came to its end and says so; None where there is none."""
        for run in reversed(self.runs()):
            with suppress(BadInputError):  # a damaged record
                if is_over(run) and not is_other(run.read_info(), self.recipe):
                    return run
        return None

    def write(self, folder: Path) -> Path:
        """Its recipe as a file for a process of its own: ``folder/<name>-seed<n>.yaml``."""
        path = folder / f"{self.stem}.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(path, recipe_to_yaml(self.recipe).encode())
        return path
