"""What is said of the machine and of how busy it is."""

from pathlib import Path

import pytest

from compressm_cli.ops import machine


def statistics(user: int, idle: int, waiting: int = 0) -> str:
    return f"cpu  {user} 0 0 {idle} {waiting} 0 0 0 0 0\ncpu0 1 2 3\n"


@pytest.mark.parametrize(
    ("user", "idle", "waiting", "busy"),
    [(40, 0, 0, True), (20, 20, 0, True), (4, 36, 0, False), (0, 0, 40, False)],
)
def test_busy_is_what_happens_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, idle: int, waiting: int, busy: bool
) -> None:
    path = tmp_path / "stat"
    path.write_text(statistics(1000, 50000))
    monkeypatch.setattr(machine, "_CPU_TIMES", path)
    monkeypatch.setattr(
        machine.time, "sleep", lambda _: path.write_text(statistics(1000 + user, 50000 + idle, waiting))
    )
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1000.0, 0.0, 0.0), raising=False)
    assert machine.is_busy() is busy


@pytest.mark.parametrize("text", [None, "", "cpu one two\n", "cpu 1\n"])
def test_where_the_system_does_not_tell_the_last_minute_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    path = tmp_path / "stat"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(machine, "_CPU_TIMES", path)
    monkeypatch.setattr(machine, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (1000.0, 0.0, 0.0), raising=False)
    assert machine.is_busy()
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.1, 0.0, 0.0), raising=False)
    assert not machine.is_busy()
    monkeypatch.delattr(machine.os, "getloadavg", raising=False)
    assert machine.load_average() is None
    assert not machine.is_busy()
