"""How often two models predict the same class on the test rows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.modes import in_evaluation_mode
from compressm_cli.data.interface import CLASSES, Fingerprint, Split
from compressm_cli.engine.data_placement import placed
from compressm_cli.engine.oneshot import require_same_shape
from compressm_cli.engine.same_data import as_before
from compressm_cli.reports.arms import Arm, Member, common_seeds
from compressm_cli.reports.differences import other_data
from compressm_cli.reports.estimates import Estimate, mean

BATCH = 256


@dataclass(frozen=True)
class Agreement:
    """Share of test rows with the same predicted class as the baseline of the same seed."""

    share: Estimate | None
    by_seed: dict[int, float]
    reason: str | None
    """Why there is none."""


def prediction_agreement(arms: list[Arm], device: torch.device) -> list[Agreement | None]:
    """Agreement of each arm with the first one; None for the first one itself."""
    baseline, *others = arms
    said = _SaidClasses(device)
    return [None, *(_agreement(said, baseline, other) for other in others)]


def _agreement(said: "_SaidClasses", baseline: Arm, other: Arm) -> Agreement:
    for arm in (baseline, other):
        if arm.is_folder:
            return Agreement(None, {}, arm.members[0].unjudged)
    seeds = common_seeds(baseline, other)
    if not seeds:
        return Agreement(None, {}, "no seed in common")
    pairs = {seed: (baseline.by_seed[seed], other.by_seed[seed]) for seed in seeds}
    if any(other_data(one, two) for one, two in pairs.values()):
        return Agreement(None, {}, "the two were trained on different data")
    if unjudged := next((one.recipe.data.unjudged() for one, _ in pairs.values()), None):
        return Agreement(None, {}, unjudged)
    try:
        if any(member.checkpoint.data.targets for pair in pairs.values() for member in pair):
            return Agreement(None, {}, "the models say real numbers, not classes")
        shares = {seed: float((said(one) == said(two)).double().mean()) for seed, (one, two) in pairs.items()}
    except BadInputError as error:
        return Agreement(None, {}, str(error))
    return Agreement(mean(list(shares.values())), shares, None)


class _SaidClasses:
    """Predicted classes of a member on its test rows; data and predictions are made once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tests: dict[tuple[str, str | None], tuple[Fingerprint, Split]] = {}
        self._predictions: dict[int, Tensor] = {}

    def __call__(self, member: Member) -> Tensor:
        if id(member) not in self._predictions:
            model = member.checkpoint.build_model().to(self._device)
            self._predictions[id(member)] = _predict(model, self._test_rows(member))
        return self._predictions[id(member)]

    def _test_rows(self, member: Member) -> Split:
        task, known = member.recipe.data, member.fingerprint
        key = task.model_dump_json(), None if known is None else known.checksums.get(CLASSES)
        if key not in self._tests:
            dataset = as_before(known, task.dataset())
            self._tests[key] = dataset.fingerprint, placed([dataset.test], self._device).splits[0]
        now, rows = self._tests[key]
        if known is not None and (found := known.differences(now)):
            raise BadInputError(f"the data are no longer those of {member.path}: {'; '.join(found)}")
        require_same_shape(member.checkpoint, now.spec)
        return rows


@torch.inference_mode()
def _predict(model: nn.Module, rows: Split) -> Tensor:
    index = torch.arange(len(rows), device=rows.inputs.device)
    batches = (rows.rows(part) for part in index.split(BATCH))
    with in_evaluation_mode(model):
        return torch.cat(
            [model(batch.inputs, batch.lengths).argmax(dim=-1)[batch.scored] for batch in batches]
        )
