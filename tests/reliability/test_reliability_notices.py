"""What processes tell one another of failures: who is believed, who is ended, and what strangers can do."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch.distributed as dist

from compressm_cli.core.errors import BadInputError, ElsewhereError, GroupEndedError, RunFailedError
from compressm_cli.engine.distributed import notices
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.distributed.notices import Notice, Notices

COUNT = 3
LOST = f"process 2 of {COUNT} was lost: it was killed, or its machine is gone"


pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Exit codes of processes that are ended where they are; each is ended once."""
    found: list[int] = []

    def end(code: int) -> None:
        found.append(code)
        sys.exit()  # the thread alone

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(notices, "GRACE_SECONDS", (0.3, 0.1))
    return found


@pytest.fixture
def told() -> list[str]:
    """What processes say that are ended where they are."""
    return []


@pytest.fixture
def all_of_them(ended: list[int], told: list[str]) -> Iterator[list[Notices]]:
    """The ends of three processes, in one."""
    store = dist.HashStore()
    made = [Notices(rank, COUNT, told.append) for rank in range(COUNT)]
    for one in made:
        one.begin(store, "localhost")
    until(lambda: len(made[0]._peers) == COUNT - 1)
    yield made
    for one in made:
        one.stop()


def until(done: Callable[[], Any]) -> None:
    limit = time.monotonic() + 10.0
    while not done():
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.mark.parametrize("rank", range(COUNT))
def test_what_one_posts_ends_the_others(
    rank: int, all_of_them: list[Notices], ended: list[int], told: list[str]
) -> None:
    said: list[Notice] = []
    for one in all_of_them:
        one.last_words = said.append
    notice = all_of_them[rank].post(ValueError(), "no good", 2)
    assert notice == Notice(rank, 2, "no good")
    assert [one.wait(5.0) for one in all_of_them] == [notice] * COUNT
    until(lambda: len(ended) == COUNT - 1)
    assert ended == [2] * (COUNT - 1)
    assert said == [notice] * (COUNT - 1)
    assert told == []  # the one that failed says it itself


def test_of_several_the_first_counts(all_of_them: list[Notices]) -> None:
    first = all_of_them[1].post(ValueError(), "first", 2)
    assert all_of_them[2].post(ValueError(), "second", 1) == first
    assert all_of_them[0].post(ValueError(), "third", 1) == first


def test_who_leaves_is_not_lost_and_who_is_cut_off_is(
    all_of_them: list[Notices], ended: list[int], told: list[str]
) -> None:
    all_of_them[1].leave()
    until(lambda: len(all_of_them[0]._peers) == 1)
    assert all_of_them[0].wait(0.3) is None
    all_of_them[2].stop()
    all_of_them[2]._peers[0].connection.close()
    assert all_of_them[0].wait(5.0) == Notice(2, 1, LOST, lost=True)
    until(lambda: ended)
    assert told[0] == LOST  # by the main process, for the one that cannot


def test_the_loss_of_the_main_process_is_told_by_each(all_of_them: list[Notices], told: list[str]) -> None:
    all_of_them[0].stop()
    for peer in all_of_them[0]._peers:
        peer.connection.close()
    until(lambda: len([text for text in told if text.startswith("process 0 of 3 was lost")]) == 2)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b'{"token": "guess", "rank": 1}\n', b'{"notice": {}}\n'],
    ids=["nothing", "http", "no message", "wrong token", "no token"],
)
def test_strangers_are_not_heard(sent: bytes, all_of_them: list[Notices]) -> None:
    main = all_of_them[0]
    assert main._server is not None
    with socket.create_connection(("localhost", main._server.getsockname()[1])) as stranger:
        stranger.sendall(sent)
        if sent:
            stranger.settimeout(5.0)
            assert stranger.recv(1) == b""
    assert main.wait(0.3) is None
    assert len(main._peers) == COUNT - 1
    assert all_of_them[1].post(ValueError(), "still heard", 1).error == "still heard"


def test_what_each_process_ends_with(all_of_them: list[Notices]) -> None:
    groups = [Group(rank, COUNT, rank, one) for rank, one in enumerate(all_of_them)]

    def failed(rank: int, error: BaseException) -> BaseException:
        with pytest.raises(GroupEndedError) as found, groups[rank].watched():
            raise error
        return found.value.error

    bad = BadInputError("rows  are\nbad")
    assert failed(1, bad) is bad
    # What follows from it is not what is told.
    assert failed(1, RuntimeError("Connection closed by peer")) is bad
    elsewhere = failed(0, RuntimeError("Connection closed by peer"))
    assert isinstance(elsewhere, ElsewhereError)
    assert (elsewhere.exit_code, str(elsewhere)) == (2, "process 1 of 3: BadInputError: rows are bad")


def test_an_error_is_explained_before_it_is_told(all_of_them: list[Notices]) -> None:
    group = Group(2, COUNT, 2, all_of_them[2])

    def explained(error: Exception) -> Exception:
        return RunFailedError(f"{error}; do this")

    # Wherever within it the failure is noticed.
    with pytest.raises(GroupEndedError), group.watched_run(explained, lambda _: None), group.watched():
        raise OSError("full")
    notice = all_of_them[0].wait(5.0)
    assert notice is not None
    assert (notice.exit_code, notice.error) == (1, "process 2 of 3: RunFailedError: full; do this")


def test_an_error_of_all_is_not_posted(all_of_them: list[Notices]) -> None:
    agreed = ElsewhereError(0, 2)
    with pytest.raises(GroupEndedError) as found, Group(1, COUNT, 1, all_of_them[1]).watched():
        raise agreed
    assert found.value.error is agreed
    assert all_of_them[0].wait(0.3) is None
