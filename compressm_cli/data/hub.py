"""Published data sets: the user's copy, the local cache or the hub. The one place that uses the network."""

import os
import re
import ssl
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from compressm_cli.core.errors import BadInputError

SPLITS = ("train", "test")
HELD_OUT = 10
"""One in so many of the training rows is the validation split."""
REACH_SECONDS = 2.0
"""How long the hub may take to answer, names looked up and all."""
SPLIT_FILE = re.compile(
    r"(?:^|.*-)(?P<split>train|test)(?:-\d{5}-of-(?P<parts>\d{5}))?(?:-[0-9a-f]{8,})?\.(?P<kind>parquet|arrow)"
)


@dataclass(frozen=True)
class SplitSource:
    """Where one split lies: files of one kind, or a folder with one folder a class."""

    folder: Path
    files: list[Path] = field(default_factory=list)

    @property
    def builder(self) -> str:
        """What reads the files: ``parquet`` or ``arrow``."""
        return self.files[0].suffix[1:]

    def __str__(self) -> str:
        return ", ".join(str(f) for f in self.files) or str(self.folder)


def locate(repository: str, path: str | None, also: str = "") -> dict[str, SplitSource]:
    """Where the train and test splits of a published set lie on this machine, downloaded if need be.

    ``also`` is what else a folder may hold, for messages.

    Looks in ``path`` alone where one is given, else in the caches of the hub's libraries, then on the
    hub, which must answer within ``REACH_SECONDS``. Raises BadInputError, with how to supply the data.
    """
    if path is not None:
        return _in_folder(repository, Path(path), also)
    caches = _cache_folders(repository)
    for folder in caches:
        if found := _split_files(folder):
            return found[0]
    if problem := unreachable(repository):
        raise _not_at_hand(repository, caches, problem)
    return _downloaded(repository, caches)


def held_out_rows(rows: int) -> int:
    """How many of the training rows become the validation split: a tenth, at least one."""
    return max(1, rows // HELD_OUT)


def check_rows(repository: str, found: tuple[int, ...], published: tuple[int, ...]) -> None:
    """BadInputError unless a cached or downloaded set has all its rows."""
    if found != published:
        raise BadInputError(
            f"{repository}: train, validation and test have {found} rows instead of {published}; the copy in "
            "the cache is incomplete: remove it, or name another folder with data.path=DIR"
        )


def _in_folder(repository: str, folder: Path, also: str) -> dict[str, SplitSource]:
    if not folder.is_dir():
        raise BadInputError(f"data.path: {folder}: no such folder (paths start at {Path.cwd()})")
    found = _split_files(folder)
    if len(found) > 1:
        places = ", ".join(str(f["train"].folder) for f in found)
        raise BadInputError(f"data.path: {folder}: several copies of {repository}; name one of {places}")
    if found:
        return found[0]
    if all((folder / split).is_dir() for split in SPLITS):
        return {split: SplitSource(folder / split) for split in SPLITS}
    raise BadInputError(
        f"data.path: {folder}: no copy of {repository}; it needs train*.parquet and test*.parquet (all "
        f"parts), or the folders train and test with one folder a class in each{f', or {also}' if also else ''}"
    )


def _split_files(folder: Path) -> list[dict[str, SplitSource]]:
    """Each folder below (or this one) whose files make whole train and test splits; the newest first."""
    named: dict[tuple[Path, str], dict[str, list[tuple[Path, int]]]] = defaultdict(lambda: defaultdict(list))
    for file in sorted(folder.rglob("*")):
        if (match := SPLIT_FILE.fullmatch(file.name)) and file.is_file():
            parts = int(match["parts"] or 1)
            named[file.parent, match["kind"]][match["split"]].append((file, parts))
    whole = [
        {split: SplitSource(parent, [file for file, _ in files[split]]) for split in SPLITS}
        for (parent, _), files in named.items()
        if all(files[split] and len(files[split]) == files[split][0][1] for split in SPLITS)
    ]
    return sorted(whole, key=lambda found: found["train"].files[0].stat().st_mtime, reverse=True)


def _cache_folders(repository: str) -> list[Path]:
    """Where the hub's libraries keep this set: as downloaded, and as prepared by ``datasets``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{base}/huggingface"
    downloads = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    prepared = os.environ.get("HF_DATASETS_CACHE") or f"{home}/datasets"
    # As these libraries do; Path.expanduser raises where the user has no home.
    return [
        Path(os.path.expanduser(downloads)) / f"datasets--{repository.replace('/', '--')}" / "snapshots",
        Path(os.path.expanduser(prepared)) / repository.replace("/", "___"),
    ]


def unreachable(repository: str) -> str | None:
    """Why the hub cannot be asked, or None where it answers.

    In a thread of its own, since a look-up of a name heeds no timeout.
    """
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return f"{name} is set, so the hub was not asked"
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    problems = [f"no answer within {REACH_SECONDS:g} s"]

    def ask() -> None:
        try:
            _request(f"{endpoint}/api/datasets/{repository}")
            problems.clear()
        except Exception as error:
            problems.insert(0, str(getattr(error, "reason", None) or error) or type(error).__name__)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return f"the hub at {endpoint} cannot be reached ({problems[0]})" if problems else None


def _request(address: str) -> None:
    """Ask for an address; returns when it answers with success. Heeds the usual proxy variables."""
    from urllib.error import URLError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(address, method="HEAD"), timeout=REACH_SECONDS):
            pass
    except URLError as error:
        # It did answer; the library that downloads has certificates of its own, and the last word.
        if not isinstance(error.reason, ssl.SSLCertVerificationError):
            raise


def _downloaded(repository: str, caches: list[Path]) -> dict[str, SplitSource]:
    from datasets import load_dataset

    try:
        stored = load_dataset(repository)
        files = {split: [Path(file["filename"]) for file in stored[split].cache_files] for split in SPLITS}
    except Exception as error:
        detail = (str(error) or type(error).__name__).splitlines()[0]
        raise _not_at_hand(repository, caches, f"the download failed ({detail})") from error
    return {split: SplitSource(files[split][0].parent, files[split]) for split in SPLITS}


def _not_at_hand(repository: str, caches: list[Path], problem: str) -> BadInputError:
    looked = " and ".join(str(folder) for folder in caches)
    return BadInputError(
        f"data set {repository}: not at hand: there is no copy in {looked}, and {problem}. Supply it in one "
        f"of these ways: (1) where there is a network, run `hf download {repository} --repo-type dataset "
        "--local-dir DIR`, bring DIR here and write data.path=DIR; (2) set HF_HOME to a folder that has it "
        "in its cache. data.task=digits needs no network"
    )
