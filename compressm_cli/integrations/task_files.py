"""HellaSwag and MMLU from files of their questions, asked as lm-evaluation-harness asks them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import described, shorten
from compressm_cli.data.sources.interface import Form
from compressm_cli.data.sources.json import JsonLinesSource

CONTENT = "compressm_content"
"""The column of a task's rows that tells what is asked, however it is asked: which items a limit leaves."""
LETTERS = ("A", "B", "C", "D")
HELLASWAG_FORMS = "query, choices, gold; or activity_label, ctx_a, ctx_b, endings, label"
MMLU_FORMS = "subject, query, choices, gold; or subject, question, choices, answer"


@dataclass(frozen=True)
class Question:
    """One question with its answers, as a model is asked."""

    query: str
    choices: list[str]
    gold: int
    subject: str | None = None
    content: str = ""
    """The same for the same question, whatever stands before it."""


def read_hellaswag(path: Path) -> list[Question]:
    """The endings of HellaSwag (Zellers et al. 2019); BadInputError where the file holds no such questions.

    Rows are as published, cleaned as the harness cleans them, or cleaned already: ``query``, ``choices``, ``gold``.
    """
    questions = []
    for place, row in _rows(path):
        if "query" in row:
            query, choices, gold = row["query"], row.get("choices"), row.get("gold")
        elif "ctx_a" in row:
            label, first, second = (_text(place, row, key) for key in ("activity_label", "ctx_a", "ctx_b"))
            query = cleaned(f"{label}: {first} {second.capitalize()}")
            choices = row.get("endings")
            if _is_texts(choices):
                choices = list(map(cleaned, choices))
            gold = row.get("label")
        else:
            raise BadInputError(f"{place}: no question of HellaSwag; write {HELLASWAG_FORMS}")
        question = _question(place, query, choices, gold)
        questions.append(replace(question, content=question.query))
    return questions


def cleaned(text: str) -> str:
    """A text of HellaSwag without the marks of WikiHow, as in lm-evaluation-harness."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def read_mmlu(path: Path, dev: Path | None, shots: int) -> list[Question]:
    """The questions of MMLU (Hendrycks et al. 2021), each after the first ``shots`` of its subject in ``dev``.

    BadInputError where the files hold no such questions, or too few examples of a subject.
    """
    examples: dict[str, list[Question]] = {}
    for _, question in _mmlu_rows(dev) if dev is not None else ():
        examples.setdefault(str(question.subject), []).append(question)
    questions = []
    for place, question in _mmlu_rows(path):
        subject = str(question.subject)
        known = examples.get(subject, [])[:shots]
        if len(known) < shots:
            raise BadInputError(
                f"{place}: {len(known)} examples of {subject} in {dev}, and --shots {shots} takes as many before each "
                "question; give a file that has them, or fewer shots"
            )
        title = subject.replace("_", " ")
        head = f"The following are multiple choice questions (with answers) about {title}.\n\n"
        told = "".join(f"{_asked(one)} {LETTERS[one.gold]}\n\n" for one in known)
        text, content = f"{head}{told}{_asked(question)}", f"{subject}\n{_asked(question)}"
        questions.append(Question(text, list(LETTERS), question.gold, subject, content))
    return questions


def _asked(question: Question) -> str:
    answers = "".join(f"{letter}. {text}\n" for letter, text in zip(LETTERS, question.choices, strict=True))
    return f"{question.query.strip()}\n{answers}Answer:"


def _mmlu_rows(path: Path) -> Iterator[tuple[str, Question]]:
    for place, row in _rows(path):
        if "query" in row:
            query, gold = row["query"], row.get("gold")
        elif "question" in row:
            query, gold = row["question"], row.get("answer")
        else:
            raise BadInputError(f"{place}: no question of MMLU; write {MMLU_FORMS}")
        question = _question(place, query, row.get("choices"), gold)
        if len(question.choices) != len(LETTERS):
            raise BadInputError(f"{place}: {len(question.choices)} choices; each question of MMLU has 4")
        yield place, Question(question.query, question.choices, question.gold, _text(place, row, "subject"))


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file of JSON lines, perhaps packed by gzip, and where each is."""
    source = JsonLinesSource(path, Form())
    columns, number = source.columns, 0
    for block in source.blocks(columns):
        for cells in zip(*block, strict=True):
            number += 1
            row = {key: value for key, value in zip(columns, cells, strict=True) if value is not None}
            yield f"{path}, row {number}", row
    if not number:
        raise BadInputError(f"{path}: no rows in it; give a file of questions")


def _question(place: str, query: Any, choices: Any, gold: Any) -> Question:
    if not isinstance(query, str) or not query.strip():
        raise BadInputError(f"{place}: the question is {described(query)}; write a text")
    if not _is_texts(choices) or len(choices) < 2 or not all(choices):
        raise BadInputError(f"{place}: choices are {shorten(choices)}; write a list of two texts or more")
    number = int(gold) if isinstance(gold, str) and gold.isascii() and gold.isdigit() else gold
    if type(number) is not int or not 0 <= number < len(choices):
        raise BadInputError(
            f"{place}: the right answer is {described(gold)}; write its number from 0 to {len(choices) - 1}"
        )
    return Question(query, list(choices), number)


def _text(place: str, row: Mapping[str, Any], key: str) -> str:
    if not isinstance(value := row.get(key), str):
        raise BadInputError(f"{place}: {key} is {described(value)}; write a text")
    return value


def _is_texts(value: Any) -> TypeGuard[Sequence[str]]:
    return (
        isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(v, str) for v in value)
    )
