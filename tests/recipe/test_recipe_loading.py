"""YAML -> Recipe -> YAML, overrides, and the JSON schema."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressm_cli.recipe import (
    Recipe,
    RecipeError,
    load_recipe,
    recipe_from_mapping,
    recipe_in_short,
    recipe_schema,
    recipe_to_mapping,
    recipe_to_yaml,
)
from compressm_cli.recipe.problems import Place
from compressm_cli.recipe.shipped import shipped_recipes
from compressm_cli.recipe.yaml_text import dump_yaml, parse_yaml, scalar

GOOD = shipped_recipes()["quickstart/compressed"].read_text()
VALIDATOR = jsonschema.Draft202012Validator(recipe_schema())


def load_text(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def recipe_or_problems(source: str | Path, *overrides: str) -> Recipe | list[str]:
    """What loading gives; any exception but RecipeError passes through."""
    try:
        return load_recipe(source, overrides)
    except RecipeError as error:
        return error.problems


def read(text: str) -> Any:
    node, problems = parse_yaml(text, lambda line, column: Place("x", line, column))
    assert node is not None
    assert not problems
    return node.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("1E5", 1e5), (".5", 0.5), ("-2.", -2.0), ("1.0e-05", 1e-5), ("7", 7), ("-7", -7),
        ("010", 10), ("0x1F", 31), ("0o17", 15), ("true", True), ("False", False), ("null", None),
        ("~", None), ("", None),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("1:30", "1:30"),
        ("200_000", "200_000"), ("1.2.3", "1.2.3"), ("2020-01-01", "2020-01-01"), ("9" * 5000, "9" * 5000),
        (".inf", float("inf")), ("-.inf", float("-inf")), ("e3", "e3"), (".", "."), ("tRUE", "tRUE"),
    ],
)  # fmt: skip
def test_unquoted_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_quoted_scalars_are_text() -> None:
    assert read("a: '1'\nb: \"true\"\nc: |\n  2\n") == {"a": "1", "b": "true", "c": "2\n"}


def test_positions_count_from_one() -> None:
    node, _ = parse_yaml("a: 1\nb:\n  - x\n  - {c: 2}\n", lambda line, column: Place("f", line, column))
    assert node is not None
    place = node.closest(("b", 1, "c")).place
    assert (place.line, place.column) == (4, 9)
    assert str(node.closest(("b", 1, "c")).key_place) == "f:4:6"


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), plain, min_size=1, max_size=4))
def test_dumped_values_are_read_back(value: dict[str, Any]) -> None:
    assert read(dump_yaml(value)) == value


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.text() | st.floats(allow_nan=False))
)
def test_other_readers_see_the_same(value: dict[str, Any]) -> None:
    assert yaml.safe_load(dump_yaml(value)) == value


orders = st.integers(1, 64)
fractions = st.floats(0.0, 1.0)
schedules = st.one_of(
    st.fixed_dictionaries({"kind": st.just("equidistant"), "until_step": orders, "count": orders}),
    st.fixed_dictionaries({"kind": st.just("equidistant"), "until": fractions}),
    st.fixed_dictionaries(
        {"kind": st.just("listed"), "fractions": st.lists(fractions, min_size=1, max_size=4)}
    ),
    st.fixed_dictionaries({"kind": st.just("listed"), "at_steps": st.lists(orders, min_size=1, max_size=4)}),
    st.fixed_dictionaries({"kind": st.just("adaptive"), "every": orders}),
)
methods = st.one_of(
    st.just({"method": "none"}),
    st.fixed_dictionaries(
        {"method": st.just("hankel"), "energy_threshold": st.floats(0.01, 1.0)},
        optional={
            "schedule": schedules,
            "safety": st.fixed_dictionaries({"trial_steps": orders}) | st.none(),
            "realization": st.sampled_from(["real", "complex"]),
        },
    ),
    st.fixed_dictionaries(
        {"method": st.just("hankel"), "target_order": orders | st.lists(orders, min_size=1)}
    ),
)
printable = st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])
recipes = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True),
        "data": st.just({"task": "digits"}),
        "model": st.fixed_dictionaries(
            {
                "layer": st.fixed_dictionaries(
                    {"kind": st.sampled_from(["lru", "s4d", "s5"]), "state_dim": orders}
                )
            },
            optional={"dropout": st.floats(0.0, 0.99), "depth": orders},
        ),
        "train": st.fixed_dictionaries(
            {"steps": orders},
            optional={"learning_rate": st.floats(1e-9, 10.0), "clip_norm": st.floats(1e-9, 1e9)},
        ),
        "compression": methods,
    },
    optional={
        "seeds": st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3, unique=True),
        "output": st.fixed_dictionaries({"root": st.text(printable, min_size=1)}),
    },
)


@given(recipes)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_resolved_recipes_are_read_back_equal(tmp_path: Path, mapping: dict[str, Any]) -> None:
    recipe = recipe_from_mapping(mapping, "generated")
    resolved = recipe_to_mapping(recipe)
    assert recipe_from_mapping(resolved, "again") == recipe
    assert load_text(tmp_path, recipe_to_yaml(recipe)) == recipe
    assert load_text(tmp_path, recipe_in_short(recipe)) == recipe
    VALIDATOR.validate(resolved)


def test_without_a_compression_a_recipe_is_a_baseline(tmp_path: Path) -> None:
    text = shipped_recipes()["quickstart/baseline"].read_text(encoding="utf-8")
    left, compression, _ = text.partition("compression:")
    (tmp_path / "short.yaml").write_text(left, encoding="utf-8")
    assert compression
    recipe = load_recipe(tmp_path / "short.yaml")
    assert recipe.compression.method == "none"
    assert "method: none" in recipe_to_yaml(recipe)
    cut = load_recipe(tmp_path / "short.yaml", ["compression={method: hankel, keep_fraction: 0.5}"])
    assert cut.compression.method == "hankel"


def test_resolving_writes_every_default(tmp_path: Path) -> None:
    resolved = recipe_to_mapping(load_text(tmp_path, GOOD))
    assert set(resolved) == set(Recipe.model_fields)
    assert resolved["output"] == {"root": "outputs", "keep_last": 1, "trackers": []}
    assert resolved["train"]["clip_norm"] is None


def test_a_recipe_in_short_has_what_is_no_default(tmp_path: Path) -> None:
    text = (
        "name: short\ndata: {task: digits}\nmodel:\n  kind: sequence\n  layer: {kind: lru, state_dim: 8}\n"
        "train:\n  steps: 7\n  on_divergence: {action: roll_back}\n"
    )
    recipe = load_text(tmp_path, text, "train.batch_size=64", "seeds=[0]")
    assert read(recipe_in_short(recipe)) == read(text)
    for path in shipped_recipes().values():
        shipped = load_recipe(path)
        assert load_text(tmp_path, recipe_in_short(shipped)) == shipped


def test_overrides(tmp_path: Path) -> None:
    recipe = load_text(
        tmp_path,
        GOOD,
        "train.steps=7",
        "train.learning_rate=1e-3",
        "seeds=[3, 4]",
        "model.layer.state_dim=[8,9]",
        "output.root=/tmp/some where",
        "compression.safety.trial_steps=5",
        "train.steps=8",
        "name=no",
    )
    assert recipe.train.steps == 8
    assert recipe.train.learning_rate == 1e-3
    assert recipe.seeds == [3, 4]
    assert recipe.model.state_dims() == [8, 9]
    assert recipe.output.root == "/tmp/some where"
    assert recipe.compression.safety.trial_steps == 5
    assert recipe.name == "no"


def test_an_override_replaces_a_whole_mapping(tmp_path: Path) -> None:
    assert load_text(tmp_path, GOOD, "compression={method: none}").compression.method == "none"
    with pytest.raises(RecipeError, match=r"compression\.energy_threshold: unknown key"):
        load_text(tmp_path, GOOD, "compression.method=none")


def test_one_seed_may_be_a_number(tmp_path: Path) -> None:
    assert load_text(tmp_path, GOOD, "seeds=5").seeds == [5]


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_recipe(path) == load_recipe("quickstart/compressed")


def test_shipped_names_with_and_without_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart/baseline") == load_recipe("quickstart/baseline.yaml")


def test_a_file_comes_before_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "baseline.yaml").write_text(GOOD.replace("quickstart-compressed", "mine"))
    assert load_recipe("quickstart/baseline.yaml").name == "mine"


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["title"] == "compressm recipe"
    assert "description" in schema["properties"]["name"]
    good = recipe_to_mapping(load_recipe("quickstart/compressed"))
    for bad in (
        {**good, "extra": 1},
        {**good, "train": {"steps": "many"}},
        {**good, "compression": {"method": "x"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
    jsonschema.validate({**good, "seeds": 3}, schema)


PIECES = [
    *(
        "",
        "  ",
        "\n",
        ": ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        "'",
        '"',
        "#",
        "\t",
        "&a ",
        "*a",
        "!!str ",
        "? ",
        "|",
        "%",
    ),
    *("null", "-1", "1e999", ".nan", "kind: s5", "method: none", "\x00", "é", "---\n", "<<: ", "0x"),
]


@given(st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_mutated_recipes_give_a_recipe_or_its_errors(tmp_path: Path, data: st.DataObject) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.sampled_from(PIECES) | st.text(max_size=5)) + text[end:]
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    result = recipe_or_problems(path)
    if isinstance(result, Recipe):
        assert load_text(tmp_path, recipe_to_yaml(result)) == result
    else:
        assert result
        assert all(line.startswith(str(path)) for line in result)


@given(
    st.text(max_size=20)
    | st.from_regex(r"(train|model\.layer|compression)\.?[a-z_]{0,9}=.{0,8}", fullmatch=True)
)
@settings(deadline=None)
def test_any_override_gives_a_recipe_or_its_errors(override: str) -> None:
    result = recipe_or_problems("quickstart/compressed", override)
    assert isinstance(result, Recipe) or result
