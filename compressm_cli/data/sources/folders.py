"""Files of a folder, one folder a class: which of them are rows, in which order, and what is left out and why."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading
from compressm_cli.data.same_files import FilesMet

LITTER = {
    "__macosx",
    "__pycache__",
    "$recycle.bin",
    "@eadir",
    "desktop.ini",
    "ehthumbs.db",
    "lost+found",
    "system volume information",
    "thumbs.db",
}
"""What systems leave in folders, besides what is hidden; in lower case."""
HIDDEN = "hidden, or left there by a system"
BESIDE = "beside the folders of the classes"
NOWHERE = "linked to nothing"
TWICE = "linked to folders that are read already"
SAME = "linked to files that are read already"
STRANGE = "neither file nor folder"
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""What folders of splits are called, and the keys that they are given as."""
SHOWN = 3


@dataclass(frozen=True)
class Content:
    """What is looked for in a folder."""

    what: str
    """In the plural, for messages."""
    suffixes: Collection[str]
    """With their dot, in lower case; the empty one takes names without a dot."""
    common: Sequence[str]
    """Those of them that messages name."""

    @property
    def example(self) -> str:
        """A name, for messages."""
        return f"{self.what} ({', '.join(f'*{suffix}' for suffix in self.common)})"


@dataclass(frozen=True)
class FolderFiles:
    """The files that are rows, in order."""

    files: Sequence[Path]
    names: Sequence[str]
    """Of the files, from the folder on, as they are told."""
    labels: Sequence[str] | None
    """The outermost folder of each; None where they have no classes."""
    left_out: Mapping[str, int]
    """How many entries are no rows, by the reason."""


@dataclass
class _Walk:
    """Goes through folders, each of them once, links as what they lead to."""

    content: Content
    left_out: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    """Files of other kinds, by their suffix."""
    seen: set[str] = field(default_factory=set)
    met: FilesMet = field(default_factory=FilesMet)
    of_class: Path | None = None
    """The folder of the class that is looked through."""

    def entries(self, folder: Path) -> list[Path]:
        """What is not hidden, folders and files before links, in the order of their names."""
        found = sorted(folder.iterdir(), key=lambda entry: (entry.is_symlink(), entry.name))
        visible = [entry for entry in found if not is_hidden(entry.name)]
        self.left_out[HIDDEN] += len(found) - len(visible)
        return visible

    def enter(self, folder: Path) -> bool:
        """Whether a folder is read: not if it was."""
        place = os.path.realpath(folder)
        if place in self.seen:
            self.left_out[TWICE] += 1
            return False
        self.seen.add(place)
        return True

    def files(self, folder: Path) -> Iterator[Path]:
        """All files of the kind that is looked for, in this folder and those in it."""
        for entry in self.entries(folder):
            if entry.is_dir():
                if self.enter(entry):
                    yield from self.files(entry)
            elif not entry.is_file():
                self.left_out[NOWHERE if entry.is_symlink() else STRANGE] += 1
            elif (suffix := suffix_of(entry.name)) in self.content.suffixes:
                if self.is_new(entry):
                    yield entry
            else:
                self.others[suffix] += 1

    def is_new(self, file: Path) -> bool:
        """Whether a file was not read by another name; BadInputError where that was in another class."""
        other = self.met.first(file)
        if other is file:
            return True
        if self.of_class is not None and self.of_class not in other.parents:
            raise BadInputError(
                f"{file}: is the same file as {other}, by a link, and a row has one class; remove one of them, or "
                "copy the file where both are meant"
            )
        self.left_out[SAME] += 1
        return False

    def reasons(self) -> dict[str, int]:
        found = {reason: count for reason, count in sorted(self.left_out.items()) if count}
        if self.others:
            kinds = [suffix or "no suffix" for suffix, _ in self.others.most_common(SHOWN)]
            more = ", ..." if len(self.others) > SHOWN else ""
            found[f"of another kind ({', '.join(kinds)}{more})"] = self.others.total()
        return found


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no user's."""
    return name.startswith((".", "~$")) or name.lower() in LITTER


def suffix_of(name: str) -> str:
    """``.txt`` of ``a.b.TXT``; empty where there is none."""
    _, dot, end = name.rpartition(".")
    return f"{dot}{end}".lower() if dot and end else ""


