"""What ends a process when the one that started it is gone, however that ended.

The parent gives a pipe as standard input and says so in the environment. The system closes the parent's end with the
parent, and this process then ends as by SIGTERM: a training writes a checkpoint.
"""

import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress

VARIABLE = "COMPRESSM_LIFELINE"


def tied(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process whose standard input is such a pipe."""
    return {**environment, VARIABLE: "stdin"}


def hold_on() -> None:
    """Watch the pipe from now on, where the parent gave one; processes that this one starts know nothing of it."""
    if os.environ.pop(VARIABLE, None) == "stdin":
        threading.Thread(target=_wait, name="lifeline", daemon=True).start()


def _wait() -> None:
    with suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
