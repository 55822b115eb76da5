"""Data that a device has no room for stay in the host's memory; runs are the same, bit by bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressm_cli.data import flat, mapped
from compressm_cli.data.interface import Split
from compressm_cli.engine import data_placement, experiment
from compressm_cli.engine.batches import Batches, share_of
from compressm_cli.engine.data_placement import placed
from compressm_cli.engine.divergence import rows_not_finite
from compressm_cli.engine.evaluation import evaluate
from compressm_cli.engine.view import SilentView
from compressm_cli.measure.memory import free_bytes

CPU, META = torch.device("cpu"), torch.device("meta")


class Watching(SilentView):
    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, text: str) -> None:
        self.told.append(text)


def fake_limit(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(data_placement, "free_bytes", lambda device: free)


def series(rows: int = 10) -> Split:
    random = torch.Generator().manual_seed(0)
    return Split(torch.randn(rows, 6, 2, generator=random), torch.arange(rows) % 3)


def tokens(rows: int = 10) -> Split:
    stretch = (torch.arange(7 * rows + 1) % 50).to(torch.uint16).unfold(0, 8, 7)
    return Split(stretch[:, :-1], stretch[:, 1:])


def test_half_of_what_is_free_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    split = series()
    needed = 10 * 6 * 2 * 4 + 10 * 8
    assert split.bytes_on(CPU) == needed
    fake_limit(monkeypatch, 2 * needed)
    assert placed([split], META).why_host is None
    assert placed([split], META).splits[0].inputs.is_meta
    fake_limit(monkeypatch, 2 * needed - 1)
    kept = placed([split], META)
    assert kept.why_host == "they take 560 B, and 1.12 kB are free on meta"
    assert kept.splits[0].inputs is split.inputs
    assert kept.splits[0].labels.is_meta, "labels of rows are small"


def test_types_that_a_device_cannot_use_count_as_what_they_become() -> None:
    assert tokens().bytes_on(CPU) * 2 == tokens().bytes_on(META) == 10 * 7 * (4 + 4)


@pytest.mark.parametrize("split", [series(), tokens()], ids=["series", "tokens"])
def test_batches_alone_are_moved(split: Split) -> None:
    kept = split.kept_for(META)
    batch = kept.rows(torch.tensor([3, 1]))
    like = split.rows(torch.tensor([3, 1]))
    assert kept.device == batch.device == META
    assert not kept.inputs.is_meta
    for one, other in ((batch.inputs, like.inputs), (batch.labels, like.labels)):
        assert one.is_meta
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert all(part.inputs.is_meta for part in share_of(batch, 0, 2, 2).parts)
    assert Batches(kept, 4, 0)(1).inputs.is_meta
    assert rows_not_finite(kept) == 0


def test_a_run_is_the_same_bit_by_bit(
    tiny: Any, train: Any, same_weights: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(
        steps=12,
        compression={
            "method": "hankel",
            "target_order": 4,
            "gramian": "empirical",
            "schedule": {"kind": "listed", "fractions": [0.5]},
        },
    )
    plain = train(recipe)
    assert "data" not in plain.read_info()["device"]
    fake_limit(monkeypatch, 1000)
    watching = Watching()
    other = train(recipe, view=watching)
    assert [line for line in watching.told if line.startswith("data on host: they take ")]
    assert other.read_info()["device"]["data"] == "on host"
    assert same_weights(plain, other)
    times = {"seconds", "step_seconds", "peak_memory", "joules"}
    assert [
        {key: value for key, value in line.items() if key not in times} for line in plain.read_metrics()
    ] == [{key: value for key, value in line.items() if key not in times} for line in other.read_metrics()]
    assert json.dumps(plain.read_summary()["test"]) == json.dumps(other.read_summary()["test"])


def test_a_run_on_data_in_files_is_the_same_and_goes_on_as_the_same(
    tiny: Any, train: Any, same_weights: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = np.random.RandomState(0).normal(size=(60, 9, 2))
    np.savez(tmp_path / "rows.npz", x=series, n=1 + np.arange(60) % 9, y=np.arange(60) % 2)
    columns = {"sequence_column": "x", "lengths_column": "n", "label_column": "y"}
    data = {"task": "files", "format": "npz", "train": str(tmp_path / "rows.npz"), **columns}
    recipe = tiny(steps=12, data=data, train={"checkpoint_every": 6}, output={"keep_last": 3})
    plain = train(recipe)
    monkeypatch.setattr(mapped, "free_memory", lambda: 1000)
    fake_limit(monkeypatch, 1000)
    other = train(recipe)
    assert other.read_info()["fingerprint"] == plain.read_info()["fingerprint"]
    assert same_weights(plain, other)
    for path in (other.folder / "summary.json", other.final_checkpoint, other.last_checkpoint(12)):
        path.unlink()
    experiment.resume(other, recipe, SilentView(), "test")
    assert other.read_info()["resumed"][0]["step"] == 6
    assert same_weights(plain, other)


@pytest.mark.parametrize("kind", ["texts", "series"])
def test_a_run_on_rows_that_are_put_into_files_as_they_are_read_is_the_same_too(
    kind: str,
    tiny: Any,
    train: Any,
    same_weights: Callable[..., bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[dict[str, Any]] = [{"x": [float(n), 7.5] * (1 + n % 4), "label": n % 2} for n in range(60)]
    if kind == "texts":
        rows = [{"x": "text " * (1 + n % 5) + str(n // 2), "label": n % 2} for n in range(60)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    column = {"texts": "text_column", "series": "sequence_column"}[kind]
    data = {"task": "files", "format": "jsonl", "train": str(path), column: "x", "label_column": "label"}
    recipe = tiny(steps=12, data=data, train={"checkpoint_every": 6}, output={"keep_last": 3})
    plain = train(recipe)
    for name, value in (("LIMIT", 0), ("AT_ONCE", 100)):
        monkeypatch.setattr(flat, name, value)
    other = train(recipe)
    for name in ("fingerprint", "data"):
        assert other.read_info()[name] == plain.read_info()[name]
    assert same_weights(plain, other)
    assert json.dumps(plain.read_summary()["test"]) == json.dumps(other.read_summary()["test"])
    for path in (other.folder / "summary.json", other.final_checkpoint, other.last_checkpoint(12)):
        path.unlink()
    experiment.resume(other, recipe, SilentView(), "test")
    assert other.read_info()["resumed"][0]["step"] == 6
    assert same_weights(plain, other)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_batches_are_those_of_data_that_are_there() -> None:
    device = torch.device("cuda")
    free = free_bytes(device)
    assert free is not None
    assert 0 < free <= torch.cuda.get_device_properties(device).total_memory
    uneven = Split(
        torch.arange(60).reshape(10, 6).to(torch.int16), torch.arange(10), torch.arange(10) % 6 + 1
    )
    for split in (series(), tokens(), uneven):
        there, kept = Batches(split.to(device), 4, 0), Batches(split.kept_for(device), 4, 0)
        for step in range(1, 7):
            one, other = there(step), kept(step)
            assert {other.inputs.device, other.labels.device} == {one.inputs.device}
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.labels, other.labels)
            assert one.lengths is None or torch.equal(one.lengths, other.lengths)  # type: ignore[arg-type]
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)).to(device)
    model.forward = lambda x, lengths=None, plain=model.forward: plain(x)  # type: ignore[method-assign]
    assert evaluate(model, series().to(device), 4) == evaluate(model, series().kept_for(device), 4)
