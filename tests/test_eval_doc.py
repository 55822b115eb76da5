"""What docs/eval.md says to type works, with fewer steps."""

import re
import shlex
from pathlib import Path

import pytest

from compressm_cli.cli.main import run

PAGE = (Path(__file__).parent.parent / "docs" / "eval.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHORT = ["--quiet", "train.steps=4", "train.eval_every=4", "train.checkpoint_every=4"]


@pytest.mark.slow
def test_the_example_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="needs compressm[eval]")
    monkeypatch.chdir(tmp_path)
    section = PAGE[PAGE.index("## An example") : PAGE.index("## What can be asked")]
    called = []
    for language, name, content in BLOCK.findall(section):
        if language == "python":
            exec(compile(content, "eval.md", "exec"), {"__name__": "page"})
        elif language == "console":
            for line in content.splitlines():
                program, *words = shlex.split(line)
                assert program == "compressm"
                assert run([*words, *(SHORT if words[0] == "train" else [])]) == 0, line
                called.append(words[0])
        else:
            Path(name).write_text(content, encoding="utf-8")
    assert called == ["train", "train", "eval", "eval", "eval"]
    told = capsys.readouterr().out
    assert "33.3 %" in told  # the chance level
    assert "bits a byte" in told
