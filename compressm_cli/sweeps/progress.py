"""How far a run is, read from the files that it writes: by whoever did not start it, too."""

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressm_cli.objectives import Metric, primary_of
from compressm_cli.runs.folder import Run
from compressm_cli.sweeps.job import Job


@dataclass
class Progress:
    """What a run has told so far; None for what it has not told."""

    metric: Metric
    """By which it is judged."""
    share: float = 0.0
    """Of the run that is done: of its budget, where it has one, else of its steps."""
    spent: float = 0.0
    """The same by what was spent: of its budget, else of the FLOPs that all steps take without a cut."""
    step: int = 0
    total: int | None = None
    """Steps of the whole run; None where a budget decides."""
    loss: float | None = None
    value: float | None = None
    """Of the metric, on the validation split."""
    start_order: int | None = None
    order: int | None = None
    """States of all layers together, at the start and now."""
    judged: list[tuple[float, float]] = field(default_factory=list)
    """Each evaluation: what was ``spent`` by then, and the metric's value."""
    _uncut: float | None = None
    """FLOPs of a step at the start."""

    def read(self, line: dict[str, Any]) -> None:
        """Take in a line of ``metrics.jsonl``."""
        self.step = line["step"]
        if "progress" in line:
            self.share = float(line["progress"])
        elif self.total:
            self.share = min(1.0, self.step / self.total)
        if "flops" in line and self.step:
            self._uncut = self._uncut or line["flops"] / self.step
        if self.total is None or self._uncut is None:
            self.spent = self.share
        elif "flops" in line:
            self.spent = min(1.0, line["flops"] / (self._uncut * self.total))
        self.loss = line.get("train_loss", self.loss)
        if orders := line.get("orders"):
            self.order = sum(orders.values())
            self.start_order = self.order if self.start_order is None else self.start_order
        name = f"validation_{self.metric.name}"
        if line.get(name) is not None:
            self.value = float(line[name])
            self.judged.append((self.spent, self.value))


class Watch:
    """Follows the run of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._run: Run | None = None
        self._place: tuple[int, int] = (0, 0)
        """Which file it was, and how far it was read."""
        self._folders: set[str] = set()
        self.progress = self._blank()
        self._began: tuple[float, float] | None = None
        """When it was first seen to move, and how far it was then."""
        self._latest: tuple[float, float] | None = None
        """The same of the last time: runs tell of many steps at once."""

    def look(self) -> Progress:
        """Read what has been written since the last look."""
        if (run := self._newest()) is not None:
            self._read(run.folder / "metrics.jsonl")
        share = self.progress.share
        if share > 0 and (self._latest is None or share != self._latest[1]):
            self._latest = (time.monotonic(), share)
            self._began = self._began or self._latest
        return self.progress

    def seconds_left(self) -> float | None:
        """By the pace since it was first looked at."""
        if self._began is None or self._latest is None:
            return None
        (first, before), (last, share) = self._began, self._latest
        if share <= before or last <= first:
            return None
        at_last = (last - first) / (share - before) * (1 - share)
        return max(0.0, at_last - (time.monotonic() - last))

    def _blank(self) -> Progress:
        recipe = self._job.recipe
        return Progress(primary_of(recipe), total=recipe.train.steps if recipe.budget is None else None)

    def _newest(self) -> Run | None:
        """The run that is trained: the newest of this recipe and seed. Looked for only where folders came to be."""
        folder = self._job.folder
        names = {path.parent.name for path in folder.glob("v*/run.json")}
        if names != self._folders:
            self._folders = names
            found = self._job.runs()
            newest = found[-1] if found else None
            if newest is not None and (self._run is None or newest.folder != self._run.folder):
                self._run, self._place, self.progress = newest, (0, 0), self._blank()
        return self._run

    def _read(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                # A run that went back wrote the file anew, without what it forgot.
                status = os.fstat(file.fileno())
                number, done = self._place
                if status.st_ino != number or status.st_size < done:
                    self.progress, done = self._blank(), 0
                file.seek(done)
                data = file.read()
        except OSError:  # not there yet, or being replaced
            return
        whole = data.rpartition(b"\n")[0]
        self._place = (status.st_ino, done + len(whole) + (1 if whole else 0))
        for text in whole.splitlines():
            try:
                self.progress.read(json.loads(text))
            except (ValueError, KeyError, TypeError, AttributeError):  # damaged: the run itself tells of it
                continue
