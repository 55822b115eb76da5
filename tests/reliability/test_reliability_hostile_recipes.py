"""Hostile recipes: one clear message and exit code 2; nothing is executed, overwritten, made or allocated."""

import shutil
import tempfile
from pathlib import Path
from random import Random

import hostile
import pytest
import yaml
from hostile_recipes import TINY, mutated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.table import Table

from compressm_cli.cli import console
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import is_control, printable
from compressm_cli.recipe import RecipeError, load_recipe
from compressm_cli.recipe.problems import MAX_TOLD
from compressm_cli.recipe.yaml_text import Place, dump_yaml, parse_yaml
from compressm_cli.runs.folder import Run


@settings(derandomize=True, max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32))
def test_mutated_recipes(seed: int) -> None:
    kind, data, overrides = mutated(Random(seed))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "recipe.yaml").write_bytes(data)
        (folder / "notes.txt").write_text("mine")
        told = hostile.check_recipe(folder, overrides)[1]
    assert not told, f"{kind} {data!r} {overrides}"


def problems_of(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides)
    return error.value.problems


@pytest.mark.parametrize(
    "name", ["latest", "LATEST", "v0001", "V12345", "..", "a/b", "/tmp/x", "a\nb", ".hidden", ""]
)
def test_names_that_mean_another_place(tmp_path: Path, name: str) -> None:
    found = problems_of(tmp_path, yaml.safe_dump({**yaml.safe_load(TINY), "name": name}))
    assert all(": name: " in problem for problem in found)


@pytest.mark.parametrize("sign", ["\x1b", "\x00", "\x9b", "\u202e", "\u2066", "\ud800", "\u2028", "\n"])
def test_control_characters_in_texts(tmp_path: Path, sign: str) -> None:
    escape = f'"out\\u{ord(sign):04x}"'
    problem = problems_of(tmp_path, TINY + f"output: {{root: {escape}}}\n")[0]
    assert ":7:16: output.root: " in problem
    assert "control character" in problem
    assert not any(map(is_control, problem))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("train.steps=10000000000000000", "train.steps: 10000000000000000 is out of range"),
        ("train.batch_size=100000000", "train.batch_size: 100000000 is out of range; write an integer of at most"),
        ("compression.schedule={kind: equidistant, count: 1000000000}", "1000000000 checks in one run"),
        ("compression.schedule={kind: adaptive, every: 1}", "480000000 checks in one run"),
        ("model={layer: {kind: lru}, model_dim: 65536, depth: 256}", "parameters take 8.80 TB"),
        ("data={task: tokens, vocabulary: 10000000}", "parameters take"),
    ],
)  # fmt: skip
def test_what_no_machine_could_do(tmp_path: Path, change: str, told: str) -> None:
    wide = ["train.steps=1000000000"] if "adaptive" in change else []
    wide += ["model.model_dim=65536"] if "tokens" in change else []
    (problem,) = problems_of(tmp_path, TINY, *wide, change)
    assert told in problem


def test_numbers_that_yaml_cannot_hold_are_told_with_their_line(tmp_path: Path) -> None:
    for text in ('name: "\\U00110000"\n', f"%YAML {'9' * 5000}.1\n---\na: 1\n"):
        (problem,) = problems_of(tmp_path, text)
        assert "not valid YAML: a number in an escape or directive is out of range" in problem


def test_very_many_mistakes_are_counted_and_not_all_told(tmp_path: Path) -> None:
    found = problems_of(tmp_path, TINY + "".join(f"k{i}: 1\n" for i in range(1000)))
    assert len(found) == MAX_TOLD + 1
    assert found[-1] == f"and {1000 - MAX_TOLD} more"


def test_a_key_of_any_length_is_told_in_a_line(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, TINY + f"{'k' * 500}: 1\n")
    assert len(problem) < 300


def test_runs_are_not_written_through_links(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "outputs"
    elsewhere.mkdir()
    root.mkdir()
    (root / "tiny").symlink_to(elsewhere)
    with pytest.raises(BadInputError, match=f"outputs/tiny: is a link to {elsewhere}.*choose another name"):
        Run.create(root, "tiny")
    assert list(elsewhere.iterdir()) == []


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "outputs", "tiny")
    made.write_info({"status": "interrupted"})
    return made


@pytest.mark.parametrize(
    "name", ["lock", "metrics.jsonl", "checkpoints", "checkpoints/last-000000001.pt", "plots"]
)
def test_links_inside_a_run_are_not_followed(tmp_path: Path, run: Run, name: str) -> None:
    target, link = tmp_path / "target", run.folder / name
    if link.is_dir():
        link.rmdir()
        target.mkdir()
    else:
        target.write_text("mine")
    link.symlink_to(target)
    with pytest.raises(
        BadInputError, match=f"{name}: is a link to {target}, and runs are not written through"
    ):
        run.lock().__enter__()
    assert target.is_dir() or target.read_text() == "mine"


def test_a_run_is_resumed_through_latest_but_not_through_a_link_to_elsewhere(
    tmp_path: Path, run: Run
) -> None:
    with Run.open(run.folder.parent / "latest").lock():
        pass
    other = tmp_path / "other"
    other.mkdir()
    (other / "v0001").symlink_to(run.folder)
    with pytest.raises(
        BadInputError, match=f"v0001: is a link to {run.folder}; to train there, give that folder"
    ):
        Run.open(other / "v0001").lock().__enter__()


def test_dumped_yaml_shows_no_control_characters() -> None:
    value = {"a": "x\u202ey\x1b[31m\u2028\x00", "b\u2066": "\U000e0001"}
    text = dump_yaml(value)
    assert not any(is_control(sign) for sign in text if sign != "\n")
    root, _ = parse_yaml(text, lambda line, column: Place("x", line, column))
    assert root is not None
    assert root.plain() == value


def test_terminal_output_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    bad = "a\x1b[31m\x9b\u202eb"
    out = console.stdout()
    out.print(bad, markup=False)
    table = Table(bad)
    table.add_row(console.escape(bad))
    out.print(table)
    console.report_error(bad, bad)
    console.report_error("x" * 10_000)
    written = capsys.readouterr()
    assert written.out.count("a\\x1b[31m\\x9b\\u202eb") == 3
    assert not any(is_control(sign) for sign in written.out + written.err if sign != "\n")
    assert max(map(len, written.err.splitlines())) < 5000


def test_markup_in_texts_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console.stdout().print(console.escape("[bold red]x[/]"))
    assert "[bold red]x[/]" in capsys.readouterr().out


def test_printable_keeps_what_can_be_shown() -> None:
    assert printable("naïve Ω 😀\xa0日本\n") == "naïve Ω 😀\xa0日本\n"
    assert printable("\x1b\u202e\ud800") == "\\x1b\\u202e\\ud800"


def test_a_valid_recipe_is_trained(tmp_path: Path) -> None:
    """The harness itself: what is accepted is run, below the root of the outputs."""
    (tmp_path / "recipe.yaml").write_text(TINY)
    assert hostile.check_recipe(tmp_path, [], train=True) == (True, [])
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    shutil.rmtree(tmp_path)
