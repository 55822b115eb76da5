"""The tokens of texts that are read byte by byte, as a tokenizer.json: byte-level, without merges."""

import json
from functools import cache
from typing import Any

from compressm_cli.data.tokens import BYTE_VOCABULARY

PADDING = "<pad>"
"""What token 0 is called. It is no added token, so that these five signs in a text are their bytes."""


@cache
def byte_tokenizer() -> str:
    """The text of the tokenizer.json: each byte of the UTF-8 text is the token one more than its value."""
    vocabulary = {PADDING: 0} | {sign: byte + 1 for byte, sign in enumerate(_alphabet())}
    assert len(vocabulary) == BYTE_VOCABULARY, "every byte has a sign of its own"
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": [],
        },
    }
    return json.dumps(content, indent=1, ensure_ascii=False)


def _alphabet() -> list[str]:
    """The sign that stands for each byte in byte-level vocabularies (Radford et al. 2019): itself where it is seen."""
    seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]
