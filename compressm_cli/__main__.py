"""``python -m compressm_cli`` is the same as ``compressm``."""

import os
import sys
from contextlib import suppress
from pathlib import Path


def _leave_current_folder() -> None:
    """Import nothing from the current folder, which ``python -m`` puts first: neither modules nor entry points.

    Not where this package itself lies there.
    """
    if sys.flags.safe_path or not sys.path or Path(sys.path[0]) == Path(__file__).parents[1]:
        return
    with suppress(OSError):
        if sys.path[0] == "" or os.path.samefile(sys.path[0], os.curdir):
            del sys.path[0]


if __name__ == "__main__":
    _leave_current_folder()
    from compressm_cli.cli.main import main

    main()
