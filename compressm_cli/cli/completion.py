"""``compressm completion``: the scripts that ask for completions on the TAB key, and what they are answered.

A script calls ``compressm`` with these environment variables, and is answered a line a candidate, as
``kind,text<TAB>note``. The kinds: ``whole``, a word; ``part``, a word that goes on; ``file`` and ``dir`` (without a
text), any file or folder, which the shell knows better how to complete.
"""

import os
import re
import shlex
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer
from typer.completion import completion_init, shell_completion

from compressm_cli.cli.candidates import ANY_FILE, ANY_FOLDER
from compressm_cli.cli.commands import Command

SHELL, LINE, WORD = "_COMPRESSM_COMPLETE", "_COMPRESSM_LINE", "_COMPRESSM_WORD"
"""Which shell asks; its line, up to the cursor; and of bash, which takes words apart, the word that it replaces."""

BASH = r"""_compressm() {
    local line kind
    COMPREPLY=()
    while IFS= read -r line; do
        kind=${line%%,*} line=${line#*,} line=${line%%$'\t'*}
        case $kind in
            whole) COMPREPLY+=("$line") ;;
            part) COMPREPLY+=("$line") && compopt -o nospace ;;
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
        esac
    done < <(_COMPRESSM_COMPLETE=bash _COMPRESSM_LINE="${COMP_LINE:0:COMP_POINT}" \
        _COMPRESSM_WORD="${COMP_WORDS[COMP_CWORD]}" "$1" 2> /dev/null)
}
complete -o nosort -F _compressm compressm
"""

ZSH = r"""#compdef compressm
_compressm() {
    local line kind
    local -a whole part
    while IFS= read -r line; do
        kind=${line%%,*} line=${line#*,}
        line=${${${${line%$'\t'}//\\/\\\\}//:/\\:}/$'\t'/:}
        case $kind in
            whole) whole+=("$line") ;;
            part) part+=("$line") ;;
            file) _files ;;
            dir) _files -/ ;;
        esac
    done < <(_COMPRESSM_COMPLETE=zsh _COMPRESSM_LINE="${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX" \
        "$words[1]" 2> /dev/null)
    (( $#whole )) && _describe -V 'compressm' whole
    (( $#part )) && _describe -V 'compressm' part -S ''
}
if [[ $funcstack[1] == _compressm ]]; then
    _compressm "$@"
else
    compdef _compressm compressm
fi
"""

FISH = r"""function __compressm
    set -lx _COMPRESSM_COMPLETE fish
    set -lx _COMPRESSM_LINE (commandline -cp | string collect)
    for line in (compressm 2> /dev/null)
        set -l found (string split -m 1 , -- $line)
        switch $found[1]
            case file
                __fish_complete_path (commandline -ct)
            case dir
                __fish_complete_directories (commandline -ct) ''
            case '*'
                echo $found[2]
        end
    end
end
complete -c compressm -f -a '(__compressm)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

app = typer.Typer(add_completion=False)


@app.command(cls=Command)
def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")
    ],
) -> None:
    """Print what makes SHELL complete commands, options, recipes, their keys, runs and checkpoints.

    bash: add to ~/.bashrc                   eval "$(compressm completion bash)"
    zsh:  add to ~/.zshrc, after compinit    eval "$(compressm completion zsh)"
    fish: add to ~/.config/fish/config.fish  compressm completion fish | source
    """
    typer.echo(SCRIPTS[shell], nl=False)


def answer(group: Any) -> int:
    """Answer the shell that asks for completions of ``group``; nothing at all where that fails."""
    try:
        words, incomplete = split(os.environ.get(LINE, ""))
        lines = list(_lines(group, words[1:], incomplete))
        print("".join(f"{line}\n" for line in lines), end="")
    except Exception:  # an error would be shown in the middle of the line that is being typed
        return 1
    return 0


def split(line: str) -> tuple[list[str], str]:
    """The whole words of a line of a shell, and the word at its end, without their quotes."""
    mark = "\0"
    for quote in ("", "'", '"'):
        try:
            *words, last = shlex.split(f"{line}{mark}{quote}")
        except ValueError:  # that quote is not the one that is open
            continue
        return words, last.removesuffix(mark)
    return [], ""


def _lines(group: Any, words: list[str], incomplete: str) -> Iterator[str]:
    if incomplete.startswith("~"):  # which only the shell expands
        yield f"{ANY_FILE},"
        return
    # Typer completes what follows an option's equals sign, and bash what follows any.
    before = incomplete[: incomplete.index("=") + 1] if re.match("-.*=", incomplete) else ""
    is_bash = os.environ[SHELL] == "bash"
    skipped = _skipped_by_bash(incomplete, os.environ.get(WORD, "")) if is_bash else 0
    completion_init()
    finder = shell_completion.get_completion_class("bash")(group, {}, "compressm", SHELL)  # type: ignore[misc]
    seen: set[str] = set()
    for item in finder.get_completions(words, incomplete):
        if item.value in seen:  # in two ways, such as folders of outputs/
            continue
        seen.add(item.value)
        note = " ".join((item.help or "").split())
        text = f"{before}{item.value}"
        if note in (ANY_FILE, ANY_FOLDER):
            yield f"{note},"
        elif text.isprintable():
            kind = "part" if text.endswith(("=", ".", "/")) else "whole"
            yield f"{kind},{_quoted(text[skipped:], kind) if is_bash else text}\t{note}"


def _skipped_by_bash(incomplete: str, word: str) -> int:
    """How many characters of a word stay on the line, since bash replaces only what follows its last ``=`` or ``:``."""
    if not word.strip("=:"):
        return len(incomplete)
    _, replaced = split(word)
    return len(incomplete) - len(replaced) if incomplete.endswith(replaced) else 0


def _quoted(text: str, kind: str) -> str:
    """For bash, which inserts it as it is, in place of a quote that is open, too."""
    quote = os.environ.get(WORD, "")[:1]
    if quote in ("'", '"'):
        return f"{quote}{text}{quote if kind == 'whole' else ''}"
    return re.sub(r"([^\w@%+=:,./~-])", r"\\\1", text)
