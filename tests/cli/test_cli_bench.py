"""``compressm bench``."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from compressm_cli.cli.bench import LARGEST_ORDER
from compressm_cli.cli.main import run
from compressm_cli.engine import trainee
from compressm_cli.engine.forms import choose_forms
from compressm_cli.layers.config import StateDim
from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.layers.lru import LRU
from compressm_cli.measure.flops import training_step_flops
from compressm_cli.measure.probe import example_batch
from compressm_cli.measure.roof import Roof
from compressm_cli.models import build_model
from compressm_cli.ops.forms import DEFAULT
from compressm_cli.recipe import load_recipe
from compressm_cli.reports import bench as bench_module
from compressm_cli.reports import decoding
from compressm_cli.reports.bench import BenchRow
from compressm_cli.reports.decoding import DecodingReport, DecodingSpeed
from compressm_cli.reports.estimates import Estimate
from compressm_cli.reports.step_memory import StepMemory
from compressm_cli.reports.timing import StepTimes

Capture = pytest.CaptureFixture[str]

TINY = ["model.model_dim=4", "model.depth=2", "train.batch_size=4", "device=cpu"]
LAYERS = ("blocks.0.layer", "blocks.1.layer")
ROOF = Roof(2e9, 1e10, 1024, "fp32", "cpu", 1)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[dict[str, int]]]:
    """The machine replaced: a step takes a hundredth of a second a state. Gives the orders that were timed."""
    timed: list[Sequence[dict[str, int]]] = []

    def memory(setting: Any, orders: Sequence[dict[str, int]]) -> list[StepMemory]:
        known = [StepMemory(1_000_000 * each[LAYERS[0]], "bytes of a test", None) for each in orders[:-1]]
        return [*known, StepMemory(None, "bytes of a test", "the test says so")]

    def times(setting: Any, orders: Sequence[dict[str, int]], rounds: int | None) -> list[StepTimes]:
        timed.append(orders)
        seconds = [0.01 * each[LAYERS[0]] for each in orders]
        return [StepTimes([3 * s, s, s / 2], [s / 10] * (rounds or 3)) for s in seconds]

    def decode(models: Sequence[Any], data: Any, device: Any) -> DecodingReport:
        orders = [model.blocks[0].layer.state_dim for model in models]
        ratios = [Estimate(orders[0] / order, None, None, 1) for order in orders]
        steps = DecodingSpeed(64, [8000 / order for order in orders], ratios)
        sizes, seconds = [8 * order for order in orders], [order / 1e3 for order in orders]
        return DecodingReport("cpu", 1, 64, 3, sizes, seconds, ratios, [steps], False)

    monkeypatch.setattr(bench_module, "decoding_speed", decode)
    monkeypatch.setattr(trainee, "costs_here", lambda *_: DEFAULT)
    monkeypatch.setattr(bench_module, "measure_roof", lambda device, precision: ROOF)
    monkeypatch.setattr(bench_module, "step_memory", memory)
    monkeypatch.setattr(bench_module, "time_steps", times)
    return timed


def rows_of(capsys: Capture, *arguments: str) -> list[dict[str, Any]]:
    assert run(["bench", "quickstart/baseline", *TINY, "--json", *arguments]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_json_has_a_row_an_order(capsys: Capture, fakes: list[Any]) -> None:
    rows = rows_of(capsys, "--orders", "8, 2,4")
    assert fakes == [[dict.fromkeys(LAYERS, order) for order in (8, 2, 4)]]
    assert [row["order"] for row in rows] == [8, 2, 4]
    assert all(set(row) == {field.name for field in fields(BenchRow)} for row in rows)
    recipe = load_recipe("quickstart/baseline", TINY)
    data = recipe.data.spec()
    for row, order in zip(rows, (8, 2, 4), strict=True):
        model = build_model(recipe.model, data, dict.fromkeys(LAYERS, order))
        choose_forms(model, "auto", DEFAULT, 4, 64)
        flops, seconds = training_step_flops(model, example_batch(data, 4)), 0.01 * order
        assert row["orders"] == dict.fromkeys(LAYERS, order)
        assert row["forms"] == {name: model.get_submodule(name).form for name in LAYERS}
        assert row["flops_per_step"] == flops
        assert row["parameters"] == sum(p.numel() for p in model.parameters())
        assert row["step_seconds"] == pytest.approx(seconds)
        assert row["step_seconds_least"] == pytest.approx(seconds / 2)
        assert row["tokens_per_second"] == pytest.approx(4 * 64 / seconds)
        assert row["roof_fraction"] == pytest.approx(flops / 2e9 / seconds)
        assert row["inference_seconds"] == pytest.approx(seconds / 10)
        assert row["times_faster"] == pytest.approx(8 / order)
        assert row["decoding_tokens_per_second"] == pytest.approx(8000 / order)
        assert row["decoding_times_faster"] == pytest.approx(8 / order)
        assert (row["decoding_batch"], row["state_bytes"], row["decoding_reason"]) == (64, 8 * order, None)
        assert row["first_token_seconds"] == pytest.approx(order / 1e3)
        assert (row["precision"], row["device"], row["threads"]) == ("fp32", "cpu", 1)
    assert [row["peak_bytes"] for row in rows] == [8_000_000, 2_000_000, None]
    assert [row["peak_bytes_reason"] for row in rows] == [None, None, "the test says so"]


def test_the_recipes_own_order_unless_asked(capsys: Capture, fakes: list[Any]) -> None:
    (row,) = rows_of(capsys)
    assert (row["order"], row["orders"]) == (64, dict.fromkeys(LAYERS, 64))
    (row,) = rows_of(capsys, "model.layer.state_dim=[6,3]")
    assert (row["order"], row["orders"]) == (None, dict(zip(LAYERS, (6, 3), strict=True)))
    # Larger than the recipe's, and a list where the recipe has one.
    assert [row["order"] for row in rows_of(capsys, "model.layer.state_dim=[6,3]", "--orders=100")] == [100]


def test_table(capsys: Capture, fakes: list[Any]) -> None:
    assert run(["bench", "quickstart/baseline", *TINY, "--orders", "8,4"]) == 0
    captured = capsys.readouterr()
    line, decoded = [line for line in captured.out.splitlines() if line.strip().startswith("4 ")]
    for text in ("40.0 ms", "20.0 ms", "6,400", "2.00x", "not measured [1]", "4.00 ms"):
        assert text in line
    for text in ("2,000", "2.00x", "32.0 B", "4.00 ms"):
        assert text in decoded
    shown = " ".join(captured.out.split())
    for text in (
        "batches of 4, sequences of 64 steps",
        "counted FLOPs of a training step over the FLOP/s of a matrix product",
        "Here: 2.00 GFLOP/s, beside 10.0 GB/s",
        "Peak memory: bytes of a test.",
        "[1] the test says so",
    ):
        assert text in shown
    assert "measuring the roof of cpu" in captured.err


def test_a_model_that_cannot_be_stepped_has_no_decoding(
    capsys: Capture, fakes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LRU, "step", StateSpaceLayer.step)
    (row,) = rows_of(capsys)
    for name in ("tokens_per_second", "batch", "times_faster"):
        assert row[f"decoding_{name}"] is None
    assert (row["state_bytes"], row["first_token_seconds"]) == (None, None)
    assert row["decoding_reason"] == "blocks.0.layer, of the kind LRU, has no step by step form"
    assert run(["bench", "quickstart/baseline", *TINY]) == 0
    assert f"Decoding not measured: {row['decoding_reason']}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("orders", ["0", "8,-1", "8,2.5", "8,,4", "eight", "", "²", "65537"])
def test_bad_orders(capsys: Capture, fakes: list[Any], orders: str) -> None:
    assert run(["bench", "quickstart/baseline", *TINY, f"--orders={orders}"]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith(f"error: --orders {orders}: ")
    assert "write whole numbers from 1 to 65536, such as 384,93,57" in line
    assert captured.out == ""
    assert not fakes


def test_the_largest_order_is_that_of_a_recipe() -> None:
    valid = TypeAdapter(StateDim)
    assert valid.validate_python(LARGEST_ORDER) == LARGEST_ORDER
    with pytest.raises(ValidationError):
        valid.validate_python(LARGEST_ORDER + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quickstart/baseline", "--repeats", "0"], "0 is not in the range"),
        (["quickstart/baseline", "--device", "tpu"], "'tpu' is not one of"),
        (["quickstart/baseline", "train.stps=3"], "unknown key; did you mean 'steps'?"),
        (["quickstart/no-such"], "quickstart/no-such"),
        ([], "Missing argument 'RECIPE'"),
    ],
)
def test_bad_input(capsys: Capture, fakes: list[Any], arguments: list[str], message: str) -> None:
    assert run(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_device_of_the_option_goes_before_the_recipes(
    capsys: Capture, fakes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(["bench", "quickstart/baseline", *TINY, "--device", "cuda"]) == 2
    assert "device: cuda: " in capsys.readouterr().err
    assert run(["bench", "quickstart/baseline", *TINY, "device=cuda", "--device", "cpu"]) == 0


def test_options_are_parsed_without_torch() -> None:
    code = (
        "import sys\n"
        "from compressm_cli.cli import main\n"
        "assert main.run(['bench', '--help']) == 0\n"
        "assert main.run(['bench', 'quickstart/baseline', '--orders', '0']) == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.slow
def test_a_real_machine(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SECONDS", 0.1)
    large, small = rows_of(capsys, "train.batch_size=256", "--orders", "64,2", "--repeats", "2")
    for row in (large, small):
        assert row["rounds"] == 2
        assert 0 < row["step_seconds_least"] <= row["step_seconds"]
        assert row["tokens_per_second"] == pytest.approx(256 * 64 / row["step_seconds"])
        share = row["flops_per_step"] / row["roof_flops_per_second"] / row["step_seconds"]
        assert row["roof_fraction"] == pytest.approx(share)
        assert row["roof_bytes_per_second"] > 0
        assert row["inference_seconds"] > 0
        assert row["peak_bytes"] > 256 * 64 * 4
        assert row["decoding_tokens_per_second"] > 0
        assert row["first_token_seconds"] > 0
    assert large["flops_per_step"] > small["flops_per_step"]
    assert large["parameters"] > small["parameters"]
    assert large["state_bytes"] > small["state_bytes"]
