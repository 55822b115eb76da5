"""Joules against invented counters: sums, wrap-around, and null with a reason."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from compressm_cli.measure import joules
from compressm_cli.measure.joules import JouleMeter, Joules, available_sources, combine

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
RANGE = 1_000_000_000


class Zone:
    """A RAPL zone in an invented sysfs."""

    def __init__(self, root: Path, number: str, name: str, start: int = 0) -> None:
        self.folder = root / f"intel-rapl:{number}"
        self.folder.mkdir()
        (self.folder / "name").write_text(f"{name}\n")
        (self.folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
        self.value = start
        self.add(0)

    def add(self, value: float) -> None:
        self.value = (self.value + round(value * 1e6)) % RANGE
        temporary = self.folder / "new"
        temporary.write_text(f"{self.value}\n")
        temporary.replace(self.folder / "energy_uj")  # a sampler never reads half of it


class FakeTime:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(joules, "time", fake)
    return fake


class NvmlError(Exception):
    pass


class FakeNvml(SimpleNamespace):
    """As much of pynvml as is used, with one GPU."""

    NVMLError = NvmlError

    def __init__(self, initialises: bool = True, counts: bool = True) -> None:
        super().__init__()
        self.initialises, self.counts, self.millijoules, self.uuids = initialises, counts, 500_000, []

    def nvmlInit(self) -> None:
        if not self.initialises:
            raise NvmlError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"handle {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.uuids.append(uuid)
        return uuid

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "Invented GPU"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if not self.counts:
            raise NvmlError("Not Supported")
        return self.millijoules


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for the CUDA calls; returns the list in which synchronisations are noted."""
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: calls.append(str(device)))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Invented GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))
    return calls


def use_nvml(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> FakeNvml:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return nvml


def test_nothing_to_read_is_null_with_a_reason(tmp_path: Path, fake_time: FakeTime) -> None:
    meter = JouleMeter(CPU, tmp_path)
    meter.start()
    fake_time.now += 10
    result = meter.stop()
    assert result.value is None
    assert result.sources == []
    assert "no energy counter" in result.reason


def test_packages_and_memory_are_added_and_parts_are_not_counted_twice(
    tmp_path: Path, fake_time: FakeTime
) -> None:
    zones = [
        Zone(tmp_path, "0", "package-0", start=5_000),
        Zone(tmp_path, "0:0", "core"),
        Zone(tmp_path, "0:1", "dram"),
        Zone(tmp_path, "1", "package-1"),
        Zone(tmp_path, "2", "psys"),
    ]
    meter = JouleMeter(CPU, tmp_path)
    meter.start()
    fake_time.now += 5
    for zone, energy in zip(zones, (100.0, 60.0, 10.0, 50.0, 200.0), strict=True):
        zone.add(energy)
    result = meter.stop()
    assert result.value == pytest.approx(160.0)
    assert result.reason is None
    assert result.sources == ["RAPL 0 package-0", "RAPL 0:1 dram", "RAPL 1 package-1"]


def test_wraps_are_seen_by_the_sampler(
    tmp_path: Path, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joules, "SAMPLE_SECONDS", 0.002)
    zone = Zone(tmp_path, "0", "package-0", start=RANGE - 1_000_000)
    meter = JouleMeter(CPU, tmp_path)
    meter.start()
    fake_time.now += 60
    for _ in range(4):  # 2,400 J through a counter that wraps each 1,000 J
        zone.add(600.0)
        deadline = time.perf_counter() + 5
        while meter._counters[0]._last != zone.value and time.perf_counter() < deadline:
            time.sleep(0.001)
    result = meter.stop()
    assert result.value == pytest.approx(2400.0)


def test_samples_come_at_least_each_twenty_seconds() -> None:
    assert joules.SAMPLE_SECONDS <= 20


def test_short_windows_are_refused(tmp_path: Path, fake_time: FakeTime) -> None:
    zone = Zone(tmp_path, "0", "package-0")
    meter = JouleMeter(CPU, tmp_path)
    meter.start()
    fake_time.now += 1.9
    zone.add(40.0)
    early = meter.read()
    fake_time.now += 0.2
    late = meter.stop()
    assert early.value is None
    assert "too short" in early.reason
    assert late.value == pytest.approx(40.0)


def test_a_counter_that_fails_in_the_window_is_left_out(tmp_path: Path, fake_time: FakeTime) -> None:
    good, bad = Zone(tmp_path, "0", "package-0"), Zone(tmp_path, "1", "package-1")
    meter = JouleMeter(CPU, tmp_path)
    meter.start()
    fake_time.now += 5
    good.add(10.0)
    (bad.folder / "energy_uj").unlink()
    result = meter.stop()
    assert result.value == pytest.approx(10.0)
    assert result.sources == ["RAPL 0 package-0"]
    assert "not included: RAPL 1 package-1" in result.reason


def test_root_only_counters_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_nvml(monkeypatch, FakeNvml(initialises=False))
    zone = Zone(tmp_path, "0", "package-0")
    read = Path.read_text

    def guarded(path: Path, *args: str, **kwargs: str) -> str:
        if path == zone.folder / "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", guarded)
    sources = available_sources(tmp_path)
    assert sources[0] == ("NVML", False, "no NVIDIA driver answers: Driver Not Loaded")
    name, readable, reason = sources[1]
    assert (name, readable) == ("RAPL 0 package-0", False)
    assert "root only" in reason
    meter = JouleMeter(CPU, tmp_path)
    meter.start()
    assert "root only" in meter.stop().reason


