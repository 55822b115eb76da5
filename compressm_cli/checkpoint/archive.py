"""Archives of ``torch.save``, looked through before PyTorch reads them.

``weights_only`` keeps a file from running code, but PyTorch trusts what a file says of its sizes: a storage that is
longer than its bytes is read past their end, and a tensor longer than its storage makes room for itself. So the zip
directory and the pickled description are checked first, without building anything that they describe.
"""

import os
import pickletools
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from compressm_cli.core.contents import found_instead
from compressm_cli.core.text import shorten

MAX_ENTRIES = 200_000
MAX_DESCRIPTION = 64 * 2**20
"""Bytes of the pickled description: names, numbers, shapes."""
MAX_OPERATIONS = 10_000_000
MAX_CONTAINERS = 100_000
CONTAINERS_A_TENSOR = 10
"""Lists, tuples and mappings: so many, and more with each tensor that is stored."""
MAX_DEPTH = 50
MAX_DIMENSIONS = 16
MAX_TEXT = 64 * 2**20
"""Characters of a text: a tokenizer.json is one."""
SHARED = 2
"""Tensors may claim so many times the bytes that are stored: a tied head is there twice."""

ITEM_BYTES = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8, "IntStorage": 4,
    "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip
DESCRIPTION = "data.pkl"
END, END_BYTES = b"PK\x05\x06", 18
"""How the last record of an archive begins, and what follows in it."""
PLAIN_ENTRIES = {
    DESCRIPTION, "byteorder", "version", ".format_version", ".storage_alignment", ".data/serialization_id",
}  # fmt: skip


MARK = b"PK"
"""How an archive begins."""


class ArchiveError(ValueError):
    """What is wrong with an archive, as one clause."""


_DAMAGE = (
    OSError, ValueError, ArithmeticError, LookupError, EOFError, RuntimeError, struct.error, zipfile.BadZipFile
)  # fmt: skip
"""What reading a damaged archive raises; NotImplementedError is a RuntimeError."""


def read_archive(path: Path) -> Any:
    """What ``torch.save`` wrote to a file: plain containers, text, numbers, and tensors on the CPU.

    Raises ArchiveError where it is no such archive, is damaged, claims more than it holds, or holds anything else,
    and FileNotFoundError.
    """
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ArchiveError(shorten_line(error)) from error


def check_archive(path: Path) -> None:
    """Read a file through: its directory, its checksums, its description. Raises ArchiveError as above."""
    try:
        # Opening a pipe would wait for its writer.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError("it is not a file")
        with zipfile.ZipFile(path) as archive:
            entries = _directory(archive, status.st_size)
            damaged = archive.testzip()
            if damaged is not None:
                raise ArchiveError(f"the checksum of {shorten(damaged)[1:-1]} is wrong")
            _Description(entries).check(archive.read(entries[DESCRIPTION]))
    except (ArchiveError, FileNotFoundError):
        raise
    except _DAMAGE as error:
        raise ArchiveError(found_instead(path) or _told(path, error)) from error


def _told(path: Path, error: BaseException) -> str:
    """What is wrong; of what has no directory, whether it began as an archive."""
    if not isinstance(error, zipfile.BadZipFile) or zipfile.is_zipfile(path):
        return shorten_line(error)
    with path.open("rb") as file:
        began = file.read(len(MARK)) == MARK
    return "it is cut short" if began else "torch.save wrote no such file; give a checkpoint (.pt), or a run"


def shorten_line(error: BaseException) -> str:
    """The first line of an error, not longer than a line."""
    line = (str(error).splitlines() or [""])[0]
    return (line if len(line) <= 200 else f"{line[:196]} ...") or type(error).__name__


