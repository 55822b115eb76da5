"""Where caches are, where they cannot be, and that compiled functions work with any of it."""

import errno
import importlib.util
import os
import pwd
import re
import stat
import sys
from pathlib import Path
from typing import Any

import numba
import pytest

from compressm_cli.core import caches, kernels
from compressm_cli.core.caches import cache_place, obstacle, settle_libraries
from compressm_cli.core.kernels import kernel_place
from compressm_cli.ops import calibration

VARIABLES = (
    "COMPRESSM_CACHE",
    *caches.ELSEWHERE.values(),
    "TMPDIR",
    "TEMP",
    "TMP",
    *caches.LIBRARIES,
    "TORCHINDUCTOR_CACHE_DIR",
)
USERS = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is not there yet, and nothing said about caches; temporary files lie in ``tmp``."""
    for name in VARIABLES:
        # Set first, so that what the test sets is forgotten.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(caches, "TEMPORARY", (str(tmp_path / "tmp"),))
    monkeypatch.setattr(kernels.CONFIG, "CACHE_DIR", "")
    return tmp_path / "home"


def nobody(_: int) -> Any:
    raise KeyError("getpwuid(): uid not found")


@pytest.fixture
def homeless(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No home, as a user has none who is not listed; where the folder for caches then is."""
    monkeypatch.delenv("HOME")
    for name in USERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    return home.parent / "tmp" / f"compressm-{os.geteuid()}"


def closed(place: Path) -> None:
    """Nobody can write below it, root neither."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()


# ---- places --------------------------------------------------------------------------------------------


def test_what_is_said_comes_first(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_place().folder == home / ".cache" / "compressm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_place().folder == tmp_path / "xdg" / "compressm"
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path / "said"))
    assert cache_place() == caches.Place(tmp_path / "said", "$COMPRESSM_CACHE")
    assert list(tmp_path.iterdir()) == [tmp_path / "tmp"]  # asking makes nothing


def test_without_a_home_it_is_a_folder_of_the_user_alone(homeless: Path) -> None:
    for _ in range(2):
        place = cache_place()
        assert place == caches.Place(homeless, "a temporary folder; this user has no home")
        found = homeless.lstat()
        assert stat.S_IMODE(found.st_mode) == 0o700
        assert found.st_uid == os.geteuid()
        assert list(homeless.iterdir()) == []


def test_with_a_home_that_cannot_be_written_to(home: Path) -> None:
    closed(home)
    place = cache_place()
    assert place.folder == home.parent / "tmp" / f"compressm-{os.geteuid()}"
    assert place.why == f"a temporary folder; {home} is not a folder"


@pytest.mark.parametrize("trap", ["link", "open to others", "file", "of another", "renamed by others"])
def test_a_temporary_folder_of_somebody_else_is_not_used(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: str
) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    if trap == "link":
        homeless.symlink_to(tmp_path / "theirs")
    elif trap == "file":
        homeless.touch()
    elif trap == "renamed by others":
        homeless.parent.chmod(0o777)
    else:
        homeless.mkdir(mode=0o700)
        homeless.chmod(0o750 if trap == "open to others" else 0o700)
    if trap == "of another":
        uid = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        homeless.rename(homeless.with_name(f"compressm-{uid + 1}"))
    place = cache_place()
    assert place.folder is None
    assert place.why == "no folder for temporary files is this user's alone; this user has no home"
    assert list((tmp_path / "theirs").iterdir()) == []
    sources = tmp_path / "sources"
    closed(sources)
    assert kernel_place.__wrapped__(sources).folder is None


def test_no_place_at_all_is_no_failure(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compressm_cli.data.listops import ListOps

    homeless.touch()
    settle_libraries()
    assert not set(caches.LIBRARIES) & set(os.environ)
    monkeypatch.setattr(calibration, "is_busy", lambda: False)
    monkeypatch.setattr(calibration, "measure", lambda *_: calibration.DEFAULT)
    assert calibration.calibrated(calibration.torch.device("cpu"), "fp32") is calibration.DEFAULT
    rows = {"train_rows": 10, "validation_rows": 2, "test_rows": 2}
    task = ListOps(min_length=5, max_length=30, **rows)
    assert task.cache_path() is None
    assert len(task.load().train) == 10


def test_what_speaks_against_a_folder(tmp_path: Path) -> None:
    assert obstacle(tmp_path / "a" / "b") is None
    closed(tmp_path / "file")
    assert obstacle(tmp_path / "file" / "a") == f"{tmp_path / 'file'} is not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_above_that_cannot_be_looked_into(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o000)
    assert obstacle(tmp_path / "a" / "b" / "c") == f"no permission to write to {tmp_path / 'a'}"


# ---- libraries -----------------------------------------------------------------------------------------


def test_libraries_keep_to_a_home_that_is_there(home: Path) -> None:
    before = dict(os.environ)
    settle_libraries()
    assert dict(os.environ) == before


def test_libraries_get_a_place_without_a_home(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", "/said")
    settle_libraries()
    assert os.environ["MPLCONFIGDIR"] == "/said"
    assert os.environ["HF_HOME"] == str(homeless / "huggingface")
    assert os.environ["TRITON_HOME"] == str(homeless / "triton")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(homeless / "torchinductor")


def test_libraries_without_a_home_that_heed_another_variable(
    homeless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    settle_libraries()
    assert "HF_HOME" not in os.environ
    assert os.environ["MPLCONFIGDIR"] == str(tmp_path / "xdg" / "compressm" / "matplotlib")
    assert os.environ["TRITON_HOME"] == str(tmp_path / "xdg" / "compressm" / "triton")


def test_data_sets_in_a_home_that_is_only_read_are_still_found(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".cache" / "huggingface").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _: not str(path).startswith(str(home)))
    settle_libraries()
    assert "HF_HOME" not in os.environ
    assert os.environ["MPLCONFIGDIR"].startswith(str(home.parent / "tmp"))


# ---- compiled functions --------------------------------------------------------------------------------

MODULE = """
from compressm_cli.core.kernels import compiled

