"""For all tests: one thread, no terminal, and process-wide settings of a training run do not outlive its test."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are tiny, so threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables have the width they have in a pipe, wherever the tests are started."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """A training run flushes them to zero; other tests need them."""
    yield
    torch.set_flush_denormal(False)
