"""``analyze`` and ``compress`` say the same of one checkpoint and its data: Gramians, spectra, orders and errors."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.methods.hankel.method import share_out
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping

LAYERS: dict[str, dict[str, Any]] = {
    "lru": {"kind": "lru", "state_dim": 8, "r_min": 0.5, "r_max": 0.95},
    "s4d": {"kind": "s4d", "state_dim": 8},
    "s5": {"kind": "s5", "state_dim": 8},
    "mamba": {"kind": "mamba", "state_dim": 8},
    "mamba2": {"kind": "mamba2", "state_dim": 8, "head_dim": 8},
    "gla": {"kind": "gla", "state_dim": 8, "heads": 2},
}
TIME_INVARIANT = ("lru", "s4d", "s5")
THRESHOLDS = (0.4, 0.9, 1.0)


def saved(folder: Path, layer: str, compression: dict[str, Any] | None = None) -> Path:
    """A model with fresh weights, whose recipe compresses as given or not at all."""
    recipe = recipe_from_mapping(
        {
            "name": "tiny",
            "data": {"task": "text_lm", "max_bytes": 20000, "length": 32},
            "model": {"layer": LAYERS[layer], "model_dim": 8, "depth": 2, "norm": "rms", "final_norm": True},
            "train": {"steps": 2, "batch_size": 4},
            "compression": compression or {"method": "none"},
        },
        "test",
    )
    torch.manual_seed(0)
    spec = recipe.data.spec()
    path = folder / f"{layer}.pt"
    Checkpoint.of(build_model(recipe.model, spec), recipe, spec, 2).save(path)
    return path


def told(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert command([*arguments, "--json"]) == code
    out = capsys.readouterr().out
    return json.loads(out) if code == 0 else {}


def analyzed(model: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    thresholds = ",".join(map(str, THRESHOLDS))
    layers: list[dict[str, Any]] = told(
        ["analyze", str(model), "--no-plots", "--thresholds", thresholds, *overrides], capsys
    )["layers"]
    return layers


class ByDefault(dict[str, tuple[Path, list[dict[str, Any]]]]):
    """A model of each layer with what ``analyze`` says of it without overrides, made once for all tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, layer: str, capsys: pytest.CaptureFixture[str]) -> tuple[Path, list[dict[str, Any]]]:
        if layer not in self:
            model = saved(self.folder, layer)
            self[layer] = (model, analyzed(model, [], capsys))
        return self[layer]


@pytest.fixture(scope="module")
def by_default(tmp_path_factory: pytest.TempPathFactory) -> ByDefault:
    return ByDefault(tmp_path_factory.mktemp("by-default"))


