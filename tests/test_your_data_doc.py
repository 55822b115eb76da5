"""What docs/your-data.md says works, with fewer steps: each section's files are written, its commands called."""

import re
import shlex
from pathlib import Path

import pytest

from compressm_cli.cli.main import run

PAGE = (Path(__file__).parent.parent / "docs" / "your-data.md").read_text(encoding="utf-8")
SHORT = ["--quiet", "train.steps=4", "train.eval_every=2", "train.checkpoint_every=4"]
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def sections() -> dict[str, list[tuple[str, str, str]]]:
    """The blocks of each section: language, name of a file or nothing, content."""
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0]: BLOCK.findall(part) for part in parts}


@pytest.mark.slow
@pytest.mark.parametrize("title", sections())
def test_a_section_works(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    called = []
    for language, name, content in sections()[title]:
        if language == "console":
            called += [_call(line) for line in content.splitlines()]
        elif language == "python":
            exec(compile(content, title, "exec"), {"__name__": "page"})
        elif language == "text":  # the beginning of a file that was written
            assert Path(name).read_text(encoding="utf-8").startswith(content.rstrip("\n")), name
        else:
            assert name, f"a block of {language} without the name of its file"
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(content, encoding="utf-8")
    assert {"train"} <= set(called), title


def _call(line: str) -> str:
    """Call a command of the page; returns which one it is."""
    program, *words = shlex.split(line, comments=True)
    assert program == "compressm", line
    trains = words[0] == "train" and "--dry-run" not in words
    assert run([*words, *(SHORT if trains else [])]) == 0, line
    return words[0]
