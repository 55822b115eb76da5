"""For all tests: one thread, no terminal, the same examples each time; settings of a process end with a test."""

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cases
import known_flops
import pytest
import torch
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from compressm_cli import plugins
from compressm_cli.core.invocation import INVOCATION
from compressm_cli.engine import forms as training_forms
from compressm_cli.ops.forms import DEFAULT

# The same examples each time, so that who changed nothing breaks nothing; others: pytest --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="a plug-in whose layers and methods are put through the conformance tests, too",
    )
    parser.addoption(
        "--cases",
        choices=cases.CHOICES,
        help="everyday, unless tests are named one by one; exhaustive: those that are left out then",
    )


def pytest_configure(config: pytest.Config) -> None:
    for module in config.getoption("--plugin"):
        plugins.load(module)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """Processes that run the tests take them file by file, in order: what a file shares is made once."""
    if config.getoption("dist") != "load":
        return None
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The cases that are asked for; files with slow tests come first: no process is left with one at the end."""
    named = any("::" in argument for argument in config.args)
    if not named and (lost := cases.without_a_test(item.nodeid for item in items)):
        raise pytest.UsageError(f"tests/cases.py names what is no test: {', '.join(lost)}")
    default = "all" if named else "everyday"
    items[:], left = cases.choose(items, config.getoption("--cases") or default)
    if left:
        config.hook.pytest_deselected(items=left)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector looked through it some thousand times, a tenth of all time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are tiny, so threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """One folder for all processes that run the tests: what takes long is made there once, under a lock."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables have the width they have in a pipe, wherever the tests are started."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def warnings_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever command line an earlier test has run, warnings are Python's until another one is."""
    monkeypatch.setattr(INVOCATION, "warn", warnings.warn)


@pytest.fixture(scope="session", autouse=True)
def built_in_costs() -> Iterator[None]:
    """Which form of a recurrence a run takes does not depend on how busy the machine was when it was calibrated."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_forms, "calibrated", lambda device, precision: DEFAULT)
        yield


@pytest.fixture(scope="session", autouse=True)
def flops_counted_once() -> Iterator[None]:
    """For all tests of a process."""
    with pytest.MonkeyPatch.context() as patch:
        known_flops.remember(patch)
        yield


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """A training run flushes them to zero; other tests need them."""
    yield
    torch.set_flush_denormal(False)
