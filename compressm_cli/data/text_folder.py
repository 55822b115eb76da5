"""Texts of a folder with one folder a class."""

from pathlib import Path

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading
from compressm_cli.data.tables import check_class_folders


def read_text_folder(folder: Path, classes: list[str] | None = None) -> tuple[list[bytes], list[str]]:
    """The bytes of each ``<class>/**/*.txt``, in order of their names, and the class of each.

    ``classes`` restricts it to some folders. Raises BadInputError where nothing, or an empty file, is there.
    """
    check_class_folders(folder, "texts (*.txt)")
    names = classes or sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    texts: list[bytes] = []
    labels: list[str] = []
    for name in names:
        for file in sorted((folder / name).rglob("*.txt")):
            with reading(file, "cannot be read", "make it readable, or remove it"):
                text = file.read_bytes()
            if not text:
                raise BadInputError(f"{file}: the file is empty; write a text into it, or remove it")
            texts.append(text)
            labels.append(name)
    if not texts:
        raise BadInputError(f"{folder}: no texts in it; put files *.txt into {', '.join(names)}")
    return texts, labels
