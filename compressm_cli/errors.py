"""The errors that a user sees: one message, one exit code, no traceback."""


class CompressmError(Exception):
    """Base of every expected failure; ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class BadInputError(CompressmError):
    """What the user gave cannot be used: a recipe, an argument, a file, a data set (exit code 2)."""

    exit_code = 2


class RunFailedError(CompressmError):
    """A run started and could not go on: a diverged loss, a full disk (exit code 1)."""

    exit_code = 1
