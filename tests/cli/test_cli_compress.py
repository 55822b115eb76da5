"""``compressm compress``: from a trained model to a smaller one, in one shot, and on from there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.core.quantities import quantity
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, recipe_from_mapping, recipe_to_yaml

LAYERS: dict[str, dict[str, Any]] = {
    "lru": {"kind": "lru", "state_dim": 8},
    "mamba": {"kind": "mamba", "state_dim": 8},
    "mamba2": {"kind": "mamba2", "state_dim": 8, "head_dim": 8},
    "gla": {"kind": "gla", "state_dim": 8, "heads": 2},
}


def recipe(layer: str, **train: Any) -> Recipe:
    return recipe_from_mapping(
        {
            "name": "tiny",
            "data": {"task": "text_lm", "max_bytes": 20000, "length": 32},
            "model": {"layer": LAYERS[layer], "model_dim": 8, "depth": 2, "norm": "rms", "final_norm": True},
            "train": {"steps": 2, "batch_size": 4, **train},
            "compression": {"method": "none"},
        },
        "test",
    )


def saved(folder: Path, layer: str) -> Path:
    """A model with fresh weights, scaled up so that its layers have something to lose."""
    torch.manual_seed(0)
    a_recipe = recipe(layer)
    spec = a_recipe.data.spec()
    path = folder / f"{layer}.pt"
    Checkpoint.of(build_model(a_recipe.model, spec), a_recipe, spec, 2).save(path)
    return path


@pytest.mark.parametrize("layer", LAYERS)
def test_a_model_is_cut_and_reloads(tmp_path: Path, layer: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = saved(tmp_path, layer), tmp_path / "small" / "model.pt"
    assert command(["compress", str(model), "--order", "3", "--output", str(output), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    small = Checkpoint.load(output)
    assert set(small.orders.values()) == {3}
    assert told["bytes"] == output.stat().st_size
    assert [line["order_after"] for line in told["layers"]] == [3, 3]
    assert told["parameters"]["after"] == sum(p.numel() for p in small.build_model().parameters())
    assert told["validation"]["before"]["labels"] == told["validation"]["after"]["labels"] > 0
    assert told["validation"]["after"]["loss"] == pytest.approx(told["validation"]["before"]["loss"], abs=0.5)
    assert all(0 <= line["measured_error"] < 1 for line in told["layers"])


def test_tables_say_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = saved(tmp_path, "mamba"), tmp_path / "small.pt"
    arguments = ["compress", str(model), "--keep", "0.5", "--variant", "pivoted", "--output", str(output)]
    assert command([*arguments, "compression.calibration_batches=1"]) == 0
    out = capsys.readouterr().out
    size = quantity(output.stat().st_size, "bytes")
    for text in ("8 -> 4", "pivoted", "validation loss", "parameters", f"small.pt: {size}\n"):
        assert text in out
    assert out.startswith(f"{model}: the given checkpoint, compressed\n")


def test_the_small_model_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, output = saved(tmp_path, "mamba"), tmp_path / "small.pt"
    recovery = tmp_path / "recover.yaml"
    changed = recipe("mamba").model_copy(update={"name": "recovered"})
    recovery.write_text(recipe_to_yaml(changed), encoding="utf-8")
    outputs = tmp_path / "outputs"
    text = recovery.read_text(encoding="utf-8").replace("root: outputs", f"root: {outputs}")
    recovery.write_text(text, encoding="utf-8")
    arguments = ["compress", str(model), "--order", "2", "--output", str(output), "--no-evaluation"]
    assert command([*arguments, "--recover", str(recovery)]) == 0
    run = Path(capsys.readouterr().out.splitlines()[-1])
    final = Checkpoint.load(run / "checkpoints" / "final.pt")
    assert set(final.orders.values()) == {2}
    start = Checkpoint.load(output).weights
    assert any(not torch.equal(final.weights[name], value) for name, value in start.items())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "give exactly one of --order, --total, --keep, --energy and --budget"),
        (["--order", "2", "--keep", "0.5"], "give exactly one of"),
        (
            ["--order", "2", "--variant", "best"],
            "compression.variant: 'best' is not one of default, balanced",
        ),
        (["--order", "2", "data.length=zero"], "data.length"),
        (["--order", "2", "data={task: digits}"], "the model was made for data with classes 257"),
    ],
)
def test_bad_input(
    tmp_path: Path, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tmp_path, "mamba")
    assert command(["compress", str(model), "--output", str(tmp_path / "small.pt"), *arguments]) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "small.pt").exists()


def test_where_nothing_can_be_written_no_work_is_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "folder" / "small.pt"
    # The model would be looked for first.
    assert command(["compress", str(tmp_path / "none.pt"), "--order", "2", "--output", str(output)]) == 2
    told = capsys.readouterr().err
    assert told == f"error: {output}: cannot be written: Not a directory; choose another --output\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder here that root cannot write to")
def test_where_no_page_can_be_written_nothing_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["compare", "none.pt", "none.pt", "--html", "/proc/page.html"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --html /proc/page.html: cannot be written: ")
    assert told.endswith("; choose another file\n")


def test_what_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path, "mamba")
    before = model.read_bytes()
    assert command(["compress", str(model), "--order", "2", "--output", str(model)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert model.read_bytes() == before


def test_nothing_cut_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path, "gla")
    arguments = ["compress", str(model), "--order", "4", "--variant", "balanced_real", "--no-evaluation"]
    assert command([*arguments, "--output", str(tmp_path / "small.pt")]) == 1
    assert "of this kind of layer there are pivoted, gramian, random" in capsys.readouterr().err


@pytest.mark.parametrize("layer", ["mamba", "mamba2", "gla"])
def test_analyze_measures_what_a_cut_would_cost(
    tmp_path: Path, layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tmp_path, layer)
    assert command(["analyze", str(model), "--json", "--no-plots", "--thresholds", "0.5,0.9"]) == 0
    found = json.loads(capsys.readouterr().out)
    for one in found["layers"]:
        assert len(one["hsv"]) == 8
        assert one["spectral_radius"] is None
        assert one["variant"] == ("pivoted" if layer == "gla" else "balanced")
        low, high = one["thresholds"]
        assert low["order"] <= high["order"]
        assert low["bound"] is None
        assert 0 <= high["measured_error"] <= low["measured_error"]
    assert command(["analyze", str(model), "--plots", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "no H-infinity" in " ".join(out.split())
