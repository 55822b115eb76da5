"""The processes of one run, as torchrun starts them, and what they tell each other."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from compressm_cli.errors import BadInputError, CompressmError, ElsewhereError, RunFailedError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, who may wait for the main one's reduction of a large layer."""

LOST = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "timed out"),
    *("Socket Timeout", "NCCL error", "ncclRemoteError", "Connection refused", "failed to recv"),
)
"""What PyTorch's messages contain when another process is gone."""

LAUNCH = "start several processes with torchrun, which sets them, or unset WORLD_SIZE to train in one process"
"""What to do about environment variables that do not say how many processes there are."""


@dataclass(frozen=True)
class Group:
    """The processes of a run; by default it has one. Process 0, the main one, decides and writes.

    All methods but the properties are collective: every process must call them, in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Number of this process on its machine."""

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
        """Everybody's own result; where ``work`` fails, the first raises its error and the others ElsewhereError."""
        value: Any = None
        failure: CompressmError | None = None
        try:
            value = work()
        except CompressmError as error:
            failure = error
        codes = self.gather(None if failure is None else failure.exit_code)
        failed = next((rank for rank, code in enumerate(codes) if code is not None), None)
        if failure is not None and failed == self.rank:
            raise failure
        if failed is not None:
            raise ElsewhereError(failed, codes[failed] or 1)
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
        """Turn what PyTorch raises when another process is gone into RunFailedError."""
        try:
            yield
        except RuntimeError as error:
            if self.is_alone or not any(sign in str(error) for sign in LOST):
                raise
            raise RunFailedError(
                f"process {self.rank} of {self.size} lost contact with the others, one of which has ended; "
                "see its message"
            ) from error


def _here(storage: Any, location: str) -> Any:
    return storage.cuda() if location.startswith("cuda") else storage


@contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that torchrun has started, by its environment variables; alone without them.

    Gloo carries what is on CPUs, NCCL what is on GPUs. Raises BadInputError where they cannot meet.
    """
    size = _environment("WORLD_SIZE", "1")
    if size <= 1 or not dist.is_available():
        yield Group()
        return
    group = Group(_environment("RANK"), size, _environment("LOCAL_RANK", "0"))
    if group.rank >= size:
        raise BadInputError(
            f"RANK={group.rank} in the environment: must be below WORLD_SIZE={size}; {LAUNCH}"
        )
    backend = "gloo"
    if torch.cuda.is_available() and group.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(group.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, rank, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
        # torchrun may keep its store when it starts lost processes anew: the addresses of those are still in it.
        fresh = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT') or 0}", store)
        dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise BadInputError(f"process {group.rank} of {size} cannot meet the others: {error}") from error
    with group.watched():
        yield group
    # Only in good order: the others may be gone, and NCCL would wait for them.
    dist.destroy_process_group()


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
