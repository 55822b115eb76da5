"""All shipped recipes, by a recursive glob."""

from pathlib import Path

import jsonschema
import pytest

from compressm_cli.recipe import load_recipe, recipe_schema, recipe_to_mapping
from compressm_cli.recipe.problems import Place
from compressm_cli.recipe.shipped import read_header, shipped_folder, shipped_recipes
from compressm_cli.recipe.yaml_text import parse_yaml

COUNT = 63
"""How many recipes are shipped: one that is lost or forgotten must not go unnoticed."""

NAMES = sorted(shipped_recipes())


def test_none_is_lost() -> None:
    assert len(NAMES) == COUNT
    assert len(list(shipped_folder().rglob("*.yaml"))) == COUNT
    assert not list(shipped_folder().rglob("*.yml"))


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_its_run_folder_is_named_after_it(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name.replace("/", "-").replace("_", "-")


@pytest.mark.parametrize("name", NAMES)
def test_its_header_is_complete(name: str) -> None:
    header = read_header(shipped_recipes()[name].read_text(encoding="utf-8"))
    assert header.question.endswith("?")
    assert header.command.split()[:3] in (["compressm", command, name] for command in ("train", "study"))
    assert header.expected
    assert header.source


def test_editors_accept_them_as_they_are_written_and_resolved() -> None:
    validator = jsonschema.Draft202012Validator(recipe_schema())
    for path in shipped_recipes().values():
        node, problems = parse_yaml(path.read_text(encoding="utf-8"), lambda line, column: Place("x"))
        assert node is not None
        assert not problems
        validator.validate(node.plain())
        validator.validate(recipe_to_mapping(load_recipe(path)))


def test_names_are_distinct() -> None:
    names = [load_recipe(name).name for name in NAMES]
    assert len(set(names)) == len(names)


def test_headers_may_run_over_several_lines() -> None:
    header = read_header(
        "# A title\n# Question: what\n#   is it?\n#\n# Command: x y: z\nname: a\n# Source: no\n"
    )
    assert header.question == "what is it?"
    assert header.command == "x y: z"
    assert header.source == ""


def test_the_recipe_folder_of_a_checkout() -> None:
    assert shipped_folder() == Path(__file__).resolve().parents[2] / "recipes"


def test_files_of_shipped_recipes_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = load_recipe("text/own_csv").data
    assert Path(task.train) == shipped_folder() / "text" / "example.csv"
    assert task.dataset().spec.classes == 2
    own = load_recipe("text/own_csv", ["data.train=mine.csv", "data.test=shipped:text/example.csv"]).data
    assert (own.train, own.test) == ("mine.csv", task.train)
