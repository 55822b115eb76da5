"""Reading files of others: whatever a library makes of their content, the message names the file."""

import errno
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from compressm_cli.core.errors import BadInputError, CompressmError

ADDRESS = re.compile(r"\s*'?<[^<>]* object at 0x[0-9a-fA-F]+>'?")
"""Where something is in memory, which tells a user nothing."""
LONGEST = 300
"""Characters of what a library says that are told."""


@contextmanager
def reading(place: object, problem: str, advice: str) -> Iterator[None]:
    """Within, a file is read; any failure becomes ``place: problem: what the library says; advice``, a BadInputError.

    Libraries raise nearly anything for content that is damaged, or larger than they like. What is told already passes,
    and so does want of memory, which is no fault of the file.
    """
    try:
        yield
    except (CompressmError, MemoryError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a library in Rust that gives up raises no Exception
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise
        told = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        line = ADDRESS.sub("", told.splitlines()[0])
        if len(line) > LONGEST:  # some say all that they found
            line = f"{line[:LONGEST]}..."
        raise BadInputError(f"{place}: {problem}: {line}; {advice}") from error


@contextmanager
def arrays_of_any_age() -> Iterator[None]:
    """Within, NumPy does not warn of arrays that Python 2 wrote: it reads them as any others, but slower."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Reading `.npy`")
        yield
