"""``compressm compress FOLDER --budget --recover``: a folder of transformers is cut, trained on, and a folder again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cut_models import llama

from compressm_cli.cli.main import run as command
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.byte_tokenizer import byte_tokenizer
from compressm_cli.engine.folder_pruning import prune_folder
from compressm_cli.engine.folder_recovery import Recovery
from compressm_cli.exchange.folders import open_folder
from compressm_cli.runs.folder import Run

DATA = (
    "{{task: tokens, path: {here}/apart.txt, tokenizer: {folder}/tokenizer.json, vocabulary: 260, length: 8}}"
)
MODEL = "{{from: {folder}}}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a text beside it, and another text."""
    folder, text = llama(tmp_path_factory.mktemp("made"))
    (text.parent / "apart.txt").write_text("nine times nine is eighty-one. " * 25, encoding="utf-8")
    return folder, text


def recipe(
    place: Path, folder: Path, data: str = DATA, model: str = MODEL, more: str = "", steps: int = 4
) -> Path:
    path = place / "recover.yaml"
    lines = [
        "name: back",
        f"data: {data}",
        f"model: {model}",
        f"train: {{{{steps: {steps}, batch_size: 4, learning_rate: 1e-2}}}}",
        "compression: {{method: none}}",
        f"output: {{{{root: {place}/outputs}}}}",
        more,
    ]
    path.write_text("\n".join(lines).format(folder=folder, here=folder.parent), encoding="utf-8")
    return path


def test_a_folder_is_cut_trained_on_and_a_folder_again(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text = made
    arguments = ["compress", str(folder), "--budget", "flops=0.9x", "--data", str(text), "--json"]
    path, output = recipe(tmp_path, folder), tmp_path / "small"
    assert command([*arguments, "--recover", str(path), "--output", str(output)]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    recovery = told["recovery"]
    assert recovery["after"] < recovery["cut"] - 0.05
    assert recovery["before"] == pytest.approx(recovery["cut"], abs=0.05)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outputs", "recover.yaml", "small"]

    from transformers import AutoModelForCausalLM

    small = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True)
    assert sum(p.numel() for p in small.parameters()) == told["parameters"]["after"]
    assert Recovery.of(open_folder(folder), str(path)).loss(open_folder(output).model) == pytest.approx(
        recovery["after"], abs=1e-5
    )
    run = Run.open(Path(recovery["run"]))
    assert run.read_summary()["steps"] == 4
    # It goes on as any run does, without the folder that it began with.
    assert command(["train", "--resume", str(run.folder), "train.steps=5"]) == 0
    assert run.read_summary()["steps"] == 5


def test_a_run_begins_with_what_the_cut_left(made: tuple[Path, Path], tmp_path: Path) -> None:
    folder, text = open_folder(made[0]), made[1]
    recovery = Recovery.of(folder, str(recipe(tmp_path, made[0])))
    whole = recovery.loss(folder.model)
    done = prune_folder(folder, text, 0.8, "magnitude", fold=False, uniform=False)
    cut = recovery.loss(folder.model)
    assert cut != whole
    model: Any = recovery.checkpoint(done.axes).build_model().eval()
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(model(tokens), folder.model(input_ids=tokens, use_cache=False).logits)
    assert recovery.loss(model.network) == cut


def test_a_text_that_is_also_trained_on_is_told(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recovery = Recovery.of(open_folder(made[0]), str(recipe(tmp_path, made[0])))
    assert recovery.calibrates(made[0].parent / "apart.txt")
    assert not recovery.calibrates(made[1])


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (
            {"model": "{{layer: {{kind: lru}}}}"},
            "model: is of kind sequence, and a folder is trained on; write",
        ),
        ({"model": "{{from: {here}}}"}, "is another folder than the one cut; write model: {from: "),
        ({"model": "{{from: {folder}, weights: fresh}}"}, "model.weights: fresh ones would be no recovery"),
        (
            {"data": "{{task: text_lm, length: 8}}"},
            "data: are not tokens as the folder's tokenizer makes them",
        ),
        (
            {"data": DATA.replace("{folder}/", "{here}/other-")},
            "data.tokenizer: is another one than the folder's",
        ),
        ({"data": DATA.replace("260", "300")}, "knows 260 tokens, and the data have 300"),
        (
            {"data": DATA.replace("length: 8", "length: 33")},
            "takes 32 steps at most (max_position_embeddings)",
        ),
        ({"data": "{{task: tokens, vocabulary: 260, length: 8}}"}, "data: nothing can be learned of them"),
        ({"more": "seeds: [0, 1]"}, "seeds: 2 of them, and one folder is written; write one, seeds: [0]"),
    ],
    ids=["kind", "other", "fresh", "bytes", "tokenizer", "vocabulary", "length", "random", "seeds"],
)
def test_recipes_that_do_not_fit(
    made: tuple[Path, Path], tmp_path: Path, changes: dict[str, str], error: str
) -> None:
    folder = made[0]
    changed = {**json.loads(byte_tokenizer()), "normalizer": {"type": "Lowercase"}}
    (folder.parent / "other-tokenizer.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(BadInputError) as caught:
        Recovery.of(open_folder(folder), str(recipe(tmp_path, folder, **changes)))  # type: ignore[arg-type]
    assert error in str(caught.value)


def test_nothing_is_cut_where_the_recipe_does_not_fit(
    made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, text = made
    path = recipe(tmp_path, folder, more="seeds: [0, 1]")
    options = ["--budget", "flops=0.9x", "--data", str(text), "--recover", str(path)]
    assert command(["compress", str(folder), *options, "--output", str(tmp_path / "small")]) == 2
    captured = capsys.readouterr()
    assert "seeds: 2 of them" in captured.err
    assert not captured.out
    assert not (tmp_path / "small").exists()
