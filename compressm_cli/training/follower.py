"""What the processes beside the main one have instead of a run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compressm_cli.run import Run


class Follower(Run):
    """The run of another process: it is named in messages, and nothing is written to it."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def write_recipe(self, text: str) -> None: ...

    def write_info(self, info: dict[str, Any]) -> None: ...

    def write_summary(self, summary: dict[str, Any]) -> None: ...

    def append_metrics(self, line: dict[str, Any]) -> None: ...

    def read_metrics(self) -> list[dict[str, Any]]:
        return []

    def append_compression(self, line: dict[str, Any]) -> None: ...

    def forget_after(self, step: int, undecided: int | None = None) -> None: ...

    def remove_leftovers(self) -> None: ...
