"""compressm doctor."""

import json
import os
from pathlib import Path

import pytest
import torch

from compressm_cli import __version__
from compressm_cli.cli import doctor as doctor_module
from compressm_cli.cli.main import run

Capture = pytest.CaptureFixture[str]


def test_json_says_everything(capsys: Capture) -> None:
    assert run(["doctor", "--json"]) == 0
    found = {(line["group"], line["name"]): line for line in json.loads(capsys.readouterr().out)}
    assert found["software", "compressm"]["detail"] == __version__
    assert torch.__version__ in found["software", "torch"]["detail"]
    assert found["libraries", "numba"]["ok"] is True
    groups = {group for group, _ in found}
    assert groups == {"software", "machine", "cuda", "libraries", "recurrences", "joules", "folders"}
    assert all(line["detail"] for line in found.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_cuda_it_says_why() -> None:
    (device,) = doctor_module._cuda()
    assert device.ok is False
    assert "without CUDA" in device.detail or "no CUDA device" in device.detail


def test_tables(capsys: Capture) -> None:
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "recurrences" in out
    assert "numba" in out


def test_a_missing_library_says_how_to_get_it() -> None:
    ok, detail = doctor_module._library(
        "nothing", "no-such-package", "tests", "pip install 'compressm[mamba]'"
    )
    assert not ok
    assert detail == "not installed: tests; pip install 'compressm[mamba]'"


def test_a_broken_library_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_library.py").write_text("raise OSError('no such symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    ok, detail = doctor_module._library("broken_library", "typer", "tests", "reinstall it")
    assert not ok
    assert "cannot be imported: no such symbol" in detail


def test_folders(tmp_path: Path) -> None:
    assert doctor_module._writable(tmp_path) == (True, str(tmp_path))
    assert doctor_module._writable(tmp_path / "a" / "b") == (True, f"{tmp_path / 'a' / 'b'} (will be made)")
    (tmp_path / "file").write_text("")
    assert doctor_module._writable(tmp_path / "file" / "a")[0] is False


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert doctor_module._writable(tmp_path / "a")[0] is False
