"""Electrical energy as the hardware's own counters give it: joules, or null with the reason; never a guess.

NVML counts a whole GPU and RAPL whole CPU packages and their memory, whoever uses them. Nothing is
derived from a nominal power.
"""

import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch

from compressm_cli.measure.clock import synchronize

POWERCAP = Path("/sys/class/powercap")
SHORTEST_WINDOW = 2.0
"""Seconds. The counters are updated some tens of times a second, so a shorter window says little."""
READING_SECONDS = 0.05
"""Seconds within which a counter is not read again, where whoever asks does so at each step."""
SAMPLE_SECONDS = 10.0
"""Seconds between two readings of RAPL, whose counters wrap around (after minutes, under load)."""


@dataclass(frozen=True)
class Joules:
    """A measurement; ``value`` is None where nothing was measured.

    ``sources`` names the counters that the value is the sum of. ``reason`` says why there is no value
    or, beside a value, what is missing in it; it is None where all that was asked for is in.
    """

    value: float | None
    reason: str | None
    sources: list[str] = field(default_factory=list)


def combine(parts: list[Joules]) -> Joules:
    """The joules of a run from those of its parts (before and after it was resumed).

    There is a sum only where every part was measured, with the same counters.
    """
    missing = [p.reason for p in parts if p.value is None]
    if missing or not parts:
        return Joules(None, f"a part of the run was not measured: {missing[0]}" if missing else "nothing ran")
    if any(p.sources != parts[0].sources for p in parts):
        return Joules(None, "parts of the run were measured with different counters")
    reasons = [p.reason for p in parts if p.reason is not None]
    return Joules(sum(p.value or 0.0 for p in parts), reasons[0] if reasons else None, parts[0].sources)


def together(parts: list[Joules]) -> Joules:
    """The joules of one window from those of the processes that shared its work, each with counters of its own."""
    missing = [p.reason for p in parts if p.value is None]
    if missing:
        return Joules(None, missing[0])
    reasons = [p.reason for p in parts if p.reason is not None]
    sources = [source for p in parts for source in p.sources]
    return Joules(sum(p.value or 0.0 for p in parts), reasons[0] if reasons else None, sources)


class JouleMeter:
    """The energy of one window on one device: ``start()`` ... ``stop()``.

    On a GPU: that GPU and the CPU packages. On a CPU: the CPU packages. The device is synchronised at
    both ends. ``packages`` is false where another process of this machine counts these.
    """

    def __init__(self, device: torch.device, powercap: Path = POWERCAP, packages: bool = True) -> None:
        self._device = device
        self._packages = packages
        self._powercap = powercap
        self._counters: list[_Rapl | _Nvml] = []
        self._missing: list[str] = []
        self._began: float | None = None
        self._stopping = threading.Event()
        self._sampler: threading.Thread | None = None
        self._lock = threading.Lock()
        self._failed: list[str] = []
        self._sampled = -math.inf

    def start(self) -> None:
        """Begin the window."""
        if self._began is not None:
            raise RuntimeError("the meter is running already")
        self._counters, self._missing, self._failed = [], [], []
        probes: list[_Probe] = [*_rapl_probes(self._powercap)] if self._packages else []
        if self._device.type == "cuda":
            probes.insert(0, _nvml_probe(self._device))
        for probe in probes:
            if isinstance(probe, _Unreadable):
                self._missing.append(f"{probe.name}: {probe.reason}")
            else:
                self._counters.append(probe)
        synchronize(self._device)
        self._began = time.monotonic()
        self._sample()
        self._stopping.clear()
        self._sampler = threading.Thread(target=self._keep_sampling, name="joule-sampler", daemon=True)
        self._sampler.start()

    def read(self) -> Joules:
        """The energy since ``start``; the window goes on."""
        if self._began is None:
            raise RuntimeError("the meter was not started")
        synchronize(self._device)
        self._sample()
        return self._result(time.monotonic() - self._began)

    def so_far(self) -> float:
        """The joules since ``start`` by its counters, however short the time; does not wait for a GPU.

        Raises OSError where a counter failed meanwhile: what is left of them is no measurement.
        """
        if self._began is None:
            return 0.0
        if time.monotonic() - self._sampled > READING_SECONDS:
            self._sample()
        if self._failed:
            raise OSError(self._failed[0])
        return sum(counter.joules for counter in self._counters)

    @property
    def sources(self) -> list[str]:
        """The counters that are read; none before ``start``."""
        return [counter.name for counter in self._counters]

    def stop(self) -> Joules:
        """End the window; its energy."""
        result = self.read()
        self._stopping.set()
        if self._sampler is not None:
            self._sampler.join()
        self._began = self._sampler = None
        return result

    def _result(self, seconds: float) -> Joules:
        missing = "; ".join(self._missing) or None
        if not self._counters:
            return Joules(None, missing) if missing else Joules(0.0, None)
        if seconds < SHORTEST_WINDOW:
            return Joules(
                None, f"a window of {seconds:.2g} s is under {SHORTEST_WINDOW:g} s, too short to measure"
            )
        value = sum(counter.joules for counter in self._counters)
        return Joules(value, missing and f"not included: {missing}", [c.name for c in self._counters])

    def _sample(self) -> None:
        with self._lock:
            for counter in list(self._counters):
                try:
                    counter.update()
                except (OSError, ValueError, RuntimeError) as error:
                    # What it counted so far is dropped too: a part of a window is no measurement of it.
                    self._counters.remove(counter)
                    self._failed.append(f"{counter.name}: failed while measuring: {error}")
                    self._missing.append(self._failed[-1])
            self._sampled = time.monotonic()

    def _keep_sampling(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            self._sample()


def unmeasured(device: torch.device, powercap: Path = POWERCAP) -> str | None:
    """Why the energy of a device cannot be measured here; None where it can."""
    probes = [_nvml_probe(device)] if device.type == "cuda" else _rapl_probes(powercap)
    missing = [f"{probe.name}: {probe.reason}" for probe in probes if isinstance(probe, _Unreadable)]
    return "; ".join(missing) if len(missing) == len(probes) else None


def available_sources(powercap: Path = POWERCAP) -> list[tuple[str, bool, str]]:
    """Every energy counter of this machine: name, whether it can be read, and details or why not."""
    found: list[tuple[str, bool, str]] = []
    for probe in [*_all_nvml_probes(), *_rapl_probes(powercap)]:
        if isinstance(probe, _Unreadable):
            found.append((probe.name, False, probe.reason))
        else:
            found.append((probe.name, True, probe.detail))
    return found


@dataclass(frozen=True)
class _Unreadable:
    name: str
    reason: str


class _Rapl:
    """One RAPL zone: microjoules that wrap around at ``max_energy_range_uj``."""

    def __init__(self, name: str, zone: Path) -> None:
        self.name = name
        self.detail = f"{zone / 'energy_uj'}; counts all that runs on it"
        self.joules = 0.0  # since the first update
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text())
        self._last: int | None = None
        int(self._file.read_text())  # an unreadable counter fails here, not in the window

    def update(self) -> None:
        now = int(self._file.read_text())
        if self._last is not None:
            self.joules += (
                (now - self._last) if now >= self._last else (now - self._last + self._range)
            ) / 1e6
        self._last = now


