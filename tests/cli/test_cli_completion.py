"""Completion: what a shell is answered, and what comes of it in real ones."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import get_args
from unittest import mock

import pytest
from terminals import compressm, fish_candidates, has, typed

from compressm_cli.cli.completion import split
from compressm_cli.cli.main import COMMANDS, run
from compressm_cli.methods.hankel.config import HankelConfig
from compressm_cli.recipe import recipe_schema
from compressm_cli.recipe.keys import complete_override, schema
from compressm_cli.recipe.shipped import shipped_recipes
from compressm_cli.reports import Tolerances

ENVIRONMENT = ("_COMPRESSM_COMPLETE", "_COMPRESSM_LINE", "_COMPRESSM_WORD")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with recipes, checkpoints and runs, which is the current one."""
    recipe = shipped_recipes()["quickstart/baseline"].read_text(encoding="utf-8")
    work = tmp_path / "work"
    for name, version, status in (("full", 1, "done"), ("full", 2, "running"), ("my run", 1, "failed")):
        run_folder = work / "outputs" / name / f"v{version:04d}"
        (run_folder / "checkpoints").mkdir(parents=True)
        (run_folder / "checkpoints" / "final.pt").touch()
        info = {"recipe": name, "seed": 3, "status": status}
        (run_folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
        (run_folder / "recipe.yaml").write_text(recipe.replace("kind: lru", "kind: gla"), encoding="utf-8")
    for name in ("small.pt", "mine.yaml", "note.txt", ".hidden.yaml"):
        (work / name).touch()
    monkeypatch.chdir(work)
    return work


def answered(line: str, shell: str = "zsh", word: str = "") -> list[tuple[str, str, str]]:
    """Kind, text and note of the candidates for a line up to the cursor."""
    out, err = (io.TextIOWrapper(io.BytesIO()) for _ in range(2))
    asked = dict(zip(ENVIRONMENT, (shell, line, word), strict=True))
    with mock.patch.dict(os.environ, asked), redirect_stdout(out), redirect_stderr(err):
        done = run()
    assert err.buffer.getvalue() == b""  # type: ignore[attr-defined]
    assert done == 0 or out.buffer.getvalue() == b""  # type: ignore[attr-defined]
    found = []
    for answer in out.buffer.getvalue().decode().splitlines():  # type: ignore[attr-defined]
        kind, _, rest = answer.partition(",")
        text, _, note = rest.partition("\t")
        found.append((kind, text, note))
    return found


def texts(line: str, shell: str = "zsh", word: str = "") -> list[str]:
    return [text for _, text, _ in answered(line, shell, word)]


def test_commands_have_notes() -> None:
    assert answered("compressm ") == [("whole", name, about) for name, (_, _, about) in COMMANDS.items()]
    assert texts("compressm tr") == ["train"]
    assert texts("compressm recipes v") == ["validate"]


def test_options_have_notes() -> None:
    found = {text: note for _, text, note in answered("compressm train --")}
    assert found["--quiet"] == "No progress; only the run folders, on standard output."
    assert {"--seeds", "--dry-run", "--resume", "--auto-resume"} <= set(found)
    assert texts("compressm --vers") == ["--version"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("compressm bench x --device ", ["auto", "cpu", "cuda"]),
        ("compressm bench x --device=c", ["--device=cpu", "--device=cuda"]),
        ("compressm export x --to hf", ["hf", "hf-ragged"]),
        ("compressm completion ", ["bash", "zsh", "fish"]),
        ("compressm analyze x --realization ", ["real", "complex"]),
        ("compressm zzz ", []),
        ("compressm train 'open quote", []),
        ("compressm --version ", list(COMMANDS)),
    ],
)
def test_choices(line: str, expected: list[str]) -> None:
    assert texts(line) == expected