class Compress:
    """Runs of ``compress`` on one model, each into a file of its own."""

    def __init__(self, model: Path, overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        self.model, self.overrides, self.capsys = model, overrides, capsys

    def __call__(self, *target: str, code: int = 0) -> list[dict[str, Any]]:
        output = self.model.with_name(f"{'-'.join([self.model.stem, *target, *self.overrides])}.pt")
        arguments = ["compress", str(self.model), *target, "--output", str(output), "--no-evaluation"]
        found = told([*arguments, *self.overrides], self.capsys, code)
        layers: list[dict[str, Any]] = found.get("layers", [])
        return layers


@pytest.mark.parametrize(
    ("layer", "gramian"),
    [*((layer, "empirical") for layer in LAYERS), *((layer, "analytic") for layer in TIME_INVARIANT)],
)
def test_orders_at_thresholds_are_those_that_compress_comes_to(
    by_default: ByDefault, layer: str, gramian: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, layers = by_default.of(layer, capsys)
    overrides = [] if gramian == "empirical" else ["compression.gramian=analytic"]
    if overrides:
        layers = analyzed(model, overrides, capsys)
    compress = Compress(model, overrides, capsys)
    assert {one["gramian"] for one in layers} == {gramian}
    cut = 0
    for i, threshold in enumerate(THRESHOLDS):
        found = [one["thresholds"][i] for one in layers]
        if all(at["order"] == one["order"] for one, at in zip(layers, found, strict=True)):
            compress("--energy", str(threshold), code=1)  # nothing is cut
            continue
        records = compress("--energy", str(threshold))
        for one, at, record in zip(layers, found, records, strict=True):
            assert record["gramian"] == gramian
            assert (record["hsv"] == one["hsv"]) == (at["exception"] is None)
            assert record["reason"] == at["reason"]
            assert (record["order_before"], record["order_after"]) == (one["order"], at["order"])
            if at["order"] < one["order"]:
                cut += 1
                assert at["values_kept"] == record["kept"]
                for key in ("tail", "bound", "measured_error", "predicted_error", "kernel_order"):
                    assert at[key] == record[key], key
    assert cut >= 2


@pytest.mark.parametrize("layer", LAYERS)
def test_other_targets_go_by_the_same_spectra(
    by_default: ByDefault, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, layers = by_default.of(layer, capsys)
    compress = Compress(model, [], capsys)
    for target in (("--total", "9"), ("--keep", "0.5"), ("--order", "3")):
        records = compress(*target)
        for record, one in zip(records, layers, strict=True):
            assert record["hsv"] == one["hsv"] or "balanced over all time" in record["reason"]
        wanted = [4, 4] if target[0] == "--keep" else [3, 3]
        if target[0] == "--total":
            spectra = [torch.tensor(one["hsv"], dtype=torch.float64) for one in layers]
            pairs = layer in TIME_INVARIANT  # two values of the real realization make one complex state
            wanted = share_out(9, [s.view(-1, 2).sum(1) if pairs else s for s in spectra])
        assert [r["order_after"] for r in records] == wanted


@pytest.mark.parametrize("layer", TIME_INVARIANT)
def test_both_take_what_the_recipe_says(
    tmp_path: Path, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {
        "method": "hankel", "keep_fraction": 0.7, "gramian": "analytic", "horizon": "infinite",
        "realization": "complex",
    }  # fmt: skip
    model = saved(tmp_path, layer, own)
    layers = analyzed(model, [], capsys)
    for one in layers:
        assert (one["realization"], one["gramian"], one["horizon"]) == ("complex", "analytic", None)
    for record, one in zip(Compress(model, [], capsys)("--energy", "0.4"), layers, strict=True):
        assert (record["realization"], record["gramian"], record["horizon"]) == ("complex", "analytic", None)
        assert record["order_after"] == one["thresholds"][0]["order"]


def test_which_gramians_they_are_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path, "lru")
    for overrides, words in (
        ([], "Gramians from data (P of the states on 4 training batches, Q over 32 steps)"),
        (["compression.gramian=analytic"], "analytic Gramians (white inputs, over 32 steps)"),
        (
            ["compression.gramian=analytic", "compression.horizon=infinite"],
            "analytic Gramians (white inputs, over all time)",
        ),
    ):
        assert command(["analyze", str(model), "--no-plots", *overrides]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert words in out
        assert f"Orders by energy threshold, {words.partition(' (')[0]}" in out
        output = tmp_path / f"small-{len(overrides)}.pt"
        assert command(["compress", str(model), "--order", "3", "--output", str(output), *overrides]) == 0
        assert words in " ".join(capsys.readouterr().out.split())


def test_without_data_the_way_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path, "lru")
    gone = f"data={{task: text_lm, path: {tmp_path / 'gone.txt'}, length: 32}}"
    assert command(["analyze", str(model), "--no-plots", gone]) == 2
    error = capsys.readouterr().err
    assert "gone.txt" in error
    assert "compression.gramian=analytic" in error
    assert command(["analyze", str(model), "--no-plots", gone, "compression.gramian=analytic"]) == 0


def test_a_threshold_is_no_override(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path, "lru")
    assert command(["analyze", str(model), "--no-plots", "compression.energy_threshold=0.5"]) == 2
    assert "--thresholds" in capsys.readouterr().err
