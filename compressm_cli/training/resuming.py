"""Which checkpoint a run goes on from."""

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.errors import BadInputError
from compressm_cli.run import Run
from compressm_cli.training.view import View


def outline_of(checkpoint: Checkpoint | None) -> Checkpoint | None:
    """What the processes beside the main one need of a checkpoint: they get the tensors where they take them over."""
    return None if checkpoint is None else checkpoint.outline()


def newest_checkpoint(run: Run, view: View) -> Checkpoint | None:
    """The newest checkpoint that a run can go on from, with a warning for each newer one that is unusable.

    None where the run has not written one yet. BadInputError where it has, and none can be used: beginning
    again would replace what is left of it.
    """
    saved = run.last_checkpoints()
    reasons = []
    for path in reversed(saved):
        try:
            checkpoint = Checkpoint.load(path)
            if checkpoint.training is None:
                raise BadInputError(f"{path}: this checkpoint has no state of training")
        except BadInputError as error:
            reasons.append(str(error))
            continue
        for reason in reasons:
            view.message(f"warning: {reason}; going on from {path.name}")
        return checkpoint
    if reasons:
        raise BadInputError(
            f"{'; '.join(reasons)}. The run cannot go on from any checkpoint; delete {run.checkpoints}/last-*.pt "
            "to begin it again from step 0"
        )
    return None