def test_recipes_are_shipped_ones_and_files(folder: Path) -> None:
    found = {text: (kind, note) for kind, text, note in answered("compressm train ")}
    assert set(shipped_recipes()) | {"mine.yaml", "outputs/"} == set(found)
    kind, note = found["quickstart/baseline"]
    assert (kind, note) == (
        "whole",
        "How well does a full-size LRU classify handwritten digits, pixel by pixel?",
    )
    assert found["outputs/"][0] == "part"
    assert texts("compressm recipes show quickstart/c") == ["quickstart/compressed"]
    assert texts("compressm compress small.pt --recover mi") == ["mine.yaml"]
    assert texts("compressm bench .hid") == [".hidden.yaml"]


def test_models_are_runs_and_checkpoints(folder: Path) -> None:
    found = {text: note for _, text, note in answered("compressm analyze ")}
    assert found == {"outputs/full/": "2 runs", "outputs/my run/": "one run", "outputs/": "", "small.pt": ""}
    found = {text: note for _, text, note in answered("compressm compare small.pt outputs/full/")}
    assert found == {
        "outputs/full/v0001/": "run of full, seed 3: done",
        "outputs/full/v0002/": "run of full, seed 3: running",
    }
    inside = "outputs/full/v0001/checkpoints/"
    assert answered(f"compressm export {inside}f") == [("whole", f"{inside}final.pt", "")]
    # A run to go on with is a folder.
    assert texts(f"compressm train --resume {inside}f") == []
    assert "small.pt" not in texts("compressm train --resume ")
    assert "outputs/full/" in texts("compressm train --resume=outputs/f")[0]


def test_each_candidate_is_offered_once(folder: Path) -> None:
    for line in ("compressm export ", "compressm export outputs/", "compressm train --resume outputs/"):
        found = texts(line)
        assert "outputs/full/" in found
        assert len(found) == len(set(found)), line


def test_values_that_a_command_looks_up(folder: Path) -> None:
    metrics = [f"{name}=" for name in Tolerances.metrics()]
    assert answered("compressm compare a b --at-most ") == [("part", name, "") for name in metrics]
    assert texts("compressm compare a b --at-most=pe") == ["--at-most=peak_memory="]
    variants = get_args(HankelConfig.model_fields["variant"].annotation)
    assert texts("compressm compress a.pt --variant ") == list(variants)
    assert texts("compressm compress a.pt --variant la") == ["last"]


def test_files_are_left_to_the_shell(folder: Path) -> None:
    assert answered("compressm compare a b --html ") == [("file", "", "")]
    assert answered("compressm compress small.pt --output sm") == [("file", "", "")]
    assert answered("compressm export small.pt --output ") == [("dir", "", "")]
    assert answered("compressm analyze ~/out") == [("file", "", "")]


def test_keys_go_part_by_part(folder: Path) -> None:
    found = {text: (kind, note) for kind, text, note in answered("compressm train quickstart/baseline ")}
    assert list(found) == [
        "name=",
        "seeds=",
        "device=",
        "data.",
        "model.",
        "objective.",
        "train.",
        "budget.",
        "compression.",
        "output.",
    ]
    assert found["train."] == ("part", "The optimization")
    found = {
        text: (kind, note) for kind, text, note in answered("compressm train quickstart/baseline train.l")
    }
    assert list(found) == ["train.learning_rate=", "train.lr_schedule=", "train.log_every="]
    assert found["train.learning_rate="][1] == "Its highest value, at the end of the warm-up [0.001]"
    line = "compressm train quickstart/baseline train.lr_schedule="
    assert answered(line) == [
        ("whole", "train.lr_schedule=constant", ""),
        ("whole", "train.lr_schedule=cosine", "the default"),
    ]
    assert texts("compressm train quickstart/baseline train.compile=t") == ["train.compile=true"]
    assert texts("compressm train quickstart/baseline train.steps=") == []
    assert texts("compressm train quickstart/baseline no.such.key=") == []


