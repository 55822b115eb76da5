"""``compressm eval``: tasks as lm-evaluation-harness defines them, their items, and models compared on them."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from asked_models import save_own, write_rows

from compressm_cli.cli.main import run as command
from compressm_cli.core.errors import BadInputError
from compressm_cli.data import hub
from compressm_cli.integrations import benchmarks
from compressm_cli.integrations.asked import asked
from compressm_cli.integrations.opening import open_language_model
from compressm_cli.integrations.task_files import CONTENT, cleaned, read_hellaswag, read_mmlu

pytest.importorskip("lm_eval", reason="needs compressm[eval]")

WORDS = ["alpha", "beta", "gamma", "delta", "épsilon", "zeta"]
ENDINGS = [
    {"query": f"{one}:", "choices": [f"{two}", "of a", "b", "longer ones"], "gold": len(two) % 4}
    for one in WORDS
    for two in WORDS
]
QUESTIONS = [
    {"subject": subject, "query": f" What is {word}? ", "choices": ["1", "2", "x y", "4"], "gold": place % 4}
    for subject in ("high_school_maths", "law")
    for place, word in enumerate(WORDS)
]
YAML = """
task: greeting
dataset_path: json
dataset_kwargs: {data_files: {test: words.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{word}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["x"], max_gen_toks: 3}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""

ENDS = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: query
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
GROUP = """
group: both
task: [first, second]
aggregate_metric_list: [{metric: acc, weight_by_size: true}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models, and files of questions, in the folder that it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    save_own(Path("one.pt"), "decoder")
    save_own(Path("two.pt"), "sequence")
    write_rows(Path("swag.jsonl"), ENDINGS)
    Path("swag.jsonl.gz").write_bytes(gzip.compress(Path("swag.jsonl").read_bytes()))
    write_rows(Path("test.jsonl"), QUESTIONS)
    write_rows(Path("dev.jsonl"), list(reversed(QUESTIONS)))
    Path("text.txt").write_text("a text that is held out", encoding="utf-8")
    return tmp_path


def results(path: str) -> list[dict[str, Any]]:
    """The tasks of the models in what ``--output`` wrote."""
    return [model["tasks"] for model in json.loads(Path(path).read_text(encoding="utf-8"))["models"]]


def test_scores_are_those_of_each_answer_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked_of = [
        "--tasks",
        "hellaswag=swag.jsonl.gz,perplexity=text.txt",
        "--context",
        "64",
        "--output",
        "o.json",
    ]
    assert command(["eval", "one.pt", *asked_of]) == 0
    told = capsys.readouterr().out
    ((task, text),) = results("o.json")
    model = open_language_model(Path("one.pt"), 64, "cpu")
    right, norm = [], []
    for row in ENDINGS:
        found = []
        for choice in row["choices"]:
            begun, tokens = len(row["query"].encode()), model.encode(f"{row['query']} {choice}")
            with torch.no_grad():
                said = model._model(torch.tensor([tokens]))[0].log_softmax(-1)  # type: ignore[attr-defined]
            found.append(sum(float(said[n - 1, tokens[n]]) for n in range(begun, len(tokens))))
        lengths = [len(choice) for choice in row["choices"]]
        right.append(found.index(max(found)) == row["gold"])
        norms = [value / length for value, length in zip(found, lengths, strict=True)]
        norm.append(norms.index(max(norms)) == row["gold"])
    assert [item["values"] for item in task["items"]] == [
        {"acc": float(a), "acc_norm": float(b)} for a, b in zip(right, norm, strict=True)
    ]
    share = sum(right) / len(right)
    acc = next(score for score in task["scores"] if score["metric"] == "acc")
    assert acc["value"] == pytest.approx(share)
    assert acc["standard_error"] == pytest.approx(math.sqrt(share * (1 - share) / (len(right) - 1)))
    assert acc["chance"] == 0.25
    for shown in (
        "hellaswag",
        f"{share:.1%}".replace("%", " %"),
        "25.0 %",
        "36 items",
        "23 bytes",
        task["hash"][:12],
    ):
        assert shown in told
    assert text["count"] == 23


def test_questions_are_asked_as_the_harness_asks_them(folder: Path) -> None:
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import __file__ as place
    from lm_eval.tasks._yaml_loader import load_yaml
    from lm_eval.tasks.hellaswag.utils import preprocess

    text = " [header] Make [a] hat [title] Cut it.  Sew [step] it. "
    assert cleaned(text) == preprocess(text)
    config = load_yaml(
        Path(place).parent / "mmlu/default/mmlu_high_school_mathematics.yaml", resolve_func=True
    )

    def rows(several: list[dict[str, Any]]) -> Any:
        own = [row for row in several if row["subject"] == "high_school_maths"]
        return datasets.Dataset.from_list(
            [{"question": r["query"], "choices": r["choices"], "answer": r["gold"]} for r in own]
        )

    both = {"test": rows(QUESTIONS), "dev": rows(list(reversed(QUESTIONS)))}
    task = ConfigurableTask(config={**config, "custom_dataset": lambda **_: both})
    for shots in (0, 5):
        questions = read_mmlu(Path("test.jsonl"), Path("dev.jsonl"), shots)[:6]
        wanted = [task.fewshot_context(doc, shots) for doc in task.eval_docs]
        assert [q.query.replace("maths", "mathematics") for q in questions] == wanted
        (first, *_) = task.construct_requests(task.eval_docs[1], wanted[1], metadata=("", 0, 1))
        assert first.args[1] == " A"
        assert [q.gold for q in questions] == [doc["answer"] for doc in task.eval_docs]


def test_a_limit_takes_the_same_items_wherever_they_stand() -> None:
    docs = [{"query": str(n), CONTENT: str(n)} for n in range(50)]
    chosen = {docs[n]["query"] for n in benchmarks.chosen_items(docs, 10, 0)}
    turned = [{"query": f"with examples: {d['query']}", CONTENT: d[CONTENT]} for d in reversed(docs)]
    again = {turned[n][CONTENT] for n in benchmarks.chosen_items(turned, 10, 0)}
    assert again == chosen
    assert len(chosen) == 10
    assert {docs[n]["query"] for n in benchmarks.chosen_items(docs, 10, 1)} != chosen
    assert chosen != {str(n) for n in range(10)}
    assert benchmarks.chosen_items(docs, 99, 0) == list(range(50))


def test_models_are_compared_on_the_same_items(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mmlu = ["--tasks", "mmlu=test.jsonl,mmlu.dev=dev.jsonl", "--limit", "8"]
    assert command(["eval", "one.pt", *mmlu, "--shots", "1", "--output", "one.json"]) == 0
    assert command(["eval", "one.json", "two.pt", *mmlu, "--shots", "1", "--output", "both.json"]) == 0
    told = capsys.readouterr().out
    assert "mmlu: 8 of 8 items cut on the left to what the model sees at once" in told
    assert "1 example before each question" in told
    ((one,), (two,)) = results("both.json")
    assert one == results("one.json")[0][0]
    assert [item["id"] for item in one["items"]] == [item["id"] for item in two["items"]]
    assert {item["details"]["subject"] for item in one["items"]} == {"high_school_maths", "law"}
    assert "not enough items to tell: a loss up to" in told
    assert command(["eval", "one.json", "one.json", "--margin", "50"]) == 0
    assert "no measurable loss: one of more than 50 points is excluded" in capsys.readouterr().out
    assert command(["eval", "one.json", "two.pt", *mmlu]) == 2
    assert "different items (8 and 8, with 1 and 0 examples)" in capsys.readouterr().err


def test_tasks_of_yaml(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("tasks").mkdir()
    Path("tasks/greeting.yaml").write_text(YAML, encoding="utf-8")
    write_rows(Path("words.jsonl"), [{"word": word, "answer": "no"} for word in WORDS])
    assert command(["eval", "one.pt", "--tasks", "tasks", "--output", "folder.json"]) == 0
    assert command(["eval", "one.pt", "--tasks", "tasks/greeting.yaml", "--output", "file.json"]) == 0
    assert results("folder.json")[0][0]["items"] == results("file.json")[0][0]["items"]
    model = open_language_model(Path("one.pt"), None, "cpu")
    for item, word in zip(results("file.json")[0][0]["items"], WORDS, strict=True):
        assert item["details"]["said"] == model.write([model.encode(word)], 3, ["x"])
        assert item["chance"] is None
    capsys.readouterr()
    Path("tasks/greeting.yaml").write_text(
        YAML.replace("max_gen_toks: 3", "do_sample: true"), encoding="utf-8"
    )
    assert command(["eval", "one.pt", "--tasks", "tasks"]) == 2
    assert "do_sample: false" in capsys.readouterr().err


def test_groups_of_tasks(folder: Path) -> None:
    Path("tasks").mkdir()
    for name, rows in (("first", ENDINGS[:4]), ("second", ENDINGS[4:14])):
        write_rows(Path(f"{name}.jsonl"), rows)
        Path(f"tasks/{name}.yaml").write_text(ENDS.format(name=name, file=f"{name}.jsonl"), encoding="utf-8")
    Path("tasks/both.yaml").write_text(GROUP, encoding="utf-8")
    assert command(["eval", "one.pt", "--tasks", "tasks", "--output", "o.json"]) == 0
    (tasks,) = results("o.json")
    first, second, both = tasks
    assert [task["task"] for task in tasks] == ["first", "second", "both"]
    assert both["items"] == [*first["items"], *second["items"]]
    right = [item["values"]["acc"] for item in both["items"]]
    (score,) = both["scores"]
    assert score["value"] == pytest.approx(sum(right) / len(right))
    assert (score["metric"], score["chance"], score["is_share"]) == ("acc", 0.25, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["one.pt"], "one.pt: what is it to be asked? Give --tasks"),
        (["one.pt", "--tasks", "hellaswag=none.jsonl"], "no such file or folder: none.jsonl"),
        (["one.pt", "--tasks", "swag.jsonl"], "what is in it? Write NAME=FILE"),
        (["one.pt", "--tasks", "arc=swag.jsonl"], "arc is asked of no file"),
        (["one.pt", "--tasks", "perplexity"], "is asked of a file of yours; write perplexity=FILE"),
        (["one.pt", "--tasks", "mmlu.dev=dev.jsonl"], "give mmlu=FILE as well"),
        (["one.pt", "--tasks", "mmlu=test.jsonl", "--shots", "2"], "give mmlu.dev=FILE as well"),
        (
            ["one.pt", "--tasks", "mmlu=test.jsonl,mmlu.dev=dev.jsonl", "--shots", "9"],
            "6 examples of high_school",
        ),
        (["one.pt", "--tasks", "hellaswag=swag.jsonl", "--shots", "2"], "is asked without examples"),
        (["one.pt", "--tasks", "mmlu=swag.jsonl"], "swag.jsonl, row 1: subject is nothing"),
        (["one.pt", "--tasks", "perplexity=text.txt", "--output", "here"], "let its name end in .json"),
        (["one.pt", "--tasks", "perplexity=text.txt", "--output", "no/o.json"], "no such folder: no"),
        (["swag.jsonl.json"], "the results of one model alone"),
        (["one.pt", "--tasks", "hellaswag"], "data from it; give hellaswag=FILE.jsonl (docs/eval.md)"),
        (
            ["one.pt", "broken.json", "--tasks", "perplexity=text.txt"],
            "not what compressm eval writes with --output",
        ),
    ],
)
def test_what_cannot_be_asked_is_said(
    words: list[str],
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hub, "_request", lambda _: (_ for _ in ()).throw(OSError("no network here")))
    Path("broken.json").write_text("{}", encoding="utf-8")
    assert command(["eval", *words]) == 2
    assert said in capsys.readouterr().err


def test_rows_that_are_no_questions(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good = {
        "activity_label": "Hat",
        "ctx_a": "Cut.",
        "ctx_b": "then",
        "endings": ["a [x]", "b"],
        "label": "1",
    }
    for change, said in (
        ({"label": "2"}, "write its number from 0 to 1"),
        ({"label": True}, "write its number from 0 to 1"),
        ({"endings": ["a"]}, "write a list of two texts or more"),
        ({"endings": ["a", ""]}, "write a list of two texts or more"),
        ({"ctx_b": 3}, "ctx_b is the number 3"),
        ({"ctx_a": None}, "no question of HellaSwag"),
    ):
        write_rows(file, [good, {**good, **change}])
        with pytest.raises(BadInputError, match=said) as caught:
            read_hellaswag(file)
        assert "row 2" in str(caught.value)
    write_rows(file, [good])
    (question,) = read_hellaswag(file)
    assert (question.query, question.choices, question.gold) == ("Hat: Cut. Then", ["a ", "b"], 1)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks, "find_spec", lambda _: None)
    with pytest.raises(BadInputError, match=r"pip install 'compressm\[eval\]'"):
        benchmarks.require_at_hand(asked(["hellaswag"]))
