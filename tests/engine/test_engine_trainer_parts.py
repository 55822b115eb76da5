"""What the trainer is made of: each part by itself, and that none reaches into another."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from compressm_cli import engine
from compressm_cli.engine import listeners as listeners_module
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.divergence import Rollbacks
from compressm_cli.engine.evaluation import Evaluation
from compressm_cli.engine.ledger import Ledger
from compressm_cli.engine.listeners import Listeners
from compressm_cli.engine.view import SilentView, Verdict
from compressm_cli.recipe.schema import RollBackConfig
from compressm_cli.runs.folder import Run
from compressm_cli.structure.plan import UnitRecord

PARTS = ("checks", "ledger", "listeners", "loop", "saving", "train_state", "trial", "validation")
BEFORE, AFTER = (Evaluation(1.0, {"accuracy": accuracy}, rows=10, labels=10) for accuracy in (0.5, 0.25))


@pytest.mark.parametrize("name", PARTS)
def test_no_part_reaches_into_another(name: str) -> None:
    path = Path(engine.__file__).with_name(f"{name}.py")
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    reached = [n for n in nodes if isinstance(n, ast.Attribute) and re.match("_[^_]", n.attr)]
    assert reached
    own = {"self", "cls"}
    assert [
        f"{n.lineno}: {ast.unparse(n)}"
        for n in reached
        if not (isinstance(n.value, ast.Name) and n.value.id in own)
    ] == []


# ---- ledger --------------------------------------------------------------------------------------------


def measures(step: int) -> dict[str, Any]:
    return {"step": step, "inference": 1, "parameters": 1, "orders": {"layer": step}, "forms": {}}


@pytest.fixture
def ledger(tiny: Any) -> Ledger:
    """Of a run that was cut once, after two logged windows."""
    made = Ledger(tiny(), 0, torch.device("cpu"), Group())
    made.begin()
    made.segment(measures(8))
    made.flops.step(10)
    made.add_window(0.5)
    made.add_window(0.7)
    made.add_evaluation(10, BEFORE)
    assert made.improve(10, BEFORE)
    return made


def kept(ledger: Ledger) -> dict[str, Any]:
    """What it would give to a checkpoint, without what the clock decides."""
    state = ledger.state_dict([ledger.process_state()])
    return {name: value for name, value in state.items() if name not in ("clock", "joules")}


def test_a_cut_that_is_undone_leaves_its_count_and_what_it_cost(ledger: Ledger) -> None:
    before = kept(ledger)
    windows = ledger.add_cut()
    ledger.segment(measures(3))
    ledger.flops.step(5)
    ledger.add_window(0.1)
    ledger.add_evaluation(15, AFTER)
    ledger.undo_cut(10, BEFORE, windows)
    ledger.segment(measures(8))
    cost = {"total": 10 * 8 + 5 * 3, "per_step": 8}
    counts = {"made": 0, "cut": 1, "rejected": 1}
    windows_now = {"start": [0.5, 0.7], "final": [0.5, 0.7]}
    assert kept(ledger) == {**before, "flops": cost, "counts": counts, "windows": windows_now}
    assert ledger.evaluation(10) == BEFORE
    assert ledger.evaluation(15) is None


def test_the_best_is_the_first_of_equals(ledger: Ledger) -> None:
    assert not ledger.improve(20, BEFORE)
    assert ledger.best == {"value": 0.5, "step": 10}


def test_a_ledger_goes_on_from_its_state(tiny: Any, ledger: Ledger) -> None:
    ledger.add_cut()
    state = ledger.state_dict([ledger.process_state()])
    other = Ledger(tiny(), 0, torch.device("cpu"), Group())
    other.begin()
    other.load_state_dict(state)
    assert kept(other) == kept(ledger)
    again = other.state_dict([other.process_state()])
    assert all(again["clock"][name] >= state["clock"][name] for name in ("total", "compile"))
    assert len(again["joules"]) == len(state["joules"]) + 1


def test_going_back_costs_what_was_spent(ledger: Ledger) -> None:
    state = ledger.state_dict([ledger.process_state()])
    ledger.add_cut()
    ledger.flops.step(7)
    ledger.add_evaluation(17, AFTER)
    ledger.improve(17, Evaluation(1.0, {"accuracy": 0.9}, rows=10, labels=10))
    ledger.go_back(state)
    assert ledger.counts["cut"] == 0
    assert ledger.evaluation(10) == BEFORE
    assert ledger.flops.total == (10 + 7) * 8
    assert ledger.best == {"value": 0.9, "step": 17}


# ---- listeners -----------------------------------------------------------------------------------------


class Told(SilentView):
    def __init__(self) -> None:
        self.verdicts: list[tuple[int, Verdict]] = []

    def compression(self, step: int, records: list[UnitRecord], verdict: Verdict) -> None:
        self.verdicts.append((step, verdict))


@pytest.fixture
def rollbacks() -> Rollbacks:
    return Rollbacks(RollBackConfig(action="roll_back", lr_factor=0.5))


@pytest.fixture
def told(tmp_path: Path, rollbacks: Rollbacks) -> Listeners:
    return Listeners(Run.create(tmp_path, "told"), Told(), [], rollbacks, Group())


RECORDS = [UnitRecord("a:states", "state", 8, 5, "cut"), UnitRecord("b:states", "state", 8, 8, "nothing cut")]


@pytest.mark.parametrize(
    ("verdict", "accepted"), [("nothing", None), ("applied", True), ("accepted", True), ("rejected", False)]
)
def test_a_verdict_is_logged_under_the_step_of_its_cut(
    told: Listeners, verdict: Verdict, accepted: bool | None
) -> None:
    told.compression(12, RECORDS, verdict, of_step=7)
    first, second = told.run.read_compression()
    assert first == {"step": 7, **RECORDS[0].line(), "accepted": accepted}
    assert second == {"step": 7, **RECORDS[1].line(), "accepted": None}
    assert told.view.verdicts == [(12, verdict)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("verdict", ["trial", "undone"])
def test_what_is_no_verdict_is_shown_alone(told: Listeners, verdict: Verdict) -> None:
    assert verdict not in listeners_module.ACCEPTED
    told.compression(12, RECORDS, verdict)
    assert told.run.read_compression() == []
    assert told.view.verdicts == [(12, verdict)]  # type: ignore[attr-defined]


def test_what_is_forgotten_and_what_stays(told: Listeners, rollbacks: Rollbacks) -> None:
    for step in (2, 4, 6):
        told.steps({"step": step, "train_loss": 1.0})
        told.compression(step, RECORDS[:1], "applied")
    rollbacks.add(6, 4, "the loss became nan")
    told.forget_after(4, undecided=4)
    told.rolled_back(4)  # once more: it is logged already
    metrics = told.run.read_metrics()
    assert [line["step"] for line in metrics] == [2, 4, 4]
    assert (metrics[-1]["rollback"], metrics[-1]["from_step"]) == (1, 6)
    assert [line["step"] for line in told.run.read_compression()] == [2]
    told.forget_after(2)
    assert [(line["step"], line.get("rollback")) for line in told.run.read_metrics()] == [(2, None), (2, 1)]
