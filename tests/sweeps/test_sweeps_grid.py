"""From the words of a command line, or a file, to points with names."""

import re
from pathlib import Path

import pytest

from compressm_cli.core.errors import BadInputError
from compressm_cli.recipe.schema import NAME
from compressm_cli.recipe.seeds import parse_seeds
from compressm_cli.sweeps.grid import Point, points_of, read_list, read_words, split_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1", ["1"]),
        ("1,2", ["1", "2"]),
        ("1e-3, 2e-3", ["1e-3", "2e-3"]),
        ("0.5x,0.65x", ["0.5x", "0.65x"]),
        ("[4,4],[8,8]", ["[4,4]", "[8,8]"]),
        ("{a: [1, 2], b: 3},null", ["{a: [1, 2], b: 3}", "null"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("'it''s, so',c", ["'it''s, so'", "c"]),
        (r'"a\",b",c', [r'"a\",b"', "c"]),
        ("it's,b", ["it's", "b"]),
        ("['a]',b],c", ["['a]',b]", "c"]),
        ("a],b", ["a]", "b"]),
        ("a,", ["a", ""]),
        ("[a,b", ["[a,b"]),
    ],
)
def test_commas_part_values_where_nothing_holds_them(text: str, values: list[str]) -> None:
    assert split_values(text) == values


def points(*words: str, rows: list[tuple[tuple[str, str], ...]] | None = None) -> list[Point]:
    axes, _ = read_words(words)
    return points_of(axes, rows or [], alone="alone")


def test_all_combinations_are_points_and_single_values_are_none() -> None:
    axes, fixed = read_words(
        ["train.learning_rate=4e-3,1e-5", "train.steps=100", "model.layer.state_dim=4,8"]
    )
    assert fixed == ["train.steps=100"]
    found = points_of(axes, [], alone="x")
    assert [point.name for point in found] == [
        "learning_rate=0.004,state_dim=4",
        "learning_rate=0.004,state_dim=8",
        "learning_rate=1e-05,state_dim=4",
        "learning_rate=1e-05,state_dim=8",
    ]
    assert found[1].overrides == ["train.learning_rate=4e-3", "model.layer.state_dim=8"]
    assert [point.name for point in points()] == ["alone"]


def test_names_are_readable_unique_and_safe() -> None:
    assert [p.name for p in points("a.kind=lru,s5", "b.kind=lru,s5")] == [
        "a.kind=lru,b.kind=lru",
        "a.kind=lru,b.kind=s5",
        "a.kind=s5,b.kind=lru",
        "a.kind=s5,b.kind=s5",
    ]
    assert [p.name for p in points("x=[4,4],{a: 1, b: true}")] == ["x=4-4", "x=a-1-b-true"]
    assert [p.name for p in points("x=-1,1e+20,null")] == ["x=-1", "x=1e20", "x=null"]
    strange = points("data.path=a/b,a b,A-B,../..,'',ä")
    assert [p.name for p in strange] == [
        "path=a-b",
        "path=a-b-2",
        "path=A-B-3",
        "path=..-..",
        "path=empty",
        "path=empty-2",
    ]
    long = points("some.very.long_key_of_a_setting=" + ",".join(f"{'x' * 80}{n}" for n in range(30)))
    for found in (strange, long):
        names = [p.name for p in found]
        assert len({name.lower() for name in names}) == len(names)
        assert all(NAME.fullmatch(name) and "/" not in name for name in names)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train.steps=1,2", "train.steps=3"], "train.steps is given 2 times; .* train.steps=A,B"),
        (["train.steps=1,2", "train.steps=3,4"], "train.steps is given 2 times"),
        (["train.steps=1,,2"], "an empty value; write train.steps=VALUE,VALUE"),
        (["seeds=1,2"], "nothing to sweep over: write --seeds"),
        (["output.root=a,b"], "nothing to sweep over: give one place"),
        (["a b=1,2"], "not a key path"),
        ([f"{key}={','.join(map(str, range(30)))}" for key in "abc"], "more than 10,000 points"),
    ],
)
def test_words_that_make_no_sweep(words: list[str], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        points(*words)


def test_rows_of_files_are_points(tmp_path: Path) -> None:
    yaml, table = tmp_path / "p.yaml", tmp_path / "p.csv"
    yaml.write_text(
        "- {train.steps: 10, model.layer.state_dim: [4, 4]}\n- train.learning_rate: 1e-3\n  train.steps: 5\n"
    )
    rows = read_list(yaml)
    assert rows == [
        (("train.steps", "10"), ("model.layer.state_dim", "[4, 4]")),
        (("train.learning_rate", "0.001"), ("train.steps", "5")),
    ]
    table.write_text('train.steps,model.layer.state_dim\n10,"[4, 4]"\n\n5,\n')
    assert read_list(table) == [rows[0], (("train.steps", "5"),)]
    both = points("train.batch_size=8,16", rows=rows)
    assert [p.name for p in both][:2] == [
        "steps=10,state_dim=4-4,batch_size=8",
        "steps=10,state_dim=4-4,batch_size=16",
    ]
    assert len(both) == 4
    with pytest.raises(BadInputError, match=r"train\.steps is in the list and an axis as well"):
        points("train.steps=1,2", rows=rows)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("p.yaml", "a: 1", "found a mapping; write a list of points"),
        ("p.yaml", "- 3", r"p\.yaml:1:3: \[0\]: found the number 3; write a mapping of settings"),
        ("p.yaml", "- {seeds: 3}", r"p\.yaml:1:4.*nothing to sweep over"),
        ("p.yaml", "- {a: 1, a: 2}", "duplicate key"),
        ("p.yaml", "", "found nothing"),
        ("p.csv", "a,b\n1,2,3\n", r"p\.csv:2: 3 cells for 2 keys"),
        ("p.csv", "a,a\n1,2\n", r"p\.csv:1: the first line must have the keys"),
        ("p.csv", 'a\n"1', r"p\.csv:2: not valid CSV"),
        ("p.csv", "a\n", "no points"),
        ("p.txt", "a", "ends in .yaml or .csv"),
    ],
)
def test_files_that_are_no_lists_of_points(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(BadInputError, match=told):
        read_list(path)
    with pytest.raises(BadInputError, match="cannot be read: No such file"):
        read_list(tmp_path / "none.csv")


def test_seeds_are_numbers_and_ranges() -> None:
    assert parse_seeds("0..4") == [0, 1, 2, 3, 4]
    assert parse_seeds("7, 0..1,3..3") == [7, 0, 1, 3]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is no seed"),
        ("1,", "'' is no seed"),
        ("a", "'a' is no seed; write numbers and ranges"),
        ("-1", "'-1' is no seed"),
        ("1.5", "'1.5' is no seed"),
        ("4..0", "4..0 goes backwards; write 0..4"),
        ("0..2,1", "1 is there twice"),
        ("2147483648", "too large"),
        ("0..2147483647", "more than 1000 seeds"),
    ],
)
def test_what_is_no_seed(text: str, told: str) -> None:
    with pytest.raises(BadInputError, match=re.escape(told)):
        parse_seeds(text)
