"""What a run says that cannot write its files, or that needs more memory than there is: one line, with what to do."""

import errno
import traceback

from compressm_cli.core.errors import CompressmError, RunFailedError, command
from compressm_cli.core.files import ADVICE
from compressm_cli.core.memory import is_out_of_memory
from compressm_cli.runs.folder import Run

SMALLER = (
    "lower train.batch_size, model.model_dim, model.depth or model.layer.state_dim, or raise train.accumulate; "
    "compressm train RECIPE --dry-run tells what a step needs"
)


def reason(error: BaseException) -> str:
    """Why something failed that is done without, in one line."""
    if isinstance(error, OSError):
        told = error.strerror or str(error) or type(error).__name__
        return f"{error.filename}: {told}" if error.filename else told
    if isinstance(error, CompressmError):
        return str(error)
    if isinstance(error, MemoryError) and not str(error):
        return "out of memory"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def out_of_memory(error: BaseException) -> str:
    """The line about it: what was asked for, as far as it is told, and what to lower."""
    first = (str(error).splitlines() or [""])[0].strip()
    detail = f" ({first})" if first else ""
    return f"out of memory{detail}; {SMALLER}"


def explained(error: Exception, run: Run) -> Exception:
    """A failure to write or to get memory as RunFailedError, with how to go on; any other error as it is."""
    if is_out_of_memory(error):
        # What the failed step held is let go: to tell of it takes memory, too.
        traceback.clear_frames(error.__traceback__)
        return RunFailedError(f"{out_of_memory(error)}. {_way_on(run, 'where there is more memory')}")
    # A pipe that nobody reads any more is none of the run's files.
    if isinstance(error, OSError) and error.errno != errno.EPIPE:
        where = error.filename or f"a log in {run.folder}"
        advice = ADVICE.get(error.errno or 0, "mend that")
        return RunFailedError(
            f"{where}: cannot be written: {error.strerror or error}; {advice}. {_way_on(run, 'then')}"
        )
    return error


def _way_on(run: Run, when: str) -> str:
    if run.is_done:
        return "The run is done; what it has written is whole"
    if (run.folder / "run.json").is_file():
        way_on = command("train", "--resume", run.folder)
        return f"Nothing written is lost; go on {when} with: {way_on}"
    return "Nothing was trained yet; give the same command again"