class _Nvml:
    """One GPU's total energy since the driver was loaded, in millijoules."""

    def __init__(self, nvml: ModuleType, handle: object) -> None:
        name = nvml.nvmlDeviceGetName(handle)
        self.name = f"NVML {name.decode() if isinstance(name, bytes) else name}"
        self.detail = "total-energy counter of the whole GPU"
        self.joules = 0.0  # since the first update
        self._nvml, self._handle = nvml, handle
        self._first: int | None = None
        self._read()

    def update(self) -> None:
        now = self._read()
        if self._first is None:
            self._first = now
        self.joules = (now - self._first) / 1e3

    def _read(self) -> int:
        try:
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from error


_Probe = _Rapl | _Nvml | _Unreadable


def _rapl_probes(powercap: Path) -> list[_Probe]:
    """The packages and their memory. Cores and graphics lie inside a package; the platform zone
    (psys) contains the packages: adding those would count twice."""
    probes: list[_Probe] = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        name = f"RAPL {zone.name.removeprefix('intel-rapl:')}"
        try:
            kind = (zone / "name").read_text().strip()
            if not kind.startswith(("package", "dram")):
                continue
            name = f"{name} {kind}"
            probes.append(_Rapl(name, zone))
        except PermissionError:
            probes.append(_Unreadable(name, f"{zone / 'energy_uj'} is readable by root only"))
        except (OSError, ValueError) as error:
            probes.append(_Unreadable(name, f"cannot be read: {error}"))
    return probes or [_Unreadable("RAPL", f"no energy counter of a CPU below {powercap}")]


def _open_nvml() -> ModuleType | _Unreadable:
    try:
        import pynvml
    except ImportError:
        return _Unreadable("NVML", "the package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return _Unreadable("NVML", f"no NVIDIA driver answers: {error}")
    return pynvml


def _nvml_probe(device: torch.device) -> _Probe:
    """The counter of one CUDA device, found by its UUID since CUDA may number the GPUs otherwise."""
    nvml = _open_nvml()
    if isinstance(nvml, _Unreadable):
        return nvml
    name = torch.cuda.get_device_name(device)
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    try:
        return _Nvml(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
    except (nvml.NVMLError, OSError) as error:
        return _Unreadable(f"NVML {name}", f"no total-energy counter: {error}")


def _all_nvml_probes() -> list[_Probe]:
    nvml = _open_nvml()
    if isinstance(nvml, _Unreadable):
        return [nvml]
    probes: list[_Probe] = []
    with suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                probes.append(_Nvml(nvml, nvml.nvmlDeviceGetHandleByIndex(index)))
            except (nvml.NVMLError, OSError) as error:
                probes.append(_Unreadable(f"NVML GPU {index}", f"no total-energy counter: {error}"))
    return probes or [_Unreadable("NVML", "the driver reports no GPU")]
