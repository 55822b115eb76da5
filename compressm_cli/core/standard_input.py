"""What comes by standard input."""

import sys
from typing import BinaryIO

from compressm_cli.core.errors import BadInputError


def standard_input() -> BinaryIO:
    """Its bytes; BadInputError where a process has none."""
    if sys.stdin is None or sys.stdin.closed:
        raise BadInputError(
            "standard input: it is closed; give a file, or let a pipe or a file be read by it"
        )
    return sys.stdin.buffer
