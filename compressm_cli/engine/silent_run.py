"""What the processes beside the main one have instead of a run folder."""

from typing import Any

from compressm_cli.runs.folder import Run


class SilentRun(Run):
    """The run of another process: it is named in messages; nothing is read of it, and nothing written to it."""

    def write_info(self, info: dict[str, Any]) -> None: ...

    def append_metrics(self, line: dict[str, Any]) -> None: ...

    def append_compression(self, line: dict[str, Any]) -> None: ...

    def read_metrics(self) -> list[dict[str, Any]]:
        return []

    def forget_after(self, step: int, undecided: int | None = None) -> None: ...
