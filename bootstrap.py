#!/usr/bin/env python3
"""Make the environment in ``.venv`` and use it. Needs Python >= 3.11 and nothing else.

python3 bootstrap.py quickstart [--seeds 0,1,2] [KEY=VALUE ...]
    trains a full-size baseline and a compressed model on the embedded digits, and compares them
python3 bootstrap.py test [PYTEST ARGUMENTS ...]
    runs the test suite
python3 bootstrap.py install
    only makes the environment
"""

# An older Python must get as far as to be told that it is one: syntax as in 3.6, annotations in quotes.
import hashlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = VENV / "installed"


def fail(message: str) -> None:
    sys.exit(f"bootstrap: {message}")


def run(*command: "str | Path") -> None:
    """Show a command and run it; its exit code is ours."""
    words = [str(word) for word in command]
    shown = [os.path.relpath(words[0], ROOT) if Path(words[0]).is_absolute() else words[0], *words[1:]]
    print(f"$ {shlex.join(shown)}", flush=True)
    done = subprocess.run(words, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def install() -> None:
    """Make the environment, unless it is there for just these requirements."""
    wanted = "".join((ROOT / name).read_text() for name in ("pyproject.toml", "constraints.txt"))
    stamp = hashlib.sha256(wanted.encode()).hexdigest()
    if STAMP.is_file() and STAMP.read_text() == stamp:
        return
    print("bootstrap: making the environment in .venv (one to three minutes, once)", flush=True)
    if not (BIN / "python").exists():
        made = subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False)
        if made.returncode:
            fail("Python's venv module does not work here; on Debian and Ubuntu: apt install python3-venv")
    run(BIN / "python", "-m", "pip", "install", "--quiet", "-c", "constraints.txt", "-e", ".[test]")
    STAMP.write_text(stamp)


def quickstart(arguments: "list[str]") -> None:
    """Baseline, compressed, comparison."""
    for recipe in ("baseline", "compressed"):
        run(BIN / "compressm", "train", f"recipes/quickstart/{recipe}.yaml", *arguments)
    root = next((a.split("=", 1)[1] for a in arguments if a.startswith("output.root=")), "outputs")
    sides = [f"{root}/quickstart-{name}" for name in ("baseline", "compressed")]
    run(BIN / "compressm", "compare", *sides, "--html", f"{root}/quickstart.html")


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - run by whatever python3 is there
        fail(f"needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    command, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if command not in ("quickstart", "test", "install"):
        sys.exit(__doc__)
    install()
    if command == "quickstart":
        quickstart(arguments)
    elif command == "test":
        # One process a core, each with one thread: the models in the tests are tiny.
        os.environ["OMP_NUM_THREADS"] = "1"
        run(BIN / "python", "-m", "pytest", "-n", "auto", "--maxprocesses", "8", *arguments)


if __name__ == "__main__":
    main()
