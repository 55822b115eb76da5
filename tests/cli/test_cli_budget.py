"""``compressm compress --budget``: units of any kind leave a model until a share of its FLOPs is left."""

import json
from pathlib import Path
from typing import Any

import pytest
from cut_models import llama, tiny_decoder

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.cli.pruning import ScoreName, share_of
from compressm_cli.core.errors import BadInputError
from compressm_cli.measure.flops import inference_flops
from compressm_cli.measure.probe import example_batch
from compressm_cli.pruning import SCORES


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("model"))


def run(model: Path, output: Path, *options: str) -> int:
    return command(["compress", str(model), "--budget", "flops=0.8x", "--output", str(output), *options])


@pytest.mark.parametrize(
    "options", [(), ("--uniform", "--score", "least_squares"), ("--no-fold", "--rounds", "2")]
)
def test_a_model_is_cut_to_the_budget_and_reloads(
    model: Path, tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, tmp_path / "small.pt", "--json", *options) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    small = Checkpoint.load(tmp_path / "small.pt")
    built = small.build_model()
    assert told["flops"]["after"] == inference_flops(built, example_batch(small.data, 1))
    assert told["flops"]["after"] <= 0.8 * told["flops"]["before"]
    assert told["parameters"]["after"] == sum(p.numel() for p in built.parameters())
    assert {line["unit"]: line["after"] for line in told["axes"]}.items() <= small.sizes.items()
    assert set(small.orders.values()) == {6}
    assert told["validation"]["after"]["loss"] == pytest.approx(told["validation"]["before"]["loss"], abs=0.1)
    assert (told["price"] is None) == ("least_squares" in options)
    made = [fold for fold in told["folds"] if fold["error"] is not None]
    assert bool(made) == ("--no-fold" not in options)
    assert all(fold["error"] <= fold["error_silent"] for fold in made)
    neurons = {line["after"] for line in told["axes"] if line["unit"].endswith("neurons")}
    assert len(neurons) == 1 or "--uniform" not in options


def test_tables_say_what_was_done(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "small.pt"
    assert run(model, output, "--no-evaluation") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{model}: the given checkpoint, compressed\n")
    for text in (
        "FLOPs saved",
        "folded into",
        "into the matrix and the bias",
        "price: ",
        "FLOPs ",
        f"{output}: ",
    ):
        assert text in out
    assert "validation loss" not in out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (
            ["--budget", "0.5"],
            "--budget 0.5: write flops= and a share of the model's FLOPs, above 0 and below 1",
        ),
        (["--budget", "flops=0.5x", "--order", "2"], "give exactly one of"),
        (["--order", "2", "--uniform"], "--score, --no-fold, --uniform and --rounds go with --budget"),
        (["--budget", "flops=0.5x", "--distill", "3"], "do not go with --budget"),
        (["--budget", "flops=0.01x"], "cannot be met: without all units that may leave"),
        (["--budget", "flops=0.5x", "data={task: digits}"], "the model was made for data with classes 257"),
    ],
)
def test_bad_input(
    model: Path, tmp_path: Path, arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "small.pt"
    assert command(["compress", str(model), "--output", str(output), *arguments]) == 2
    assert error in capsys.readouterr().err
    assert not output.exists()


def test_shares_and_scores_are_those_that_there_are() -> None:
    assert (share_of("flops=0.6x"), share_of("flops=.25x")) == (0.6, 0.25)
    for wrong in ("flops=1x", "flops=0x", "flops=x", "seconds=0.5x", "flops=0.5"):
        with pytest.raises(BadInputError, match=r"such as flops=0\.6x"):
            share_of(wrong)
    assert ScoreName.__args__ == tuple(SCORES)  # type: ignore[attr-defined]


def test_a_folder_of_transformers_is_cut_by_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = llama(tmp_path)
    output = tmp_path / "small"
    from compressm_cli.exchange.folders import open_folder

    capsys.readouterr()
    options = ["--budget", "flops=0.9x", "--uniform", "--output", str(output), "--json"]
    assert command(["compress", str(folder), *options]) == 2
    assert "takes --data FILE" in capsys.readouterr().err
    assert command(["compress", str(folder), "--data", str(tmp_path / "none"), *options]) == 2
    assert "cannot be read as text" in capsys.readouterr().err
    ours = tmp_path / "outputs" / "ours"
    (ours / "v0001").mkdir(parents=True)
    (ours / "v0001" / "run.json").write_text("{}", encoding="utf-8")
    assert command(["compress", str(ours), "--data", str(text), *options]) == 2
    assert "a model of ours takes data.KEY=VALUE" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # before anything is opened, or cut for hours
        patch.setattr("compressm_cli.engine.folder_pruning.prune_folder", None)
        within = ["--output", str(text / "small")]
        assert command(["compress", str(folder), "--data", str(text), *options, *within]) == 2
    assert f"{text / 'small'}: cannot be written" in capsys.readouterr().err
    assert command(["compress", str(folder), "--data", str(text), *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["flops"]["after"] <= 0.9 * told["flops"]["before"]
    assert told["validation"]["after"] == pytest.approx(told["validation"]["before"], abs=0.1)
    small = open_folder(output).model
    assert sum(p.numel() for p in small.parameters()) == told["parameters"]["after"]
    assert (output / "tokenizer.json").is_file()
