"""What ``--tasks`` asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compressm_cli.core.errors import BadInputError

HELLASWAG, MMLU, PERPLEXITY = "hellaswag", "mmlu", "perplexity"
DEV = "mmlu.dev"
NAMED = (HELLASWAG, MMLU, DEV, PERPLEXITY)
"""What may be asked of a file, as NAME=FILE."""
YAML = (".yaml", ".yml")
FORMS = "hellaswag=FILE.jsonl, mmlu=FILE.jsonl, perplexity=FILE.txt, FILE.yaml, a folder of such, or a task's name"


@dataclass(frozen=True)
class Asked:
    """The tasks of a command line."""

    files: dict[str, Path]
    """By one of ``NAMED``."""
    places: list[Path]
    """YAML files of tasks, and folders of them."""
    names: list[str]
    """Of tasks that lm-evaluation-harness brings along."""

    @property
    def needs_harness(self) -> bool:
        return bool(set(self.files) - {PERPLEXITY} or self.places or self.names)


def asked(texts: Sequence[str]) -> Asked:
    """Read the values of ``--tasks``, each with commas between tasks; BadInputError for what is none."""
    found = Asked({}, [], [])
    for text in (part.strip() for given in texts for part in given.split(",")):
        if not text:
            raise BadInputError(f"--tasks: nothing between two commas; write {FORMS}")
        name, equals, place = text.partition("=")
        if equals:
            if name not in NAMED:
                raise BadInputError(f"--tasks {text}: {name} is asked of no file; write {FORMS}")
            if name in found.files:
                raise BadInputError(f"--tasks {text}: {name} is there twice; give one file of it")
            found.files[name] = _there(Path(place), text)
        elif text.endswith(YAML) or Path(text).is_dir():
            found.places.append(_there(Path(text), text))
        elif Path(text).exists() or "/" in text:
            _there(Path(text), text)
            raise BadInputError(
                f"--tasks {text}: what is in it? Write NAME=FILE, with a name of {', '.join(NAMED)}"
            )
        elif text in (DEV, PERPLEXITY):
            raise BadInputError(f"--tasks {text}: is asked of a file of yours; write {text}=FILE")
        else:
            found.names.append(text)
    if DEV in found.files and MMLU not in found.files:
        raise BadInputError(f"--tasks {DEV}=...: examples for the questions of mmlu; give mmlu=FILE as well")
    return found


def _there(path: Path, text: str) -> Path:
    if not path.exists():
        raise BadInputError(f"--tasks {text}: no such file or folder: {path}")
    return path
