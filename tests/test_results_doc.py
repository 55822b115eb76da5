"""Tables of docs/results.md that stand between markers are what the results beside it say.

``python tests/test_results_doc.py`` fills them in from docs/results/NAME.json, between
``<!-- study: results/NAME.json -->`` and ``<!-- end -->``.
"""

import re
from pathlib import Path

from compressm_cli.render.study_tables import study_markdown
from compressm_cli.studies.results import Results, read_results

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN, END = r"<!-- study: (?P<file>results/[\w.-]+\.json) -->", "<!-- end -->"


def filled(text: str, folder: Path) -> str:
    """The text with the tables of the results in ``folder``."""

    def table(found: re.Match[str]) -> str:
        known = study_markdown(read_results(folder / found["file"]))
        return f"<!-- study: {found['file']} -->\n\n{known}\n{END}"

    return re.sub(rf"{BEGIN}.*?{END}", table, text, flags=re.DOTALL)


def test_the_tables_of_the_page_are_what_the_results_say() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(re.findall("<!-- study: ", text)) == len(re.findall(f"{BEGIN}.*?{END}", text, re.DOTALL))
    assert filled(text, PAGE.parent) == text, "run python tests/test_results_doc.py"


def test_what_stands_between_the_markers_is_written_anew(tmp_path: Path) -> None:
    known = Results.model_validate(
        {
            "recipe": "made",
            "command": "compressm study made",
            "primary": {"name": "accuracy", "title": "accuracy", "higher_is_better": True, "unit": "share"},
            "seeds": [0],
            "rate": 0.004,
            "grid": 1,
            "arms": [{"name": "method", "about": "the recipe", "cost": "equal"}],
            "runs": [{"arm": "method", "rate": 0.004, "seed": 0, "validation": 0.5, "test": 0.25}],
        }
    )
    (tmp_path / "results").mkdir()
    known.write(tmp_path / "results")
    text = "before\n<!-- study: results/results.json -->\nold\n<!-- end -->\nafter <!-- end -->\n"
    found = filled(text, tmp_path)
    assert found.startswith("before\n<!-- study: results/results.json -->\n")
    assert found.endswith("<!-- end -->\nafter <!-- end -->\n")
    assert "old" not in found
    assert "| method | 0.004\\* | 25.00 |" in found
    assert filled(found, tmp_path) == found


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), PAGE.parent), encoding="utf-8")
    print(PAGE)
