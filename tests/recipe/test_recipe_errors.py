"""Every error of a recipe is told at once, with its place and what to write."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compressm_cli.recipe import RecipeError, load_recipe, recipe_from_mapping, recipe_schema

GOOD = """\
name: example
seeds: [0, 1]
data:
  task: digits
model:
  layer: {kind: lru, state_dim: 64}
  depth: 2
train:
  steps: 100
compression:
  method: hankel
  energy_threshold: 0.99
"""


def errors_of(folder: Path, text: str | bytes, *overrides: str) -> list[str]:
    """The problems of a recipe, with the file's name alone in front; [] where there are none."""
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        load_recipe(path, overrides)
    except RecipeError as error:
        return [line.replace(str(path), "recipe.yaml") for line in error.problems]
    return []


def changed(*changes: tuple[str, str]) -> str:
    text = GOOD
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_the_example_is_good(tmp_path: Path) -> None:
    assert errors_of(tmp_path, GOOD) == []


ONE_ERROR = [
    (
        "unknown key with a close one",
        [("state_dim: 64", "d_stat: 64")],
        "recipe.yaml:6:22: model.layer.d_stat: unknown key; did you mean 'state_dim'?",
    ),
    (
        "unknown key with none close",
        [("  depth: 2", "  zzz: 2")],
        "recipe.yaml:7:3: model.zzz: unknown key; allowed here: kind, layer, model_dim, depth, "
        "dropout, norm, norm_epsilon, final_norm, tie_embeddings",
    ),
    (
        "key of another mapping",
        [("  depth: 2", "  state_dim: 2")],
        "recipe.yaml:7:3: model.state_dim: unknown key here; did you mean 'model.layer.state_dim'?",
    ),
    (
        "unknown key at the top",
        [("name: example", "name: example\ndevise: cpu")],
        "recipe.yaml:2:1: devise: unknown key; did you mean 'device'?",
    ),
    (
        "wrong type",
        [("steps: 100", "steps: many")],
        "recipe.yaml:9:10: train.steps: found the text 'many'; write an integer of at least 1",
    ),
    (
        "an integer written as a float",
        [("steps: 100", "steps: 1e2")],
        "recipe.yaml:9:10: train.steps: found the number 100.0; write an integer of at least 1, such as 100",
    ),
    (
        "a boolean is no integer",
        [("steps: 100", "steps: true")],
        "recipe.yaml:9:10: train.steps: found true; write an integer of at least 1",
    ),
    (
        "yes is text",
        [("steps: 100", "steps: 100\n  compile: yes")],
        "recipe.yaml:10:12: train.compile: found the text 'yes'; write true or false",
    ),
    (
        "a budget of two units",
        [("steps: 100", "steps: 100\nbudget: {flops: 0.65x, seconds: 60}")],
        "recipe.yaml:10:9: budget: found flops and seconds; give exactly one of flops, seconds and joules, such as "
        "flops: 0.65x",
    ),
    (
        "a budget of none",
        [("steps: 100", "steps: 100\nbudget: {reinvest: false}")],
        "recipe.yaml:10:9: budget: found none; give exactly one of flops, seconds and joules, such as flops: 0.65x",
    ),
    (
        "a share of a budget in another form",
        [("steps: 100", "steps: 100\nbudget:\n  joules: 65%")],
        "recipe.yaml:11:11: budget.joules: '65%' is not of the right form; write text of a number and x, such as 0.65x",
    ),
    (
        "a share of a budget that is out of range",
        [("steps: 100", "steps: 100\nbudget: {seconds: 0.0x}")],
        "recipe.yaml:10:19: budget.seconds: 0.0x is out of range; write a factor above 0x and at most 100x",
    ),
    (
        "a share of a budget without its x",
        [("steps: 100", "steps: 100\nbudget: {flops: 0.65}")],
        "recipe.yaml:10:17: budget.flops: 0.65 is less than one FLOP; write 0.65x for that share of the recipe "
        "without compression",
    ),
    (
        "null where a value is needed",
        [("steps: 100", "steps:")],
        "recipe.yaml:9:9: train.steps: found nothing (null); write an integer of at least 1",
    ),
    (
        "a value where a mapping is needed",
        [("  layer: {kind: lru, state_dim: 64}", "  layer: lru")],
        "recipe.yaml:6:10: model.layer: found the text 'lru'; write a mapping with kind: gla | lru "
        "| mamba | mamba2 | s4d | s5",
    ),
    (
        "a union of a number and a list",
        [("state_dim: 64", "state_dim: many")],
        "recipe.yaml:6:33: model.layer.state_dim: found the text 'many'; "
        "write an integer of at least 1 and at most 65536 or a list of integers",
    ),
    (
        "an item of such a list",
        [("state_dim: 64", "state_dim: [8, x]")],
        "recipe.yaml:6:37: model.layer.state_dim[1]: found the text 'x'; "
        "write an integer of at least 1 and at most 65536",
    ),
    (
        "a bound of such a number",
        [("state_dim: 64", "state_dim: 0")],
        "recipe.yaml:6:33: model.layer.state_dim: 0 is out of range; "
        "write an integer of at least 1 and at most 65536",
    ),
    (
        "an empty list",
        [("[0, 1]", "[]")],
        "recipe.yaml:2:8: seeds: has 0 items; write at least 1",
    ),
    (
        "an item of a list",
        [("[0, 1]", "[0, -1]")],
        "recipe.yaml:2:12: seeds[1]: -1 is out of range; write an integer of at least 0 and below 2147483648",
    ),
    (
        "a validator of a field",
        [("[0, 1]", "[3, 3]")],
        "recipe.yaml:2:8: seeds: seeds repeat in [3, 3]; write each once",
    ),
    (
        "a validator across fields",
        [("state_dim: 64", "state_dim: [8, 8, 8]")],
        "recipe.yaml:6:3: model: layer.state_dim lists 3 numbers for 2 blocks; write one number, or 2",
    ),
    (
        "a validator in a member of a discriminated union",
        [("energy_threshold: 0.99", "energy_threshold: 0.99\n  target_order: 3")],
        "recipe.yaml:11:3: compression: give exactly one of energy_threshold, keep_fraction, target_order, "
        "target_order_total; found energy_threshold and target_order",
    ),
    (
        "not a number",
        [("steps: 100", "steps: 100\n  weight_decay: .nan")],
        "recipe.yaml:10:17: train.weight_decay: nan is out of range; write a number of at least 0",
    ),
    (
        "missing key",
        [("  steps: 100", "  batch_size: 8")],
        "recipe.yaml:9:3: train.steps: missing; write an integer of at least 1",
    ),
    (
        "missing mapping",
        [("data:\n  task: digits\n", "")],
        "recipe.yaml:1:1: data: missing; write a mapping with task: "
        "delay | digits | files | imdb | induction_heads | listops | mnist1d | mqar | scifar | "
        "selective_copying | smnist | text_lm | tokens | translation",
    ),
    (
        "a literal with a close one",
        [("  depth: 2", "  norm: btach")],
        "recipe.yaml:7:9: model.norm: 'btach' is not one of layer, rms, batch, none; did you mean 'batch'?",
    ),
    (
        "a literal with none close",
        [("  depth: 2", "  norm: 2")],
        "recipe.yaml:7:9: model.norm: found the number 2; write one of layer, rms, batch, none",
    ),
    (
        "unknown layer",
        [("kind: lru", "kind: lruu")],
        "recipe.yaml:6:17: model.layer.kind: 'lruu' is not one of gla, lru, mamba, mamba2, s4d, "
        "s5; did you mean 'lru'?",
    ),
    (
        "missing layer kind",
        [("kind: lru, ", "")],
        "recipe.yaml:6:10: model.layer.kind: missing; write one of gla, lru, mamba, mamba2, s4d, s5",
    ),
    (
        "unknown task",
        [("task: digits", "task: digit")],
        "recipe.yaml:4:9: data.task: 'digit' is not one of delay, digits, files, imdb, induction_heads, "
        "listops, mnist1d, mqar, scifar, selective_copying, smnist, text_lm, tokens, translation; "
        "did you mean 'digits'?",
    ),
    (
        "unknown method",
        [("method: hankel", "method: prune")],
        "recipe.yaml:11:11: compression.method: 'prune' is not one of hankel, magnitude, none, random; write one of "
        "these, or ask for the plug-in that has it: --plugin MODULE",
    ),
    (
        "missing schedule kind",
        [("energy_threshold: 0.99", "energy_threshold: 0.99\n  schedule: {count: 3}")],
        "recipe.yaml:13:13: compression.schedule.kind: missing; write one of adaptive, equidistant, listed",
    ),
    (
        "a key of another member of a union",
        [("energy_threshold: 0.99", "energy_threshold: 0.99\n  schedule: {kind: adaptive, count: 3}")],
        "recipe.yaml:13:30: compression.schedule.count: unknown key; "
        "it belongs to kind: equidistant; remove it",
    ),
    (
        "a name of the wrong form",
        [("name: example", "name: a/b")],
        "recipe.yaml:1:7: name: 'a/b' is not of the right form; write text of letters, digits, "
        "'.', '_', '-', ',' and '=', at most 100, a letter or digit first",
    ),
    (
        "a name with blanks",
        [("name: example", "name: my first run")],
        "recipe.yaml:1:7: name: 'my first run' is not of the right form; write text of letters, digits, "
        "'.', '_', '-', ',' and '=', at most 100, a letter or digit first",
    ),
    (
        "duplicate key",
        [("  steps: 100", "  steps: 100\n  steps: 200")],
        "recipe.yaml:10:3: train.steps: duplicate key (first in line 9); remove one of the two",
    ),
    (
        "a tag",
        [("steps: 100", "steps: !!int 100")],
        "recipe.yaml:9:10: train.steps: tags (tag:yaml.org,2002:int) are not allowed; write the plain value",
    ),
]


