"""What a cluster, or a person, sends to end a run early: the loop finishes its step, saves, and stops."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from compressm_cli.core.errors import CompressmError

EXIT_CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGUSR1": 138}
"""128 and the signal's number on Linux; the same elsewhere, whatever number the signal has there."""


class StoppedError(CompressmError):
    """A signal ended the run early, in good order."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.signal = name
        self.exit_code = EXIT_CODES[name]


class Stop:
    """Whether the run is to stop, and by which signal: None as long as it is not."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def _receive(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.signal is not None:
            if name == "SIGINT":
                raise KeyboardInterrupt
            return  # what was asked for is under way
        self.signal = name
        if name == "SIGINT" and sys.stderr.isatty():
            # Not print: the program may be in the middle of one.
            os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")


@contextmanager
def listening() -> Iterator[Stop]:
    """Within, the signals of EXIT_CODES ask to stop instead of ending the process; a second Ctrl-C does end it.

    Raises StoppedError at the end where a signal came too late to stop anything. Outside the main thread,
    where Python sets no handlers, nothing is caught.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {name: signal.signal(getattr(signal, name), stop._receive) for name in EXIT_CODES}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            # None: it was not set from Python.
            signal.signal(getattr(signal, name), signal.SIG_DFL if handler is None else handler)
    if stop.signal is not None:
        raise StoppedError(stop.signal, f"{stop.signal} came when the run was done; nothing was lost")