def test_readable_sources_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_nvml(monkeypatch, FakeNvml())
    Zone(tmp_path, "0", "package-0")
    assert [(name, readable) for name, readable, _ in available_sources(tmp_path)] == [
        ("NVML Invented GPU", True),
        ("RAPL 0 package-0", True),
    ]


def test_gpu_and_package_are_added_with_the_device_synchronised_at_both_ends(
    tmp_path: Path, fake_time: FakeTime, cuda: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml = use_nvml(monkeypatch, FakeNvml())
    zone = Zone(tmp_path, "0", "package-0")
    meter = JouleMeter(GPU, tmp_path)
    meter.start()
    assert cuda == ["cuda:0"]
    fake_time.now += 4
    nvml.millijoules += 300_000
    zone.add(20.0)
    result = meter.stop()
    assert cuda == ["cuda:0", "cuda:0"]
    assert nvml.uuids == ["GPU-12-34"]
    assert result == Joules(320.0, None, ["NVML Invented GPU", "RAPL 0 package-0"])


def test_a_gpu_that_does_not_count_is_said_to_be_missing(
    tmp_path: Path, fake_time: FakeTime, cuda: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_nvml(monkeypatch, FakeNvml(counts=False))
    zone = Zone(tmp_path, "0", "package-0")
    meter = JouleMeter(GPU, tmp_path)
    meter.start()
    fake_time.now += 4
    zone.add(20.0)
    result = meter.stop()
    assert result.value == pytest.approx(20.0)
    assert result.sources == ["RAPL 0 package-0"]
    assert "not included: NVML Invented GPU" in result.reason


def test_a_meter_is_started_once_and_can_be_used_again(tmp_path: Path, fake_time: FakeTime) -> None:
    zone = Zone(tmp_path, "0", "package-0")
    meter = JouleMeter(CPU, tmp_path)
    with pytest.raises(RuntimeError, match="not started"):
        meter.stop()
    for _ in range(2):
        meter.start()
        with pytest.raises(RuntimeError, match="running already"):
            meter.start()
        fake_time.now += 3
        zone.add(7.0)
        assert meter.stop().value == pytest.approx(7.0)


def test_parts_of_a_run_are_added_only_where_all_were_measured_alike() -> None:
    a, b = Joules(10.0, None, ["x"]), Joules(5.0, None, ["x"])
    assert combine([a, b]) == Joules(15.0, None, ["x"])
    assert combine([a, Joules(None, "no counter")]).value is None
    assert "no counter" in combine([a, Joules(None, "no counter")]).reason
    assert combine([a, Joules(5.0, None, ["y"])]).value is None
    assert combine([Joules(1.0, "not included: z", ["x"]), b]).reason == "not included: z"
    assert combine([]).value is None
