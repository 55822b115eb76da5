"""The processes of one run, as torchrun starts them, and what they tell each other."""

import atexit
import gc
import importlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from compressm_cli.core.errors import (
    BadInputError,
    CompressmError,
    ElsewhereError,
    GroupEndedError,
    RunFailedError,
)
from compressm_cli.engine.distributed.meeting import Arrivals, Asked, require_same
from compressm_cli.engine.distributed.notices import Notice, Notices

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, who may wait for the main one's reduction of a large layer."""

LOST = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out"),
    *("Socket Timeout", "NCCL error", "ncclRemoteError", "Connection refused", "failed to recv"),
)
"""What PyTorch's messages contain when another process is gone."""
LOST_SECONDS = 2.0
"""How long to wait, after such a message, for word of who is gone, and why."""
LONGEST_NOTICE = 4000
"""Characters of what the others are told of a failure."""
LONGEST_PAUSE = 0.02
"""Seconds between two looks at whether the others have come."""

LAUNCH = "start several processes with torchrun, which sets them, or unset WORLD_SIZE to train in one process"
"""What to do about environment variables that do not say how many processes there are."""


@dataclass(frozen=True)
class Group:
    """The processes of a run; by default it has one. Process 0, the main one, decides and writes.

    All that passes values, or holds something, is collective: every process must call it, in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number of this process on its machine."""
    notices: Notices | None = field(default=None, compare=False, repr=False)
    """How the others are told of a failure; None where nobody is to be told."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    def broadcast(self, value: T) -> T:
        """The main process's value: plain data, tensors or objects; what was on its GPU comes to one's own."""
        if self.is_alone:
            return value
        buffer = io.BytesIO()
        if self.is_main:
            torch.save(value, buffer)
        carried = [buffer.getvalue()]
        _await(dist.broadcast(torch.zeros(1), src=0, async_op=True))
        dist.broadcast_object_list(carried, src=0)
        if self.is_main:
            return value
        # Bytes of a process of this very run, not of a file.
        return torch.load(io.BytesIO(carried[0]), map_location=_here, weights_only=False)

    def gather(self, value: T) -> list[T]:
        """Everybody's values, by rank."""
        found: list[Any] = [value]
        if not self.is_alone:
            found = [None] * self.size
            _await(dist.all_reduce(torch.zeros(1), async_op=True))
            dist.all_gather_object(found, value)
        return found

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the processes, the same in all of them to the last bit."""
        if not self.is_alone:
            for tensor in tensors:
                dist.all_reduce(tensor)
                dist.broadcast(tensor, src=0)

    def from_main(self, work: Callable[[], T], sent: Callable[[T], T] | None = None) -> T:
        """What the main process's ``work`` returns; where it fails, the others raise ElsewhereError.

        The others get what ``sent`` makes of it, which may be less.
        """
        if self.is_alone:
            return work()
        value: Any = None
        failure: Exception | None = None
        if self.is_main:
            try:
                value = work()
            except Exception as error:
                failure = error
        code: int | None = None if failure is None else getattr(failure, "exit_code", 1)
        carried = sent(value) if self.is_main and failure is None and sent is not None else value
        code, carried = self.broadcast((code, carried))
        if failure is not None:
            raise failure
        if code is not None:
            raise ElsewhereError(0, code)
        return value if self.is_main else carried

    def together(self, work: Callable[[], T]) -> T:
        """Everybody's own result, as soon as all have theirs; where ``work`` fails in one process, all end."""
        with self.watched():
            value = work()
            self.gather(None)
        return value

    def main_first(self, work: Callable[[], T]) -> T:
        """``together``, but the others begin when the main process is done: it may leave files that they find."""
        first: list[T] = []
        if not self.is_alone:
            self.from_main(lambda: first.append(work()))
        return self.together(lambda: first[0] if first else work())

    @contextmanager
    def held_by_main(self, manager: AbstractContextManager[Any]) -> Iterator[None]:
        """Within, the main process is within ``manager``; where it cannot be, the others raise ElsewhereError."""
        with ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(manager)

            self.from_main(enter)
            yield

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, a failure of one process ends all of them, by GroupEndedError; alone, an error is raised as it is.

        An error that all processes have been told of (ElsewhereError) ends this one alone.
        """
        try:
            yield
        except GroupEndedError:
            raise
        except BaseException as error:
            if self.is_alone:
                raise
            raise GroupEndedError(self._final_error(error)) from error

    @contextmanager
    def watched_run(
        self, explained: Callable[[Exception], Exception], last_words: Callable[[BaseException], None]
    ) -> Iterator[None]:
        """``watched``, for all of a run. ``explained`` makes of an error of this process the one that is told.

        ``last_words`` is called where another one's failure ends this one in the middle of something.
        """
        notices = self.notices
        if notices is None:
            with self.watched():
                yield
            return
        notices.explained = explained
        notices.last_words = lambda notice: last_words(self._of_another(notice))
        try:
            with self.watched():
                yield
        finally:
            notices.explained = notices.last_words = None

    def _final_error(self, error: BaseException) -> BaseException:
        """What this process ends with after an error, of which the others know then."""
        if isinstance(error, ElsewhereError):
            return error
        lost = isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST)
        if lost:
            error = RunFailedError(
                f"process {self.rank} of {self.size} lost contact with the others, one of which has ended; "
                "see its message"
            )
        if self.notices is None:
            return error
        notice = self.notices.wait(LOST_SECONDS if lost else 0.0)
        if notice is None:
            if isinstance(error, Exception) and self.notices.explained is not None:
                error = self.notices.explained(error)
            notice = self.notices.post(error, self._described(error), _exit_code(error))
        return (self.notices.own or error) if notice.rank == self.rank else self._of_another(notice)

    def _of_another(self, notice: Notice) -> CompressmError:
        """What this process ends with where another one has failed."""
        if notice.is_told_by(self.rank):
            return RunFailedError(notice.error)
        return ElsewhereError(notice.rank, notice.exit_code, notice.error)

    def leave(self) -> None:
        """End in good order; GroupEndedError where another process has failed meanwhile."""
        if self.notices is not None:
            if (notice := self.notices.first) is not None:
                raise GroupEndedError(self._of_another(notice))
            self.notices.leave()

    def _described(self, error: BaseException) -> str:
        text = " ".join(str(error).split())
        kind = type(error).__name__
        described = f"process {self.rank} of {self.size}: {f'{kind}: {text}' if text else kind}"
        return described[:LONGEST_NOTICE]


def _await(arrival: dist.Work) -> None:
    """Wait for others, perhaps for long, in a way that Ctrl-C can end: PyTorch's own waiting hears no signal."""
    pause = 1e-4
    while not arrival.is_completed():
        time.sleep(pause)
        pause = min(1.2 * pause, LONGEST_PAUSE)
    arrival.wait()


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_code if isinstance(error, CompressmError) else 1