def test_keys_are_those_of_the_recipe(folder: Path) -> None:
    base = "compressm train quickstart/baseline"
    layer = texts(f"{base} model.layer.")
    assert "model.layer.r_min=" in layer
    assert "model.layer.heads=" not in layer
    # The last word on it is that of the command line.
    assert "model.layer.heads=" in texts(f"{base} model.layer.kind=gla model.layer.")
    assert "model.layer.heads=" in texts(f"{base} 'model={{layer: {{kind: gla}}, depth: 1}}' model.layer.")
    # Where the recipe is not known, those of all kinds.
    assert {"model.layer.r_min=", "model.layer.heads="} <= set(texts("compressm train no.yaml model.layer."))
    # A kind can be changed whatever it is.
    assert "model.layer.kind=s5" in texts(f"{base} model.layer.kind=")
    # The recipe of a run, of its newest version where there are some.
    for place in ("outputs/full/v0001", "outputs/full"):
        assert "model.layer.heads=" in texts(f"compressm train --resume {place} model.layer.")
        assert "model.layer.r_min=" not in texts(f"compressm train --resume {place} model.layer.")
        assert "model.layer.heads=" in texts(f"compressm compress {place} model.layer.")


def test_bash_is_given_what_it_replaces(folder: Path) -> None:
    """It takes words apart at = and :, and puts what it is given where the last part was, as it is."""
    line = "compressm train quickstart/baseline train.lr_schedule=c"
    assert texts(line, "bash", "c") == ["constant", "cosine"]
    assert texts(line.removesuffix("c"), "bash", "=") == ["constant", "cosine"]
    # Where COMP_WORDBREAKS has no equals sign.
    assert texts(line, "bash", "train.lr_schedule=c") == [
        "train.lr_schedule=constant",
        "train.lr_schedule=cosine",
    ]
    assert texts("compressm bench x --device=cu", "bash", "cu") == ["cuda"]
    assert texts("compressm analyze outputs/m", "bash", "outputs/m") == [r"outputs/my\ run/"]
    assert texts(r"compressm analyze outputs/my\ r", "bash", r"outputs/my\ r") == [r"outputs/my\ run/"]
    assert texts("compressm analyze 'outputs/m", "bash", "'outputs/m") == ["'outputs/my run/"]
    assert texts('compressm bench x "device=cu', "bash", '"device=cu') == ['"device=cuda"']


@pytest.mark.parametrize(
    ("line", "words", "last"),
    [
        ("compressm train ", ["compressm", "train"], ""),
        ("compressm tr", ["compressm"], "tr"),
        (r"compressm train a\ b", ["compressm", "train"], "a b"),
        ("compressm train 'a b' \"c d", ["compressm", "train", "a b"], "c d"),
        ("compressm train 'it", ["compressm", "train"], "it"),
        ("compressm train a\\", ["compressm", "train"], "a"),
        ("", [], ""),
    ],
)
def test_lines_are_split_as_shells_do(line: str, words: list[str], last: str) -> None:
    assert split(line) == (words, last)


def test_what_cannot_be_answered_is_silent(folder: Path) -> None:
    (folder / "outputs" / "full" / "v0001" / "run.json").write_text("[")
    (folder / "mine.yaml").write_text("model: [")
    (folder / "line\nbreak.yaml").touch()
    assert ("part", "outputs/full/v0001/", "") in answered("compressm analyze outputs/full/v")
    assert texts("compressm train mine.yaml train.st") == ["train.steps="]
    assert texts("compressm train line") == []
    assert texts("compressm train no/such/folder/") == []