@pytest.mark.parametrize(
    ("changes", "expected"), [row[1:] for row in ONE_ERROR], ids=[row[0] for row in ONE_ERROR]
)
def test_one_error(tmp_path: Path, changes: list[tuple[str, str]], expected: str) -> None:
    assert errors_of(tmp_path, changed(*changes)) == [expected]


def test_every_pattern_is_said_in_words() -> None:
    def parts(schema: Any) -> Iterator[dict[str, Any]]:
        for value in schema.values() if isinstance(schema, dict) else schema:
            if isinstance(value, dict | list):
                yield from parts(value)
        if isinstance(schema, dict) and isinstance(schema.get("pattern"), str):
            yield schema

    found = list(parts(recipe_schema()))
    assert found
    assert all("form" in part for part in found)


UNREADABLE = [
    (
        "empty",
        "",
        "recipe.yaml:1:1: the recipe is empty; write the keys name, data, model, train",
    ),
    (
        "comment",
        "# x\n",
        "recipe.yaml:1:1: the recipe is empty; write the keys name, data, model, train",
    ),
    (
        "list",
        "- 1\n",
        "recipe.yaml:1:1: found a list; write a mapping with the keys name, data, model, train",
    ),
    ("null", "---\n", "found nothing (null); write a mapping with the keys"),
    (
        "tab",
        "a:\n\tb: 1\n",
        "recipe.yaml:2:1: not valid YAML: a tab stands where an indentation or a value begins; write spaces",
    ),
    ("open list", "a: [1\n", "recipe.yaml:2:1: not valid YAML: a list does not end; write '[a, b]'"),
    (
        "open quote",
        "a: 'x\n",
        "recipe.yaml:2:1: not valid YAML: a quoted text does not end; write the closing quote",
    ),
    (
        "two colons",
        "a: b: c\n",
        "recipe.yaml:1:5: not valid YAML: a ':' too many, or wrong indentation; put quotes",
    ),
    ("alias", "a: &x 1\nb: *x\n", "recipe.yaml:2:4: b: aliases (*x) are not allowed; write the value out"),
    ("key", "? [a]\n: 1\n", "recipe.yaml:1:3: a key that is not text; write 'key: value'"),
    (
        "two documents",
        "a: 1\n---\nb: 1\n",
        "recipe.yaml:2:1: a second document starts; write one recipe a file",
    ),
    ("deep", "a: " + "[" * 60, "recipe.yaml:1:53: a[0][0]: nested deeper than 50 levels"),
    ("control character", "a: \x07", "recipe.yaml:1:4: the character '\\x07' is not allowed; remove it"),
    ("latin-1", b"a: 1\nb: \xff", "recipe.yaml:2:4: the byte 0xff is not UTF-8 text; save the file as UTF-8"),
    ("huge", "#" * 1_000_001, "recipe.yaml: larger than 1000000 bytes; this is not a recipe"),
]


