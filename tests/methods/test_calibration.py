"""What is learned of calibration batches does not depend on the parts they come in, nor on padding."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from layer_kinds import TIME_INVARIANT
from selective_cases import CASES, build
from torch import Tensor, nn

from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.engine.evaluation import calibrate
from compressm_cli.layers import LAYERS
from compressm_cli.layers.selective import HeadProjection
from compressm_cli.layers.time_invariant import StateProjection
from compressm_cli.measure.memory import _LiveTensors
from compressm_cli.methods.calibration import OnCpu, Statistic
from compressm_cli.methods.hankel.empirical import StateCovariance
from compressm_cli.methods.hankel.method import Hankel, HankelConfig
from compressm_cli.methods.hankel.selective.channel import ChannelReduction
from compressm_cli.methods.hankel.selective.distill import AllInputs
from compressm_cli.methods.hankel.selective.excerpt import MOST_STEPS, Excerpt
from compressm_cli.methods.hankel.selective.group import GroupReduction
from compressm_cli.methods.hankel.selective.vector import VectorReduction
from compressm_cli.methods.method import CheckContext
from compressm_cli.models import build_model
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.structure.plan import Plan
from compressm_cli.structure.projection import Project

WIDTH, ORDER, LENGTH = 8, 6, 12
ROWS = [5, 4]
"""Of two batches."""

Show = Callable[[Mapping[str, Statistic]], None]
FAMILIES = {"mamba": ChannelReduction, "mamba2": GroupReduction, "gla": VectorReduction}
VARIANTS = [(case, variant) for case, family in FAMILIES.items() for variant in family.variants]


def layer_of(kind: str) -> Any:
    """In float64."""
    if kind in CASES:
        return build(kind, model_dim=WIDTH)
    torch.manual_seed(0)
    options = {"r_min": 0.3, "r_max": 0.9} if kind == "lru" else {"dt_min": 0.1, "dt_max": 0.5}
    return LAYERS[kind](LAYERS[kind].Config(kind=kind, **options), WIDTH, ORDER).double()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


BATCHES = [noise(rows, LENGTH, WIDTH, seed=seed) for seed, rows in enumerate(ROWS)]
LENGTHS = [torch.tensor([12, 3, 7, 5, 1]), torch.tensor([4, 12, 9, 2])]


def shown(rows: int, lengths: list[Tensor | None] | None = None) -> Show:
    """The batches in parts of so many rows."""

    def show(statistics: Mapping[str, Statistic]) -> None:
        for u, own in zip(BATCHES, lengths or [None] * len(BATCHES), strict=True):
            parts = zip(u.split(rows), [None] * len(u) if own is None else own.split(rows), strict=False)
            for part, each in parts:
                for statistic in statistics.values():
                    statistic.update(part, each)
            for statistic in statistics.values():
                statistic.end_batch()

    return show


def shown_without_padding(statistics: Mapping[str, Statistic]) -> None:
    """Each row by itself, as long as it is."""
    for u, lengths in zip(BATCHES, LENGTHS, strict=True):
        for row, length in zip(u, lengths, strict=True):
            for statistic in statistics.values():
                statistic.update(row[None, :length], None)
        for statistic in statistics.values():
            statistic.end_batch()


def plan(kind: str, show: Show, **settings: Any) -> Plan:
    model = nn.ModuleDict({"layer": layer_of(kind)})
    context = CheckContext(
        1, 1, LENGTH, torch.Generator().manual_seed(0), lambda statistics, _: show(statistics)
    )
    config = HankelConfig(method="hankel", keep_fraction=0.5, **settings)
    return Hankel(config).plan(model, context)


def numbers(found: Plan) -> dict[str, Any]:
    """What a plan for one layer says in numbers; of distilled values their error."""
    (edit,), (record,) = found.edits, found.records
    assert isinstance(edit, Project)
    projections = edit.projections if isinstance(edit.projections, list) else [edit.projections]
    return {
        "hsv": torch.tensor(record.details["hsv"]),
        "errors": [record.details["measured_error"], record.details["predicted_error"]],
        "projections": [there_and_back(p) for p in projections],
    }


def there_and_back(found: Any) -> Tensor:
    """Old states from new ones from old ones: the sign, phase or scale of a new state is not in it."""
    if isinstance(found, StateProjection):
        return found.lift @ found.restrict + found.lift_conj @ found.restrict_conj.conj()
    if isinstance(found, HeadProjection):
        return found.to_output.mT @ torch.eye(ORDER, dtype=torch.float64)[found.keep]
    return found.to_output.mT @ found.to_input


def assert_same(one: Plan, other: Plan) -> None:
    torch.testing.assert_close(numbers(one), numbers(other), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("kind", [*TIME_INVARIANT, *CASES])
@pytest.mark.parametrize("rows", [1, 2])
def test_parts_of_a_batch_come_to_what_the_batch_does(kind: str, rows: int) -> None:
    settings = {"distill_steps": 4} if kind in CASES else {}
    assert_same(plan(kind, shown(rows), **settings), plan(kind, shown(max(ROWS)), **settings))


@pytest.mark.parametrize("kind", [*TIME_INVARIANT, *CASES])
@pytest.mark.parametrize("rows", [2, 5])
def test_padding_does_not_count(kind: str, rows: int) -> None:
    settings = {"distill_steps": 4} if kind in CASES else {}
    padded = plan(kind, shown(rows, list(LENGTHS)), **settings)
    assert_same(padded, plan(kind, shown_without_padding, **settings))
    with pytest.raises(AssertionError):
        assert_same(padded, plan(kind, shown(rows), **settings))


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_padding_does_not_count_in_either_realization(realization: str) -> None:
    padded = plan("lru", shown(5, list(LENGTHS)), realization=realization)
    assert_same(padded, plan("lru", shown_without_padding, realization=realization))


@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_padding_does_not_count_in_any_variant(case: str, variant: str) -> None:
    padded = plan(case, shown(5, list(LENGTHS)), variant=variant)
    assert_same(padded, plan(case, shown_without_padding, variant=variant))


def test_lengths_that_are_all_full_change_nothing() -> None:
    full = [torch.full((rows,), LENGTH) for rows in ROWS]
    for kind in ("lru", "mamba"):
        one, other = numbers(plan(kind, shown(5, [*full]))), numbers(plan(kind, shown(5)))
        torch.testing.assert_close(one, other, rtol=0.0, atol=0.0)


# ---- what is kept --------------------------------------------------------------------------------------


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    config = SequenceConfig(layer={"kind": kind, "state_dim": ORDER}, model_dim=16, depth=3)
    return build_model(config, DataSpec(classes=4, length=64, features=1))


def statistic_of(kind: str, layer: Any) -> Statistic:
    return StateCovariance(layer.systems(), layer.system_inputs) if kind == "lru" else Excerpt()


@pytest.mark.parametrize("kind", ["lru", "mamba"])
def test_memory_grows_neither_with_the_batch_nor_with_their_number(kind: str) -> None:
    peaks = []
    for rows, count in ((80, 1), (320, 1), (80, 5)):
        model = model_of(kind)
        statistics = {f"blocks.{i}.layer": statistic_of(kind, model.blocks[i].layer) for i in range(3)}
        batches = [
            Split(torch.randn(rows, 64, 1), torch.zeros(rows, dtype=torch.int64)) for _ in range(count)
        ]
        with _LiveTensors([*model.parameters(), *(b.inputs for b in batches)]) as live:
            calibrate(model, statistics, iter(batches), 4)
        peaks.append(live.peak)
    # A batch's row numbers are there whole.
    assert max(peaks) <= min(peaks) + 8 * 320
    whole = 4 * 320 * 64 * 16
    assert max(peaks) < (whole if kind == "lru" else whole + 3 * 4 * MOST_STEPS * 16)


def test_an_excerpt_is_the_first_rows() -> None:
    found = Excerpt()
    for seed in range(4):
        found.update(noise(5, MOST_STEPS // 8, 2, seed=seed), None)
    assert [rows.u.shape[0] for rows in found.result()] == [5, 3]
    assert sum(rows.u.untyped_storage().nbytes() for rows in found.result()) == 8 * 2 * MOST_STEPS
    torch.testing.assert_close(found.result()[1].u, noise(5, MOST_STEPS // 8, 2, seed=1)[:3])


@pytest.mark.parametrize("rows", [1, 2, 6])
def test_an_excerpt_does_not_depend_on_the_parts(rows: int) -> None:
    """Nor does it take a short row behind one that no longer fits."""
    lengths = torch.tensor([MOST_STEPS - 10, 4, 20, 1, 1, 1])
    u = noise(6, MOST_STEPS, 1)
    found = Excerpt()
    for part, own in zip(u.split(rows), lengths.split(rows), strict=True):
        found.update(part, own)
    assert [int(n) for r in found.result() if r.lengths is not None for n in r.lengths] == [
        MOST_STEPS - 10,
        4,
    ]


def test_an_excerpt_has_at_least_one_row() -> None:
    found = Excerpt()
    found.update(noise(3, MOST_STEPS + 1, 1), None)
    found.update(noise(3, MOST_STEPS + 1, 1), None)
    assert [rows.u.shape for rows in found.result()] == [(1, MOST_STEPS + 1, 1)]


@pytest.mark.parametrize("statistic", [Excerpt(), AllInputs(), StateCovariance([], lambda _: [])])
def test_nothing_seen_is_no_result(statistic: Statistic) -> None:
    statistic.end_batch()
    with pytest.raises(ValueError, match="there are no calibration batches"):
        statistic.result()


def test_a_statistic_on_the_cpu_is_told_all() -> None:
    inner = AllInputs()
    outer = OnCpu(inner)
    outer.update(BATCHES[0], LENGTHS[0])
    outer.end_batch()
    outer.update(BATCHES[1], None)
    (first,), (second,) = outer.result()
    assert torch.equal(first.u, BATCHES[0])
    assert torch.equal(first.lengths, LENGTHS[0])
    assert (second.lengths, inner.seconds > 0) == (None, True)
