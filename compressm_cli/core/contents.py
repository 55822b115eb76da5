"""What a file is that is not what its name says, from its first bytes."""

from pathlib import Path

LOOKED_AT = 512
KNOWN: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "it is a git-lfs pointer, not the file itself; get that with: git lfs pull"),
    (
        b"\x80",
        "it is an old pickle, which can run code when it is read; save it anew with torch.save",
    ),
    (b"\xff\xfe", "it is a text in UTF-16; save it in UTF-8"),
    (b"\xfe\xff", "it is a text in UTF-16; save it in UTF-8"),
    (b"\x1f\x8b", "gzip has packed it; unpack it with: gunzip"),
    (b"<", "it is a page of the web, not the file itself; get that again"),
)
"""How contents begin, without blanks, and what they are."""


def found_instead(path: Path) -> str | None:
    """What an unreadable file really is, and what to do, as a clause; None where nothing is known."""
    try:
        with path.open("rb") as file:
            start = file.read(LOOKED_AT)
    except OSError:
        return None
    if not start:
        return "it is empty"
    if start[4:8] == bytes(4):  # a safetensors file begins with a number that may look like a mark
        return None
    return next((told for mark, told in KNOWN if start.lstrip().startswith(mark)), None)