@pytest.mark.parametrize(
    ("text", "expected"), [row[1:] for row in UNREADABLE], ids=[row[0] for row in UNREADABLE]
)
def test_unreadable(tmp_path: Path, text: str | bytes, expected: str) -> None:
    (found,) = errors_of(tmp_path, text)
    assert found.startswith(expected) or expected in found


def test_all_errors_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = changed(
        ("name: example", "name: example\nname: again"),
        ("kind: lru", "kind: gru"),
        ("steps: 100", "steps: 0"),
        ("task: digits", "task: digits\n  taks: 1"),
        ("energy_threshold: 0.99", "energy_threshold: 2"),
    )
    found = errors_of(tmp_path, text)
    assert [line.split(": ")[:2] for line in found] == [
        ["recipe.yaml:2:1", "name"],
        ["recipe.yaml:6:3", "data.taks"],
        ["recipe.yaml:8:17", "model.layer.kind"],
        ["recipe.yaml:11:10", "train.steps"],
        ["recipe.yaml:14:21", "compression.energy_threshold"],
    ]


OVERRIDES = [
    ("name=a\nb", "name: 'a\\nb' has a line break in it; remove it"),
    ("data.path='a\n b'", "data.path: \"'a\\n b'\" has a line break in it; remove it"),
    ("train.steps=x", "train.steps: found the text 'x'; write an integer of at least 1"),
    ("modle.depth=2", "modle: unknown key; did you mean 'model'?"),
    ("train.steps", "no '=' in it; write key=value, such as train.steps=100"),
    ("a..b=1", "'a..b' is not a key path; write key=value, such as train.steps=100"),
    (
        "train.steps=",
        "train.steps: nothing after '='; write train.steps=VALUE, or train.steps=null for no value",
    ),
    ("name.x=3", "name.x: name is the text 'example', not a mapping; write name=VALUE"),
    ("seeds=[1", "seeds: not valid YAML: a list does not end; write '[a, b]'"),
    ("output={root: a, root: b}", "output.root: duplicate key; remove one of the two"),
    ("output.keep_last=0", "output.keep_last: 0 is out of range; write an integer of at least 1"),
]


