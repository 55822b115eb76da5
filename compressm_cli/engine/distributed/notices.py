"""How a process of a run that fails ends the others, and how the loss of one is noticed, wherever they are.

Who waits in a collective, or computes for minutes, cannot be told anything there. So each process has a thread that
listens, on a connection to the main one, which passes on what the first to fail says. The system closes the connection
of a process that dies.
"""

import json
import os
import secrets
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch.distributed as dist

HEARD_SECONDS = 3.0
"""How long a process that fails waits until the others know of it."""
GRACE_SECONDS = (4.0, 1.0)
"""How long the main process, and any other one, may go on after a notice before it is ended where it is."""
POLL_SECONDS = 0.1
LONGEST_LINE = 2**16


@dataclass(frozen=True)
class Notice:
    """That a process has failed, or was lost."""

    rank: int
    exit_code: int
    error: str
    """What it says, in one line; or what is said of it."""
    lost: bool = False
    """Whether it could say nothing itself."""

    def is_told_by(self, rank: int) -> bool:
        """Whether a process speaks for one that was lost: the main one does, and all do for the main one."""
        return self.lost and 0 in (rank, self.rank)


class Notices:
    """One process's end of it. Of several notices the first that the main process had counts, in all of them."""

    def __init__(self, rank: int, size: int, tell: Callable[[str], None]) -> None:
        self.first: Notice | None = None
        """The notice that counts."""
        self.own: BaseException | None = None
        """The error that this process has posted."""
        self.explained: Callable[[Exception], Exception] | None = None
        """What makes of an error of this process the one that is told."""
        self.last_words: Callable[[Notice], None] | None = None
        """What is to be done before this process is ended where it is."""
        self._rank, self._size, self._tell = rank, size, tell
        self._token = secrets.token_hex()
        self._server: socket.socket | None = None
        self._peers: list[_Peer] = []
        self._thread: threading.Thread | None = None
        self._came, self._over = threading.Event(), threading.Event()
        self._lock = threading.RLock()

    def begin(self, store: dist.Store, host: str) -> None:
        """Meet the main process, which is on ``host``; raises RuntimeError or OSError where it cannot be met."""
        if self._rank == 0:
            self._server = _server(self._size)
            store.set("notices", json.dumps([self._server.getsockname()[1], self._token]))
        else:
            port, token = json.loads(store.get("notices"))
            main = _Peer(socket.create_connection((host, port), timeout=60), rank=0)
            main.connection.settimeout(HEARD_SECONDS)
            main.send(token=token, rank=self._rank)
            self._peers = [main]
        self._thread = threading.Thread(target=self._listen, name="notices", daemon=True)
        self._thread.start()

    def post(self, error: BaseException, told: str, exit_code: int) -> Notice:
        """Tell the others of this process's failure; returns the notice that counts, once all of them have heard it."""
        self.own = error
        own = Notice(self._rank, exit_code, told)
        if self._rank == 0:
            self._settle(own)
            self._wait_until(lambda: all(peer.heard for peer in self._peers))
        else:
            for main in self._peers:
                main.send(notice=asdict(own))
            self._wait_until(lambda: self.first is not None or not self._peers)
        return self.first or own

    def wait(self, seconds: float) -> Notice | None:
        """The notice that counts, where one comes within some time."""
        self._came.wait(seconds)
        return self.first

    def leave(self) -> None:
        """Go in good order: nobody takes this process for lost."""
        with self._lock:
            for peer in self._peers:
                peer.send(left=True)
        self.stop()

    def stop(self) -> None:
        """Listen no longer; this process ends by itself."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _wait_until(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + HEARD_SECONDS
        while not done() and time.monotonic() < until:
            time.sleep(0.01)

    # ---- the thread ----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        with selectors.DefaultSelector() as ready:
            if self._server is not None:
                ready.register(self._server, selectors.EVENT_READ)
            for peer in self._peers:
                ready.register(peer.connection, selectors.EVENT_READ, peer)
            ends = None
            while not self._over.is_set():
                for key, _ in ready.select(POLL_SECONDS):
                    if key.data is None:
                        self._accept(ready)
                    elif not self._hear(key.data):
                        ready.unregister(key.fileobj)
                        self._drop(key.data)
                if self.first is not None and self.first.rank != self._rank:
                    ends = ends or time.monotonic() + GRACE_SECONDS[self._rank > 0]
                    if time.monotonic() >= ends and not self._over.is_set():
                        self._end(self.first)

    def _accept(self, ready: selectors.BaseSelector) -> None:
        assert self._server is not None
        with suppress(OSError):
            connection, _ = self._server.accept()
            connection.settimeout(HEARD_SECONDS)
            peer = _Peer(connection)
            ready.register(connection, selectors.EVENT_READ, peer)

    def _hear(self, peer: "_Peer") -> bool:
        """Take in what has come from a peer; False where nothing more will."""
        messages = peer.receive()
        for message in messages or ():
            if peer.rank is None:
                if message.get("token") != self._token:
                    return False
                self._join(peer, int(message["rank"]))
            elif "notice" in message:
                self._settle(Notice(**message["notice"]))
                peer.send(heard=True)
            elif "heard" in message:
                peer.heard = True
            elif "left" in message:
                peer.rank = None
                return False
        return messages is not None

    def _join(self, peer: "_Peer", rank: int) -> None:
        with self._lock:
            peer.rank = rank
            self._peers.append(peer)
            if self.first is not None:
                peer.send(notice=asdict(self.first))

    def _drop(self, peer: "_Peer") -> None:
        peer.connection.close()
        with self._lock:
            self._peers = [other for other in self._peers if other is not peer]
        if peer.rank is not None:
            told = f"process {peer.rank} of {self._size} was lost: it was killed, or its machine is gone"
            self._settle(Notice(peer.rank, 1, told, lost=True))

    def _settle(self, notice: Notice) -> None:
        with self._lock:
            if self.first is None:
                self.first = notice
                for peer in self._peers if self._rank == 0 else ():
                    peer.send(notice=asdict(notice))
                self._came.set()

    def _end(self, notice: Notice) -> None:
        if notice.is_told_by(self._rank):
            self._tell(notice.error)
        with suppress(Exception):
            if self.last_words is not None:
                self.last_words(notice)
            sys.stdout.flush()
        os._exit(notice.exit_code)


class _Peer:
    """The other end of a connection: the main process's, or that of one of the others."""

    def __init__(self, connection: socket.socket, rank: int | None = None) -> None:
        self.connection = connection
        self.rank = rank
        """None before it has shown that it belongs here, and after it has left."""
        self.heard = False
        self._received = b""

    def send(self, **message: Any) -> None:
        with suppress(OSError):  # that it is gone is noticed where it is listened to
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[dict[str, Any]] | None:
        """The messages that have come; None where the other end is gone, or talks nonsense."""
        try:
            got = self.connection.recv(LONGEST_LINE)
            *lines, self._received = (self._received + got).split(b"\n")
            messages = [json.loads(line) for line in lines]
        except (OSError, ValueError):
            return None
        sound = got and len(self._received) < LONGEST_LINE and all(isinstance(m, dict) for m in messages)
        return messages if sound else None


def _server(size: int) -> socket.socket:
    """For all interfaces, as gloo's is; a token shows who belongs here."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # switched off
            return socket.create_server(("", 0), family=socket.AF_INET6, backlog=size, dualstack_ipv6=True)
    return socket.create_server(("", 0), backlog=size)