def _here(storage: Any, location: str) -> Any:
    return storage.cuda() if location.startswith("cuda") else storage


def _unheard(_: str) -> None: ...


@contextmanager
def joined(
    tell: Callable[[str], None] = _unheard, warn: Callable[[str], None] = _unheard, asked: Asked | None = None
) -> Iterator[Group]:
    """Join the processes that torchrun has started, by its environment variables; alone without them.

    Gloo carries what is on CPUs, NCCL what is on GPUs. Raises BadInputError where they cannot meet, or were not all
    ``asked`` for the same. An error within ends all of them, and is raised in the process that had it; the others
    raise ElsewhereError, or are ended with its exit code where they are. ``tell`` is given what a process has to say
    that is ended so, ``warn`` whom it waits for.
    """
    size = _environment("WORLD_SIZE", "1")
    if size <= 1 or not dist.is_available():
        yield Group()
        return
    rank, local_rank = _environment("RANK"), _environment("LOCAL_RANK", "0")
    if rank >= size:
        raise BadInputError(f"RANK={rank} in the environment: must be below WORLD_SIZE={size}; {LAUNCH}")
    notices = Notices(rank, size, tell)
    group = Group(rank, size, local_rank, notices)
    try:
        with group.watched():
            known = _meet(group, notices, warn, asked or {})
            with _patient(notices):
                group.from_main(lambda: require_same(known))
                yield group
                group.leave()
    except GroupEndedError as ended:
        if isinstance(ended.error, ElsewhereError) and notices.first is None:
            notices.leave()
        notices.stop()
        if dist.is_initialized():
            _prepare_to_end(_exit_code(ended.error))
        raise ended.error from ended.__cause__
    # Only in good order: the others may be gone, and NCCL would wait for them.
    dist.destroy_process_group()
    # The threads of gloo end with whatever refers to the group last, such as a wrapped model in a cycle. One that lets
    # go of a tensor while the interpreter ends would abort the process.
    gc.collect()