@pytest.mark.parametrize(("override", "expected"), OVERRIDES)
def test_bad_override(tmp_path: Path, override: str, expected: str) -> None:
    assert errors_of(tmp_path, GOOD, override) == [f"override {override!r}: {expected}"]


def test_errors_of_overrides_follow_those_of_the_file(tmp_path: Path) -> None:
    found = errors_of(tmp_path, changed(("steps: 100", "steps: 0")), "model.depth=0", "train", "device=gpu")
    places = [line.split(": ")[0] for line in found]
    assert places == [
        "recipe.yaml:9:10",
        "override 'model.depth=0'",
        "override 'train'",
        "override 'device=gpu'",
    ]


def test_another_discriminator_leaves_the_keys_of_the_first(tmp_path: Path) -> None:
    assert errors_of(tmp_path, GOOD, "model.layer={kind: lru, r_min: 0.5}") == []
    found = errors_of(tmp_path, GOOD, "model.layer.r_min=0.5", "model.layer.kind=s5")
    assert len(found) == 1
    assert found[0].startswith("override 'model.layer.r_min=0.5': model.layer.r_min: unknown key")


def decoder(layers: str) -> str:
    return changed(("  layer: {kind: lru, state_dim: 64}\n", f"  kind: decoder\n  layers: {layers}\n"))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("[mamba, attenton]", "7:19: model.layers[1]: 'attenton' is not one of attention, gla, lru, mamba, mamba2, "
         "s4d, s5; did you mean 'attention'?"),
        ("[{kind: lru, stat_dim: 3}]", "7:24: model.layers[0].stat_dim: unknown key; did you mean 'state_dim'?"),
        ("[{state_dim: 3}]", "7:12: model.layers[0].kind: missing; write one of attention, gla, lru, mamba, mamba2, "
         "s4d, s5"),
        ("[{kind: attention, heads: 0}]", "7:37: model.layers[0].heads: 0 is out of range; write an integer of at "
         "least 1 and at most 4096"),
    ],
)  # fmt: skip
def test_layers_by_name_or_with_settings(tmp_path: Path, layers: str, message: str) -> None:
    assert errors_of(tmp_path, decoder("[mamba, {kind: attention, heads: 2}]")) == []
    assert errors_of(tmp_path, decoder(layers)) == [f"recipe.yaml:{message}"]


def test_editors_are_told_that_layers_may_be_names() -> None:
    items = recipe_schema()["$defs"]["DecoderConfig"]["properties"]["layers"]["items"]
    names, mapping = items["anyOf"]
    assert names["enum"] == list(mapping["discriminator"]["mapping"])
    assert "by_name" not in str(recipe_schema())


def test_plain_data_is_told_by_its_origin() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from_mapping({"name": 3, "model": {"layer": {"kind": "lru", "q": 1}}}, "final.pt")
    lines = caught.value.problems
    assert "final.pt: name: found the number 3; write text" in lines
    assert any(line.startswith("final.pt: model.layer.q: unknown key") for line in lines)
    with pytest.raises(RecipeError, match=r"final\.pt: found the number 1 as a key; write text"):
        recipe_from_mapping({1: 2}, "final.pt")  # type: ignore[dict-item]
    with pytest.raises(RecipeError, match=r"final\.pt: found a list; a recipe is a mapping"):
        recipe_from_mapping([], "final.pt")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("quickstart/basline", "did you mean 'quickstart/baseline'?"),
        ("no such thing at all", "'compressm recipes list' shows the shipped ones"),
        ("a\0b", "no such file"),
        ("x" * 5000, "no such file"),
        ("", "is a folder|no such file"),
        ("/", "is a folder; give a recipe file"),
    ],
)
def test_no_such_recipe(source: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        load_recipe(source)


def test_the_text_of_the_error_has_a_line_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(changed(("steps: 100", "steps: 0"), ("name: example", "name: a/b")))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines() == caught.value.problems
    assert len(caught.value.problems) == 2
