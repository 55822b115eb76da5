"""Running commands on hostile input, and what must hold whatever the input is."""

import hashlib
import io
import os
import resource
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from compressm_cli.cli import main
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import is_control
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.recipe.bounds import known_spec, least_parameters

LONGEST_OUTPUT = 60_000
MEMORY_BYTES = 600 * 2**20
"""How much more than before a refusal may take, at most."""
MARKER = "was-run"
"""The file that malicious input tries to make in the current folder."""


@dataclass
class Outcome:
    """What a command returned and wrote."""

    arguments: list[str]
    code: int
    out: str
    err: str


@dataclass
class Tally:
    """What became of the cases, by kind: refused, accepted, failures."""

    counts: dict[str, list[int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def add(self, kind: str, accepted: bool, problems: list[str]) -> None:
        """Count one case."""
        row = self.counts.setdefault(kind, [0, 0, 0])
        row[2 if problems else int(accepted)] += 1
        self.failures += [f"{kind}: {problem}" for problem in problems]
        for problem in problems:
            print(f"{kind}: {problem}", file=sys.stderr)

    def lines(self) -> Iterator[str]:
        """A table of the counts."""
        yield f"{'kind':34}{'refused':>9}{'accepted':>9}{'failures':>9}"
        for kind, row in sorted(self.counts.items()):
            yield f"{kind:34}{row[0]:9}{row[1]:9}{row[2]:9}"
        total = [sum(row[i] for row in self.counts.values()) for i in range(3)]
        yield f"{'all':34}{total[0]:9}{total[1]:9}{total[2]:9}"


def command(*arguments: str) -> Outcome:
    """Run one command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main.run(list(arguments))
    return Outcome(list(arguments), code, out.getvalue(), err.getvalue())


def snapshot(folder: Path) -> dict[str, str]:
    """Every file, folder and link below a folder, with its content; times and locks do not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """With this folder as the current one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def problems(outcome: Outcome, codes: Sequence[int] = (0, 2)) -> list[str]:
    """What is wrong with how a command ended."""
    told, text = [], outcome.out + outcome.err
    shown = f"{' '.join(outcome.arguments)[:200]} -> {outcome.code}: {outcome.err[-400:]!r}"
    if outcome.code not in codes:
        told.append(f"exit code: {shown}")
    if "Traceback" in text or "unexpected " in outcome.err:
        told.append(f"unexpected error: {shown}")
    if any(is_control(sign) for sign in text if sign != "\n"):
        told.append(f"control characters: {shown}")
    if len(text) > LONGEST_OUTPUT:
        told.append(f"{len(text)} characters: {shown[:200]}")
    if outcome.code == 2 and sum(line.startswith("error: ") for line in outcome.err.splitlines()) != 1:
        told.append(f"not one message: {shown}")
    return told


def refused(folder: Path, *arguments: str) -> list[str]:
    """What is wrong with how a command refuses bad input in ``folder``; nothing there may change."""
    before, memory = snapshot(folder), _peak()
    outcome = command(*arguments)
    told = problems(outcome, codes=(2,))
    after = snapshot(folder)
    told += [f"changed {name}: {arguments}" for name in before | after if before.get(name) != after.get(name)]
    if _peak() - memory > MEMORY_BYTES:
        told.append(f"took {(_peak() - memory) >> 20} MiB: {arguments}")
    return told


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---- recipes -------------------------------------------------------------------------------------------------


def check_recipe(
    folder: Path, overrides: list[str], dry_run: bool = False, train: bool = False
) -> tuple[bool, list[str]]:
    """Whether ``recipe.yaml`` in the folder is accepted, and what is wrong with how commands take it.

    A valid one is tried or trained, where that takes seconds only and is asked for.
    """
    told: list[str] = []
    with inside(folder):
        recipe = accepted("recipe.yaml", overrides)
        if not overrides and recipe is not None:
            told += problems(command("recipes", "validate", "recipe.yaml"), codes=(0,))
        elif not overrides:
            told += refused(folder, "recipes", "validate", "recipe.yaml")
        if recipe is None:
            told += refused(folder, "train", "recipe.yaml", "--dry-run", *overrides)
            told += refused(folder, "train", "recipe.yaml", *overrides)
        elif dry_run and is_small(recipe):
            before = snapshot(folder)
            told += problems(command("train", "recipe.yaml", "--dry-run", *overrides))
            told += [] if snapshot(folder) == before else ["a dry run changed files"]
        elif train and is_tiny(recipe):
            told += _trained(folder, recipe, overrides)
        told += [f"{MARKER} was made"] if Path(MARKER).exists() else []
    return recipe is not None, told


def _trained(folder: Path, recipe: Recipe, overrides: list[str]) -> list[str]:
    """Train for real; files appear below the root of the outputs, nowhere else, and none that was there changes."""
    before = snapshot(folder)
    # A learning rate may be what ends a valid run.
    told = problems(command("train", "recipe.yaml", "--quiet", *overrides), codes=(0, 1, 2))
    after, root = snapshot(folder), Path(os.path.normpath(recipe.output.root))
    told += [f"changed {name}" for name in before if after.get(name) != before[name]]
    new = [name for name in after if name not in before]
    told += [f"made {n}" for n in new if root not in Path(n).parents and Path(n) not in (root, *root.parents)]
    for name in {Path(name).parts[0] for name in new}:
        shutil.rmtree(folder / name)
    return told


def accepted(source: str, overrides: list[str]) -> Recipe | None:
    """The recipe, or None where it is refused, in whatever way: the commands will show."""
    try:
        return load_recipe(source, overrides)
    except Exception:
        return None


def is_small(recipe: Recipe) -> bool:
    """Whether a dry run is a matter of a few seconds."""
    data = known_spec(recipe)
    return least_parameters(recipe) < 10**5 and data is not None and data.length <= 1024


def is_tiny(recipe: Recipe) -> bool:
    """Whether a run is, below the current folder."""
    inside_here = not os.path.isabs(recipe.output.root) and ".." not in Path(recipe.output.root).parts
    size = recipe.train.steps * recipe.train.batch_size * len(recipe.seeds)
    return (
        inside_here
        and is_small(recipe)
        and recipe.data.task == "digits"
        and size <= 200
        and not recipe.train.compile
        and recipe.output.root not in (".", "")
    )


def fuzz_recipes(work: Path, count: int, seed: int, tally: Tally) -> None:
    """So many mutated recipes, each through the commands that read one."""
    from hostile_recipes import mutated

    chance = Random(seed)
    for number in range(count):
        folder = work / "recipe"
        folder.mkdir(parents=True)
        kind, data, overrides = mutated(chance)
        (folder / "recipe.yaml").write_bytes(data)
        (folder / "notes.txt").write_text("mine")
        tally.add(f"recipe: {kind}", *check_recipe(folder, overrides, number % 10 == 0, number % 10 == 5))
        shutil.rmtree(folder)


# ---- checkpoints ---------------------------------------------------------------------------------------------


def read(path: Path) -> bool:
    """Whether a checkpoint is accepted; anything but a BadInputError for one that is not, is raised."""
    from compressm_cli.checkpoint import Checkpoint

    try:
        Checkpoint.load(path)
    except BadInputError:
        return False
    return True


def check_checkpoint(folder: Path, chance: Random) -> tuple[bool, list[str]]:
    """Whether the damaged checkpoint of the run in a folder is accepted; what is wrong with how commands take it."""
    bad, good, run = "run/checkpoints/last-000000003.pt", "good.pt", "run"
    commands = [
        ["analyze", bad, "--no-plots"],
        ["compare", good, bad, "--no-speed", "--device", "cpu"],
        ["compress", bad, "--order", "2", "--no-evaluation", "--output", "written.pt"],
        ["export", bad, "--to", "safetensors", "--output", "written"],
        ["train", "--resume", run, "--quiet"],
    ]
    told: list[str] = []
    with inside(folder):
        memory = _peak()
        try:
            valid = read(Path(bad))
        except Exception as error:
            return False, [f"loading raised {type(error).__name__}: {str(error)[:200]}"]
        if _peak() - memory > MEMORY_BYTES:
            told.append(f"loading took {(_peak() - memory) >> 20} MiB")
        if not valid:
            for arguments in commands:
                told += refused(folder, *arguments)
        else:
            arguments = chance.choice(commands)
            # What is stored may be valid and yet not go on well: a run that diverges ends with 1.
            told += problems(command(*arguments), codes=(0, 1, 2))
        told += [f"{MARKER} was made"] if Path(MARKER).exists() else []
    return valid, told


def fuzz_checkpoints(work: Path, count: int, seed: int, tally: Tally) -> None:
    """So many damaged and malicious checkpoints in a run folder, each through the commands that read one."""
    from hostile_checkpoints import damaged, make_run

    source = make_run(work / "source")
    chance = Random(seed)
    for _ in range(count):
        folder = work / "checkpoint"
        shutil.copytree(source, folder, symlinks=True)
        kind, data = damaged(chance, (folder / "good.pt").read_bytes(), folder)
        (folder / "run" / "checkpoints" / "last-000000003.pt").write_bytes(data)
        tally.add(f"checkpoint: {kind}", *check_checkpoint(folder, chance))
        shutil.rmtree(folder)
