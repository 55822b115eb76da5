"""A terminal, and shells in it, for tests of what a person sees who types."""

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path

LINE_SHOWN = {
    "bash": """bind -x '"\\C-t": printf "<<%s>>" "$READLINE_LINE"'""",
    "zsh": "show() { print -rn -- \"<<$BUFFER>>\" }; zle -N show; bindkey '^T' show",
}
"""What makes a shell print the line that is being typed, on Ctrl-T."""
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
STYLE = re.compile(r"\x1b\[[0-9;]*m")
BEFORE = {"bash": "", "zsh": "autoload -Uz compinit; compinit -u -D; "}


def compressm(folder: Path) -> Path:
    """A script ``compressm`` in a folder of its own, which is returned: the package that is being tested."""
    folder.mkdir()
    script = folder / "compressm"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m compressm_cli "$@"\n')
    script.chmod(0o755)
    return folder


def on_terminal(columns: int, *words: str, **environment: str) -> str:
    """What ``compressm WORDS`` writes on a terminal of that many columns, without its styles."""
    known = {"TERM": "xterm", "COLUMNS": str(columns), "NO_COLOR": "1"}
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "compressm_cli", *words],
        stdin=child,
        stdout=child,
        stderr=child,
        env={**os.environ, **known, **environment},
    )
    os.close(child)
    text = _read(parent, process)
    os.close(parent)
    assert process.wait(timeout=60) == 0, text
    return STYLE.sub("", text).replace("\r\n", "\n")


def typed(shell: str, keys: str, folder: Path, path: Path) -> str:
    """The line that a shell has when ``keys`` were typed into it, in a folder; ``path`` has ``compressm``."""
    environment = {
        "PATH": f"{path}:{os.environ['PATH']}",
        "HOME": str(path),
        "TERM": "xterm",
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }
    pid, parent = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(SHELLS[shell][0], SHELLS[shell], environment)
    try:
        _type(
            parent,
            f'{BEFORE[shell]}eval "$(compressm completion {shell})"; {LINE_SHOWN[shell]}; echo rea""dy\r',
        )
        _until(parent, "ready()")
        _type(parent, f"{keys}\x14")
        return _until(parent, "<<(.*?)>>")
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(parent)


def fish_candidates(line: str, folder: Path, path: Path) -> Mapping[str, str]:
    """What fish offers for a line: texts, and what is said of them."""
    done = subprocess.run(
        ["fish", "--no-config", "-c", "compressm completion fish | source; complete -C $argv[1]", line],
        cwd=folder,
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "HOME": str(path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    return {found: note for found, _, note in (line.partition("\t") for line in done.stdout.splitlines())}


def has(shell: str) -> bool:
    return shutil.which(shell) is not None


def _type(terminal: int, keys: str) -> None:
    os.write(terminal, keys.encode())


def _until(terminal: int, pattern: str, seconds: float = 60.0) -> str:
    """Wait until a pattern is shown; returns its group."""
    text, limit = "", time.monotonic() + seconds
    while (found := re.search(pattern, text, re.DOTALL)) is None:
        ready, _, _ = select.select([terminal], [], [], max(0.0, limit - time.monotonic()))
        assert ready, f"still waiting for {pattern!r}: {text!r}"
        text += os.read(terminal, 65536).decode(errors="replace")
    return found[1]


def _read(terminal: int, process: "subprocess.Popen[bytes]") -> str:
    data = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # Linux's end of a terminal whose other side is closed
            part = b""
        if not part:
            return data.decode()
        data += part
