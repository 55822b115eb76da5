"""One of torchrun's processes in processes.py: ``compressm``, but it fails when it calls a function.

    torchrun ... losing.py HOW RANK PLACE CALL train RECIPE ...

The process of that rank is killed (HOW is SIGKILL), or meets an error (HOW is its name), at the CALL-th call of PLACE
(``module:name``), but not where torchrun has started it anew.
"""

import builtins
import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from compressm_cli.cli import main


def patched(place: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put ``wrap`` of a function, or of a method, in its place."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for inner in owners:
        owner = getattr(owner, inner)
    setattr(owner, name, wrap(getattr(owner, name)))


def at_call(place: str, number: int, do: Callable[[], None]) -> None:
    """Have ``do`` called before the ``number``-th call of a function."""
    calls = [0]

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] == number:
                do()
            return original(*args, **kwargs)

        return call

    patched(place, wrap)


def fail(how: str) -> None:
    """Be killed by a signal, or raise an error, of this name."""
    if how in signal.Signals.__members__:
        os.kill(os.getpid(), signal.Signals[how])
    raise getattr(builtins, how)


if __name__ == "__main__":
    how, rank, place, call, *arguments = sys.argv[1:]
    if os.environ["RANK"] == rank and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        at_call(place, int(call), lambda: fail(how))
    sys.exit(main.run(arguments))
