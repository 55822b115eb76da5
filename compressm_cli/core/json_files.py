"""JSON of others, read."""

import json
from pathlib import Path
from typing import Any

from compressm_cli.core.contents import found_instead
from compressm_cli.core.errors import BadInputError

MAX_JSON = 64 * 2**20
"""Bytes of a JSON file: an index of weights names each tensor."""


def read_json(path: Path) -> Any:
    """What a JSON file says; BadInputError where it is none, or larger than ``MAX_JSON``."""
    try:
        if not path.is_file():
            raise BadInputError(f"{path}: no such file")
        with path.open("rb") as file:
            data = file.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise BadInputError(f"{path}: larger than {MAX_JSON} bytes")
        return json.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from error
    except RecursionError as error:
        raise BadInputError(f"{path}: not usable JSON: nested too deep") from error
    except ValueError as error:
        raise BadInputError(f"{path}: not JSON: {found_instead(path) or str(error)[:200]}") from error