def test_nothing_heavy_is_imported(folder: Path) -> None:
    lines = [
        "",
        "tr",
        "train qu",
        "train quickstart/baseline model.layer.",
        "analyze out",
        "bench x --device ",
    ]
    code = (
        "import os, sys\n"
        "from compressm_cli.cli import main\n"
        f"for line in {lines!r}:\n"
        "    os.environ['_COMPRESSM_COMPLETE'], os.environ['_COMPRESSM_LINE'] = 'zsh', 'compressm ' + line\n"
        "    assert main.run() == 0\n"
        "heavy = {'torch', 'numpy', 'rich', 'datasets', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "model.layer.kind=" in done.stdout


def test_the_schema_file_is_the_schema() -> None:
    assert schema() == recipe_schema(), "run python tests/test_recipes_doc.py"


def test_every_key_can_be_reached() -> None:
    """Down to the last mapping: what ends in a dot has keys of its own, and what ends in = is a setting."""

    def below(start: str) -> Iterator[str]:
        for text in complete_override(start, {}):
            yield text
            if text.endswith("."):
                yield from below(text)

    found = set(below(""))
    assert {"output.keep_last=", "train.on_divergence.lr_factor=", "compression.safety.tolerance="} <= found
    assert {"compression.schedule.fractions=", "data.split_seed=", "model.layer.init="} <= found
    assert all(len(list(below(text))) for text in found if text.endswith("."))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in ENVIRONMENT[:2])
    if has(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_an_answer_of_a_process(folder: Path) -> None:
    environment = {**os.environ, **dict(zip(ENVIRONMENT, ("fish", "compressm tra", ""), strict=True))}
    done = subprocess.run(
        [sys.executable, "-m", "compressm_cli"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"whole,train\t{COMMANDS['train'][2]}\n", "")


TYPED = [
    ("compressm tra\t", "compressm train "),
    ("compressm train quickstart/ba\ttra\tste\t5", "compressm train quickstart/baseline train.steps=5"),
    (
        "compressm train quickstart/ba\ttrain.lr\tcos\tdev\tcu\t",
        "compressm train quickstart/baseline train.lr_schedule=cosine device=cuda ",
    ),
    ("compressm bench mine.yaml --device=cu\t", "compressm bench mine.yaml --device=cuda "),
    ("compressm bench mine.yaml --dev\tcu\t", "compressm bench mine.yaml --device cuda "),
    (
        "compressm analyze outputs/m\t\t\t\t",
        r"compressm analyze outputs/my\ run/v0001/checkpoints/final.pt ",
    ),
    (
        'compressm analyze "outputs/m\t\t\t\t',
        'compressm analyze "outputs/my run/v0001/checkpoints/final.pt" ',
    ),
    ("compressm compress small.pt --output note\t", "compressm compress small.pt --output note.txt "),
    ("compressm export small.pt --output out\t", "compressm export small.pt --output outputs/"),
    ("ls | compressm doct\t", "ls | compressm doctor "),
]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(("keys", "line"), TYPED, ids=[line.strip() for _, line in TYPED])
def test_in_a_real_shell(shell: str, keys: str, line: str, folder: Path, tmp_path: Path) -> None:
    if not has(shell):
        pytest.skip(f"there is no {shell} here")
    assert typed(shell, keys, folder, compressm(tmp_path / "bin")).rstrip() == line.rstrip()


@pytest.mark.slow
@pytest.mark.skipif(not has("fish"), reason="there is no fish here")
def test_in_fish(folder: Path, tmp_path: Path) -> None:
    path = compressm(tmp_path / "bin")
    assert fish_candidates("compressm tra", folder, path) == {"train": COMMANDS["train"][2]}
    base = "compressm train quickstart/baseline"
    assert list(fish_candidates(f"{base} train.lr_schedule=c", folder, path)) == [
        "train.lr_schedule=constant",
        "train.lr_schedule=cosine",
    ]
    assert fish_candidates("compressm analyze outputs/m", folder, path) == {"outputs/my run/": "one run"}
    assert fish_candidates('compressm analyze "outputs/m', folder, path) == {"outputs/my run/": "one run"}
    assert set(fish_candidates("compressm export small.pt --output ", folder, path)) == {"outputs/"}
    assert set(fish_candidates("compressm compress small.pt --output no", folder, path)) == {"note.txt"}
