"""The errors that a user sees: one message, one exit code, no traceback."""

from compressm_cli.core.invocation import INVOCATION


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

    def __init__(self, rank: int, exit_code: int, told: str | None = None) -> None:
        super().__init__(told or f"process {rank} of this run failed; see its message")
        self.exit_code = exit_code


class GroupEndedError(BaseException):
    """The processes of a run cannot go on together: one of them failed where the others could not know of it.

    No Exception: what recovers from an error that all of them have must not take this for one. ``error`` is what
    this process ends with: its own error, or an ElsewhereError.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def command(*words: object) -> str:
    """A ``compressm`` command for a message, quoted so that a shell takes it as it is."""
    return INVOCATION.command(*words)