def _directory(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The entries by their name within the archive's one folder; each is stored as it is, and none overlaps."""
    found = archive.infolist()
    if not 1 <= len(found) <= MAX_ENTRIES:
        raise ArchiveError(f"it has {len(found)} entries")
    entries: dict[str, zipfile.ZipInfo] = {}
    folder = found[0].filename.partition("/")[0]
    for info in found:
        first, _, name = info.filename.partition("/")
        if first != folder or not (name in PLAIN_ENTRIES or _is_storage(name)):
            raise ArchiveError(f"the entry {shorten(info.filename)} is none of torch.save's")
        if name in entries:
            raise ArchiveError(f"the entry {shorten(info.filename)} is there twice")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ArchiveError(
                f"the entry {shorten(info.filename)} is compressed, which torch.save never does"
            )
        entries[name] = info
    end = 0
    for info in sorted(found, key=lambda i: i.header_offset):
        if info.header_offset < end:
            raise ArchiveError(f"the entry {shorten(info.filename)} overlaps another one")
        end = info.header_offset + info.file_size
    # Where another program could find another directory than the one that was looked at.
    if end > size or not _ends_file(archive) or min(i.header_offset for i in found) != 0:
        raise ArchiveError("its directory does not fit the file")
    if DESCRIPTION not in entries:
        raise ArchiveError(f"it has no {DESCRIPTION}; only what torch.save writes can be read")
    if entries[DESCRIPTION].file_size > MAX_DESCRIPTION:
        raise ArchiveError(
            f"its {DESCRIPTION} has {entries[DESCRIPTION].file_size} bytes; at most {MAX_DESCRIPTION}"
        )
    return entries


def _ends_file(archive: zipfile.ZipFile) -> bool:
    """Whether the record at the end of the directory, without a comment, is the end of the file."""
    assert archive.fp is not None
    archive.fp.seek(-len(END) - END_BYTES, os.SEEK_END)
    return archive.fp.read(len(END)) == END


def _is_storage(name: str) -> bool:
    number = name.removeprefix("data/")
    return number != name and number.isascii() and number.isdigit() and len(number) <= 20


@dataclass(frozen=True)
class _Global:
    """A name of the pickle; nothing of that name is ever looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str
    items: int


@dataclass(frozen=True)
class _Tensor:
    """Stands for a tensor."""

    bytes: int


class _Ordered(dict[Any, Any]):
    """Stands for an OrderedDict."""


_MARK = object()


@dataclass
class _Description:
    """Follows a pickle with stand-ins for its tensors; anything that torch.save does not write of them is refused."""

    entries: dict[str, zipfile.ZipInfo]
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    containers: int = 0

    def check(self, pickled: bytes) -> None:
        """Raises ArchiveError, or ValueError or IndexError for what is no pickle."""
        count = 0
        for count, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
            if count > MAX_OPERATIONS:
                raise ArchiveError(f"its {DESCRIPTION} is too long")
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise ArchiveError(f"its {DESCRIPTION} uses {opcode.name}, which torch.save never does")
            action(self, argument)
        (root,) = self.stack
        claimed = _followed(root, 2 * count + 1000)
        stored = sum(info.file_size for name, info in self.entries.items() if _is_storage(name))
        if claimed > SHARED * stored + 2**20:
            raise ArchiveError(f"its tensors claim {claimed} bytes, and {stored} are stored")

    def make(self, container: Any) -> None:
        self.containers += 1
        if self.containers > MAX_CONTAINERS + CONTAINERS_A_TENSOR * len(self.entries):
            raise ArchiveError(
                f"its {DESCRIPTION} has more lists and mappings than {len(self.entries)} entries need"
            )
        self.stack.append(container)

    def since_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ArchiveError(f"its {DESCRIPTION} is damaged")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def tuple_of(self, count: int) -> None:
        items = self.stack[-count:]
        if len(items) < count:
            raise ArchiveError(f"its {DESCRIPTION} is damaged")
        del self.stack[-count:]
        self.make(tuple(items))

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ArchiveError(f"its {DESCRIPTION} is damaged: items without a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if type(self.stack[-1]) not in (dict, _Ordered) or len(items) % 2:
            raise ArchiveError(f"its {DESCRIPTION} is damaged: keys without a mapping")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # A key of nested tuples would be hashed to any depth.
            if type(key) not in (str, int):
                raise ArchiveError(f"its {DESCRIPTION} has a key that is neither text nor a whole number")
            self.stack[-1][key] = value

    def text(self, value: str) -> None:
        if len(value) > MAX_TEXT:
            raise ArchiveError(f"its {DESCRIPTION} has a text of {len(value)} characters; at most {MAX_TEXT}")
        self.stack.append(value)

    def persistent(self, _: Any) -> None:
        known = self.stack.pop()
        if not (isinstance(known, tuple) and len(known) == 5 and known[0] == "storage"):
            raise ArchiveError(f"its {DESCRIPTION} refers to something that is no storage")
        _, kind, key, _, items = known
        name = kind.name.removeprefix("torch.") if isinstance(kind, _Global) else ""
        if name not in ITEM_BYTES or type(key) is not str or type(items) is not int:
            raise ArchiveError(f"its {DESCRIPTION} has a storage of a kind that cannot be read")
        entry = self.entries.get(f"data/{key}")
        if (
            entry is None
            or items * ITEM_BYTES[name] != entry.file_size
            or self.kinds.setdefault(key, name) != name
        ):
            held = "nothing" if entry is None else f"{entry.file_size} bytes"
            raise ArchiveError(
                f"the storage {shorten(key)} claims {shorten(items)} items of {name}, and holds {held}"
            )
        self.stack.append(_Storage(key, name, items))

    def reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        name = function.name if isinstance(function, _Global) else ""
        if not isinstance(arguments, tuple):
            raise ArchiveError(f"its {DESCRIPTION} is damaged: a call without arguments")
        if name == "collections.OrderedDict" and not arguments:
            self.make(_Ordered())
        elif name == "torch._utils._rebuild_tensor_v2" and len(arguments) == 6:
            self.stack.append(self.tensor(*arguments[:4]))
        elif (
            name == "torch._utils._rebuild_parameter"
            and len(arguments) == 3
            and type(arguments[0]) is _Tensor
        ):
            self.stack.append(arguments[0])
        else:
            raise ArchiveError(
                f"its {DESCRIPTION} calls {shorten(name)[1:-1] or 'something'}; only tensors are read"
            )

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> _Tensor:
        numbers = (
            (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else (None,)
        )
        fits = isinstance(storage, _Storage) and all(type(n) is int and n >= 0 for n in numbers)
        if not fits or len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise ArchiveError(f"its {DESCRIPTION} has a tensor of no shape")
        items = 1
        for length in size:
            items *= length
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if items and (items > storage.items or last >= storage.items):
            raise ArchiveError(
                f"a tensor of the shape {shorten(size)} claims more than the {storage.items} numbers that are stored"
            )
        return _Tensor(items * ITEM_BYTES[storage.kind])

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        # What state_dict() adds to an OrderedDict; any other attribute could take the place of a method.
        if type(self.stack[-1]) is not _Ordered or type(state) is not dict or set(state) - {"_metadata"}:
            raise ArchiveError(f"its {DESCRIPTION} sets attributes; only tensors are read")

    def name(self, argument: str) -> None:
        self.stack.append(_Global(argument.replace(" ", ".", 1)))

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise ArchiveError(f"its {DESCRIPTION} is damaged: it refers to nothing")
        self.stack.append(self.memo[place])

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]


def _followed(root: Any, most: int) -> int:
    """Bytes of all tensors, counted each time that one is met.

    Refuses what is nested deeply, or by repetition grows to more than ``most`` values when it is followed.
    """
    waiting, seen, claimed = [(root, 0)], 0, 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > MAX_DEPTH or seen > most:
            raise ArchiveError(f"its {DESCRIPTION} is nested too deep or too often")
        if isinstance(value, dict):
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, (list, tuple)):
            waiting += [(item, depth + 1) for item in value]
        elif isinstance(value, _Tensor):
            claimed += value.bytes
        elif isinstance(value, (_Global, _Storage)) or value is _MARK:
            raise ArchiveError(f"its {DESCRIPTION} holds something else than tensors and plain values")
    return claimed


Action = Callable[[_Description, Any], None]


def _ignore(_: _Description, __: Any) -> None:
    """A frame of the pickle that carries no value."""


def _constant(value: Any) -> Action:
    return lambda described, _: described.stack.append(value)


def _popped(described: _Description, count: int) -> list[Any]:
    items = described.stack[-count:]
    del described.stack[-count:]
    return items


_ACTIONS: dict[str, Action] = {
    "PROTO": _ignore,
    "STOP": _ignore,
    "MARK": _constant(_MARK),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), lambda d, value: d.stack.append(value)
    ),
    "BINUNICODE": _Description.text,
    "EMPTY_DICT": lambda d, _: d.make({}),
    "EMPTY_LIST": lambda d, _: d.make([]),
    "EMPTY_TUPLE": lambda d, _: d.make(()),
    "TUPLE": lambda d, _: d.make(tuple(d.since_mark())),
    "TUPLE1": lambda d, _: d.tuple_of(1),
    "TUPLE2": lambda d, _: d.tuple_of(2),
    "TUPLE3": lambda d, _: d.tuple_of(3),
    "APPEND": lambda d, _: d.append(_popped(d, 1)),
    "APPENDS": lambda d, _: d.append(d.since_mark()),
    "SETITEM": lambda d, _: d.set_items(_popped(d, 2)),
    "SETITEMS": lambda d, _: d.set_items(d.since_mark()),
    "BINPUT": _Description.remember,
    "LONG_BINPUT": _Description.remember,
    "BINGET": _Description.recall,
    "LONG_BINGET": _Description.recall,
    "GLOBAL": _Description.name,
    "REDUCE": _Description.reduce,
    "BINPERSID": _Description.persistent,
    "BUILD": _Description.build,
}
"""What to do at each opcode; those of protocol 2 that PyTorch's own reader knows, and no others."""
