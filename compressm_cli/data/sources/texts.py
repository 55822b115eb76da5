"""Texts of a folder with one folder a class, a file each."""

from collections.abc import Sequence
from pathlib import Path

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.flat import TEXT_ROWS, Gathered
from compressm_cli.data.reading import reading
from compressm_cli.data.rows import Rows
from compressm_cli.data.sources.folders import Content, FolderFiles, class_files, found_files
from compressm_cli.data.sources.text import plain_text

TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst", ".tex", ".org", ".html")
"""Of the files of a folder that are texts, whatever is learned of them."""
TEXTS = Content("texts", (*TEXT_SUFFIXES, ""), (".txt", ".md"))


def read_text_folder(folder: Path, labelled: bool = True, classes: Sequence[str] | None = None) -> Rows:
    """The UTF-8 of each text, called by its file, in order of the names.

    ``classes`` restricts it to some folders. Raises BadInputError where nothing, an empty file, or no UTF-8 is there.
    """
    if classes is not None:
        return _rows(folder, class_files(folder, TEXTS, classes))
    return _rows(folder, found_files(folder, TEXTS, labelled))


def _rows(folder: Path, found: FolderFiles) -> Rows:
    texts = Gathered(TEXT_ROWS)
    for file in found.files:
        texts.add([_text(file)])
    return Rows(
        str(folder), "texts", texts.content(), names=found.names, labels=found.labels, left_out=found.left_out
    )


def _text(file: Path) -> bytes:
    with reading(file, "cannot be read", "make it readable, or remove it"):
        text = plain_text(file.read_bytes(), file)
    if not text:
        raise BadInputError(f"{file}: the file is empty; write a text into it, or remove it")
    return text
