"""A model's tokenizer.json: its vocabulary and its rules alone."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from compressm_cli.core.contents import found_instead
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading
from compressm_cli.data.sources.packed import require_file
from compressm_cli.data.tokenizer_limits import require_modest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
"""What it is called in a model's folder."""
LARGEST = 64 * 2**20
"""Bytes of a tokenizer.json."""


def read_tokenizer(path: Path) -> str:
    """The text of a tokenizer.json, which is one; BadInputError naming the file otherwise."""
    _require_package()
    text = tokenizer_text(path)
    with reading(path, "not a tokenizer.json", found_instead(path) or "correct data.tokenizer"):
        _parsed(text)
    return text


def tokenizer_text(path: Path) -> str:
    """The same, where it is not known to be one before it is used."""
    if path.exists():
        require_file(path)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror}); correct the path") from error
    if len(content) > LARGEST:
        raise BadInputError(
            f"{path}: more than {LARGEST:,} bytes, as no tokenizer.json has; correct the path"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: not a UTF-8 text ({found_instead(path) or error})") from error


def known_tokenizer(text: str) -> "Tokenizer":
    """The tokenizer that a tokenizer.json describes, as it makes tokens of a whole text.

    How long rows were cut and padded to in another training, and at what rate merges were left out at random, is no
    part of it. Normalizers, added tokens and what is done with unknown words are. Raises BadInputError where the
    package is not there, or the text describes none.
    """
    with reading(TOKENIZER, "describes no tokenizer", "put the whole file beside the model"):
        return _parsed(text)


@lru_cache(maxsize=4)
def _parsed(text: str) -> "Tokenizer":
    package = _require_package()
    require_modest(text)
    known = package.from_str(text)
    known.no_truncation()
    known.no_padding()
    if getattr(known.model, "dropout", None) is not None:
        known.model.dropout = None
    return known


def _require_package() -> "type[Tokenizer]":
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise BadInputError(
            "a tokenizer.json needs the package tokenizers; install it with: pip install 'compressm[export]'"
        ) from error
    return Tokenizer