def class_files(folder: Path, content: Content, classes: Sequence[str] | None = None) -> FolderFiles:
    """The files of each ``<class>/**``, in the order of the names of classes, folders and files.

    ``classes`` restricts it to some folders. Hidden entries and what systems leave are no rows, suffixes count
    in upper and lower case, links are followed, and folders and files are read once. Raises BadInputError where there
    are no classes, one has no file, or two have the same one.
    """
    if not folder.is_dir():
        problem = "is a file; unpack it, and give" if folder.is_file() else "no such folder; give"
        raise BadInputError(f"{folder}: {problem} a folder with one folder of {content.example} a class")
    with reading(folder, "cannot be read", "make it readable"):
        walk = _Walk(content)
        walk.enter(folder)
        found = walk.entries(folder)
        places = [entry for entry in found if entry.is_dir() and (classes is None or entry.name in classes)]
        walk.left_out[BESIDE] += sum(not entry.is_dir() for entry in found)
        missing = [name for name in classes or [] if name not in {place.name for place in places}]
        if missing:
            raise BadInputError(
                f"{folder}: has no folder {missing[0]!r} in it; put {content.example} into one"
            )
        if not places:
            raise BadInputError(
                f"{folder}: has no folders in it; make one for the {content.what} of each class"
            )
        _require_no_splits(folder, places)
        of_class = {place.name: _files_of(place, walk) for place in places}
    files = [file for name in sorted(of_class) for file in of_class[name]]
    labels = [name for name in sorted(of_class) for _ in of_class[name]]
    return FolderFiles(files, [_told(file, folder) for file in files], labels, walk.reasons())


def _require_no_splits(folder: Path, places: Sequence[Path]) -> None:
    """BadInputError where the folders are those of splits, with classes in them: these would be the classes."""
    if all(
        place.name.lower() in SPLITS and any(entry.is_dir() for entry in place.iterdir()) for place in places
    ):
        given = " ".join(f"data.{SPLITS[place.name.lower()]}={place}" for place in places)
        raise BadInputError(f"{folder}: holds a folder for each split, not one for each class; write {given}")


def _files_of(place: Path, walk: _Walk) -> list[Path]:
    """Those of one class, at least one."""
    content = walk.content
    try:
        place.name.encode()
    except UnicodeEncodeError:
        name = _told(place, place.parent)
        raise BadInputError(
            f"{place.parent}: the folder {name} has a name that is no UTF-8; rename it"
        ) from None
    own = _Walk(content, seen=walk.seen, met=walk.met, of_class=place)
    files = sorted(own.files(place)) if own.enter(place) else []
    if not files:
        left_out = ", ".join(f"{reason}: {count}" for reason, count in own.reasons().items())
        raise BadInputError(
            f"{place}: no {content.what} in it{f' (left out: {left_out})' if left_out else ''}; put "
            f"{content.example} into it, or take the folder away"
        )
    walk.left_out += own.left_out
    walk.others += own.others
    return files


def any_files(place: Path, content: Content) -> FolderFiles:
    """One file, whatever its name, or all that lie in a folder, as ``class_files`` takes them; of no class."""
    if place.is_file():
        return FolderFiles([place], [_told(place, place.parent)], None, {})
    if not place.is_dir():
        raise BadInputError(f"{place}: no such file or folder; give a file, or a folder of {content.example}")
    with reading(place, "cannot be read", "make it readable"):
        walk = _Walk(content)
        walk.enter(place)
        files = sorted(walk.files(place))
    if not files:
        raise BadInputError(f"{place}: no {content.what} in it; put {content.example} into it")
    return FolderFiles(files, [_told(file, place) for file in files], None, walk.reasons())


def found_files(place: Path, content: Content, labelled: bool) -> FolderFiles:
    """Those of classes where they are ``labelled``, else whatever is there."""
    return class_files(place, content) if labelled else any_files(place, content)


def _told(file: Path, folder: Path) -> str:
    """A name from the folder on, as text also where it is none."""
    return os.fsencode(file.relative_to(folder).as_posix()).decode("utf-8", "backslashreplace")