def _prepare_to_end(exit_code: int) -> None:
    """Have a process that has failed tell of it, and then end at once."""

    def end() -> None:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(exit_code)

    # The end of the interpreter would wait for what gloo has yet to do with processes that have failed, too.
    atexit.register(end)
    if threading.current_thread() is threading.main_thread():
        # torchrun ends all as soon as one has ended; this one has yet to tell why.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def _patient(notices: Notices) -> Iterator[None]:
    """Within, torchrun's SIGTERM ends no process that has yet to tell, or to be told, which one was lost.

    It comes to all others a moment after the loss of one, wherever they are; within a run Stop takes it.
    """

    def receive(number: int, _: FrameType | None) -> None:
        if notices.wait(LOST_SECONDS) is None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        # Else this process is ending already.

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, receive)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _meet(group: Group, notices: Notices, warn: Callable[[str], None], asked: Asked) -> list[Asked]:
    """Meet the others; returns what each was asked for, by rank."""
    arrivals = Arrivals(group.rank, group.size)
    backend = "gloo"
    if torch.cuda.is_available() and group.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(group.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    try:
        with arrivals.announced(warn):
            # Not of all: the main one would wait for the others in there, where it can say nothing.
            store, rank, _ = next(dist.rendezvous("env://?world_size=1", timeout=TIMEOUT))
            # torchrun may keep its store when it starts lost processes anew: the addresses of those are still in it.
            fresh = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT') or 0}", store)
            notices.begin(fresh, os.environ["MASTER_ADDR"])
            known = arrivals.asked(fresh, asked, TIMEOUT)
        # Before there is a group: PyTorch imports it for wrapped models, and its functions hold the group in their
        # defaults for good.
        importlib.import_module("torch.distributed.nn")
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=group.size, timeout=TIMEOUT)
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInputError(
            f"process {group.rank} of {group.size} cannot meet the others: {error}"
        ) from error
    return known


def _environment(name: str, default: str | None = None) -> int:
    """The number that a variable of torchrun's holds."""
    value = os.environ.get(name) or default
    if value is None:
        raise BadInputError(f"WORLD_SIZE is set in the environment, but {name} is not; {LAUNCH}")
    if not value.isdecimal():
        raise BadInputError(f"{name}={value} in the environment: must be a whole number; {LAUNCH}")
    return int(value)


def require_device(group: Group, device: torch.device) -> None:
    """BadInputError where the processes of this machine are more than its GPUs, on which they shall run."""
    if device.type == "cuda" and group.local_rank >= torch.cuda.device_count():
        raise BadInputError(
            f"device: cuda: process {group.local_rank + 1} of this machine has no GPU, there are "
            f"{torch.cuda.device_count()}; start as many processes as there are GPUs, or write device: cpu"
        )