@compiled()
def double(x):
    return 2 * x
"""


def load(folder: Path) -> Any:
    """The function of MODULE, as a new process has it."""
    folder.mkdir(exist_ok=True)
    path = folder / "doubling.py"
    if not path.exists():
        path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("doubling", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["doubling"] = module
    spec.loader.exec_module(module)
    kernel_place.cache_clear()
    return module.double


def hits(kernel: Any) -> int:
    """How often it was found in the cache, rather than compiled."""
    return sum(kernel.stats.cache_hits.values())


def kept(folder: Path) -> list[str]:
    return sorted(p.suffix for p in folder.rglob("doubling*.nb?"))


def test_kernels_are_kept_beside_their_sources(home: Path, tmp_path: Path) -> None:
    kernel = load(tmp_path / "sources")
    assert kernel(3) == 6
    assert kept(tmp_path / "sources" / "__pycache__") == [".nbc", ".nbi"]
    again = load(tmp_path / "sources")
    assert again(3) == 6
    assert hits(again) == 1
    assert numba.config.CACHE_DIR == ""


def test_the_order_of_places(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen() -> caches.Place:
        place: caches.Place = kernel_place.__wrapped__(tmp_path / "sources")
        return place

    monkeypatch.setattr(kernels.CONFIG, "CACHE_DIR", str(tmp_path / "said"))
    assert chosen() == caches.Place(tmp_path / "said", "$NUMBA_CACHE_DIR")
    monkeypatch.setattr(kernels.CONFIG, "CACHE_DIR", "")
    beside = tmp_path / "sources" / "__pycache__"
    assert chosen() == caches.Place(beside, "beside the sources")
    beside.rmdir()
    closed(beside)
    ours = home / ".cache" / "compressm" / "numba"
    assert chosen() == caches.Place(ours, f"the user's cache; {beside}: File exists")
    ours.chmod(0o777)
    private = tmp_path / "tmp" / f"compressm-{os.geteuid()}"
    place = chosen()
    assert place.folder == private / "numba"
    assert place.why.endswith(f"{beside}: File exists; {ours}: not a folder of this user alone")
    (private / "numba").rmdir()
    closed(private / "numba")
    assert chosen().folder is None
    assert chosen().why.startswith("compiled anew by each process; ")


@pytest.mark.parametrize("somewhere", [True, False])
def test_kernels_of_sources_that_are_only_read(home: Path, tmp_path: Path, somewhere: bool) -> None:
    """numba itself raises where it finds no place."""
    closed(tmp_path / "sources" / "__pycache__")
    if not somewhere:
        closed(home)
        closed(tmp_path / "tmp" / f"compressm-{os.geteuid()}")
    assert load(tmp_path / "sources")(3) == 6
    again = load(tmp_path / "sources")
    assert again(3) == 6
    assert hits(again) == somewhere
    assert kept(home / ".cache" / "compressm" / "numba") == ([".nbc", ".nbi"] if somewhere else [])
    assert not (home / ".cache" / "numba").exists()
    assert numba.config.CACHE_DIR == ""


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", [b"", b"\x80\x04\x95", None], ids=["empty", "torn", "a folder"])
def test_a_damaged_cache_is_compiled_anew(
    home: Path, tmp_path: Path, suffix: str, damage: bytes | None
) -> None:
    assert load(tmp_path / "sources")(3) == 6
    (file,) = (tmp_path / "sources").rglob(f"*{suffix}")
    if damage is None:
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(damage)
    mended = load(tmp_path / "sources")
    assert mended(3) == 6
    assert hits(mended) == 0
    again = load(tmp_path / "sources")
    assert again(3) == 6
    assert hits(again) == (damage is not None)


def test_a_disk_that_is_full(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full(*names: Any) -> None:
        calls.append(names)
        raise OSError(errno.ENOSPC, "No space left on device")

    kernel = load(tmp_path / "sources")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert kernel(3) == 6
    assert calls
    assert kept(tmp_path / "sources") == []


def test_all_kernels_that_are_kept_are_kept_there() -> None:
    root = Path(caches.__file__).parents[1]
    texts = {path: path.read_text(encoding="utf-8") for path in root.rglob("*.py")}
    assert [path for path, text in texts.items() if re.search(r"\bcache=True", text)] == []
    assert sum("import compiled" in text for text in texts.values()) == 8
