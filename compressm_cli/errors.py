"""The errors that a user sees: one message, one exit code, no traceback."""

import shlex


class CompressmError(Exception):
    """Base of every expected failure; ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class BadInputError(CompressmError):
    """What the user gave cannot be used: a recipe, an argument, a file, a data set (exit code 2)."""

    exit_code = 2


class RunFailedError(CompressmError):
    """A run started and could not go on: a diverged loss, a full disk (exit code 1)."""

    exit_code = 1


class ElsewhereError(CompressmError):
    """Another process of the run failed, and says why; this one ends with the same exit code and says nothing."""

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f"process {rank} of this run failed; see its message")
        self.exit_code = exit_code


def command(*words: object) -> str:
    """A ``compressm`` command for a message, quoted so that a shell takes it as it is."""
    return shlex.join(["compressm", *map(str, words)])
