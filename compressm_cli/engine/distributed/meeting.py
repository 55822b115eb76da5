"""How the processes of a run meet: who has come, and whether all were asked for the same."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

from compressm_cli.core.errors import BadInputError

Asked = Mapping[str, str | None]
"""What a process was asked for: options and their values, None where one was not given."""

WAITING_SECONDS = 30.0
"""How long a process waits for others before it says so."""
POLL_SECONDS = 0.02
MOST_NAMED = 3
"""Processes that a message names."""


class Arrivals:
    """Who of the processes of a run has not come yet, as far as this one knows."""

    def __init__(self, rank: int, size: int) -> None:
        self.missing = [other for other in range(size) if other != rank]
        self._rank, self._size = rank, size

    @contextmanager
    def announced(self, warn: Callable[[str], None]) -> Iterator[None]:
        """Within, ``warn`` is told once whom all wait for, where that takes long; by the first that has come."""

        def tell() -> None:
            missing = self.missing
            if not missing or self._rank != min(set(range(self._size)) - set(missing)):
                return
            warn(
                f"process {self._rank} of {self._size} waits for {_named(missing)} since {WAITING_SECONDS:.0f} s; "
                "each must be started with the same compressm train"
            )

        timer = threading.Timer(WAITING_SECONDS, tell)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def asked(self, store: dist.Store, own: Asked, timeout: timedelta) -> list[Asked]:
        """What each process was asked for, by rank, once all have come; RuntimeError where some do not."""
        store.set(_key(self._rank), json.dumps(own))
        until = time.monotonic() + timeout.total_seconds()
        while self.missing:
            self.missing = [other for other in self.missing if not store.check([_key(other)])]
            if self.missing and time.monotonic() > until:
                raise RuntimeError(f"{_named(self.missing)} did not come within {timeout}")
            time.sleep(POLL_SECONDS if self.missing else 0.0)
        return [json.loads(store.get(_key(rank))) for rank in range(self._size)]


def require_same(asked: Sequence[Asked]) -> None:
    """BadInputError where a process was asked for something else than process 0, of what both know."""
    main, told = asked[0], []
    for rank, own in enumerate(asked):
        what = next((key for key in main if key in own and own[key] != main[key]), None)
        if what is not None:
            told.append(f"{what} {_value(own[what])} in process {rank}, {_value(main[what])} in process 0")
    if told:
        more = f"; and {len(told) - MOST_NAMED} more" if len(told) > MOST_NAMED else ""
        raise BadInputError(
            f"the {len(asked)} processes of this run were asked for different things: "
            f"{'; '.join(told[:MOST_NAMED])}{more}; start all of them with the same command"
        )


def _key(rank: int) -> str:
    return f"asked {rank}"


def _value(value: str | None) -> str:
    return "not given" if value is None else value


def _named(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:MOST_NAMED]))
    more = f" and {len(ranks) - MOST_NAMED} more" if len(ranks) > MOST_NAMED else ""
    return f"process {shown}" if len(ranks) == 1 else f"processes {shown}{more}"
