"""Seeds as a command line gives them: ``0,1,2``, ``0..4``, or both."""

import re

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import shorten

PART = re.compile(r"(\d{1,10})(?:\.\.(\d{1,10}))?")
MOST_SEEDS = 1000
EXAMPLES = "write numbers and ranges from 0 to 2147483647, such as 0,1,2 or 0..4"


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """``0..2,7`` -> 0, 1, 2, 7: a range has both its ends. BadInputError, which names ``option``, for what is none."""
    seeds: list[int] = []
    for part in text.split(","):
        found = PART.fullmatch(part.strip())
        if found is None:
            raise BadInputError(f"{option}: {shorten(part)} is no seed; {EXAMPLES}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last >= 2**31:
            raise BadInputError(f"{option}: {last} is too large; {EXAMPLES}")
        if last < first:
            raise BadInputError(f"{option}: {part.strip()} goes backwards; write {last}..{first}")
        if last - first >= MOST_SEEDS - len(seeds):
            raise BadInputError(f"{option}: {text} has more than {MOST_SEEDS} seeds")
        seeds += range(first, last + 1)
    repeated = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if repeated is not None:
        raise BadInputError(f"{option}: {repeated} is there twice; write each seed once")
    return seeds
