"""What is said of a study follows from its results alone."""

import io
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from made_results import LOSS, SEEDS, arm, results, runs
from rich.console import Console
from scipy import stats

from compressm_cli.core.errors import BadInputError
from compressm_cli.render.study_tables import study_lines, study_markdown, study_tables
from compressm_cli.studies.results import Results, read_results
from compressm_cli.studies.verdict import Verdict, judge

METHOD = arm("method")


def of(known: Results) -> dict[str, Any]:
    return {row.arm.name: row for row in judge(known).rows}


def test_a_difference_is_paired_by_seed() -> None:
    known = results([METHOD, arm("scratch", "less")], [runs("method", 0.9), runs("scratch", 0.88, 0.004)])
    row = of(known)["scratch"]
    gains = [0.02 - 0.004 * (-1) ** seed for seed in SEEDS]
    expected = stats.ttest_1samp(gains, 0.0).confidence_interval(0.95)
    assert row.gain.value == pytest.approx(statistics.fmean(gains))
    assert (row.gain.low, row.gain.high) == pytest.approx((expected.low, expected.high))
    assert (row.word, row.signs) == ("better", "+++++")
    assert of(known)["method"].word is None


@pytest.mark.parametrize(
    ("other", "spread", "word", "signs"),
    [(0.9, 0.01, "tie", "-+-+-"), (0.95, 0.001, "worse", "-----"), (0.9, 0.0, "tie", "=====")],
)
def test_a_word_is_what_the_interval_says(other: float, spread: float, word: str, signs: str) -> None:
    row = of(results([METHOD, arm("a")], [runs("method", 0.9), runs("a", other, spread)]))["a"]
    assert (row.word, row.signs) == (word, signs)


def test_of_a_loss_less_is_better() -> None:
    known = results([METHOD, arm("a")], [runs("method", 0.5), runs("a", 0.6, 0.01)], primary=LOSS)
    row = of(known)["a"]
    assert row.word == "better"
    assert row.gain.value > 0
    # By validation the rates at the edges are better, so nothing is bracketed.
    assert row.rate in (0.002, 0.008)
    assert not row.is_bracketed


def test_the_chosen_rate_is_that_of_the_validation_split() -> None:
    made = runs("method", 0.9)
    for run in made:
        if run["rate"] == 0.008:
            run["validation"], run["test"] = 0.99, 0.1
    known = results([METHOD], [made])
    assert known.chosen("method") == 0.008
    row = of(known)["method"]
    assert row.test.value == pytest.approx(0.1)
    assert not row.is_bracketed


def test_a_rate_with_a_seed_that_failed_is_not_chosen() -> None:
    made = runs("method", 0.9)
    for run in made:
        if run["rate"] == 0.004 and run["seed"] == 3:
            run |= {"error": "diverged", "validation": None, "test": None}
    assert results([METHOD], [made]).chosen("method") in (0.002, 0.008)


def sentence(*others: tuple[str, str, float]) -> str:
    arms = [METHOD, *(arm(name, cost) for name, cost, _ in others)]
    made = [runs("method", 0.9), *(runs(name, test, 0.002) for name, _, test in others)]
    return judge(results(arms, made)).sentence


def test_one_arm_that_costs_no_more_refutes_better() -> None:
    told = sentence(("scratch", "less", 0.8), ("scratch-matched", "equal", 0.9), ("dense", "more", 0.95))
    assert told.startswith("The method is not better as a whole")
    assert "it ties with scratch-matched;" in told
    assert "it is better than scratch." in told
    assert "dense" not in told
    assert "it is worse than a;" in sentence(("a", "equal", 0.99), ("b", "equal", 0.8))


def test_better_is_said_where_all_that_cost_no_more_are_beaten() -> None:
    told = sentence(("scratch", "less", 0.8), ("scratch-matched", "equal", 0.85), ("dense", "more", 0.95))
    assert told == (
        "The method is better than each of scratch and scratch-matched, which cost no more (95% intervals, 5 seeds)."
    )


def test_without_a_rival_nothing_is_said() -> None:
    assert "nothing is said" in sentence(("dense", "more", 0.5))


def lines(known: Results) -> tuple[str, Verdict]:
    verdict = judge(known)
    return "\n".join(study_lines(known, verdict)), verdict


def test_what_is_not_trained_yet_has_not_failed() -> None:
    some = [run for run in runs("b", 0.8) if run["seed"] < 2]
    failed = [run for run in runs("c", 0.8, rates=(0.004,)) if run["seed"] < 4]
    failed[0] |= {"error": "error: no memory", "validation": None, "test": None}
    known = results([METHOD, arm("a"), arm("b"), arm("c")], [runs("method", 0.9), some, failed])
    told, verdict = lines(known)
    for part in (
        "a: not trained yet",
        "b: not trained with all seeds yet",
        "c: at each learning rate some seed failed: error: no memory",
    ):
        assert f"Not known: {part}" in told
    *_, grid = study_tables(known, verdict)
    assert {row[0]: row[1:] for row in grid.rows}["b"] == ["unfinished"] * 3
    assert {row[0]: row[1:] for row in grid.rows}["c"] == ["", "failed", ""]


def test_what_is_not_known_is_told() -> None:
    failed = [
        {"arm": "a", "rate": rate, "seed": seed, "error": "Traceback\nerror: no memory"}
        for rate in (0.002, 0.004, 0.008)
        for seed in SEEDS
    ]
    arms = [METHOD, arm("a"), arm("b"), arm("c"), arm("shallow", left_out="the model has a single block")]
    busy = runs("b", 0.8, hindrance=2.0, commit="def0123456789+", machine="another")
    edge = runs("c", 0.8, rates=(0.004, 0.008, 0.016))
    told, verdict = lines(results(arms, [runs("method", 0.9), failed, busy, edge]))
    for part in (
        "a: at each learning rate some seed failed: error: no memory",
        "shallow: left out: the model has a single block",
        "not bracketed: the best learning rate is at the edge of the grid of c",
        "seconds say little: b",
        "several versions of the code: abc and def0123456+",
        "several machines or settings of them: a machine and another",
        "2 comparisons at 95 % each",
    ):
        assert part in told
    assert "not known of: a" in verdict.sentence
    assert "whose rates are not bracketed: c" in verdict.sentence


def test_one_seed_is_no_interval_and_no_word() -> None:
    made = [run for name in ("method", "a") for run in runs(name, 0.9 if name == "method" else 0.5)]
    known = results([METHOD, arm("a")], [[run for run in made if run["seed"] == 0]], seeds=[0])
    told, verdict = lines(known)
    assert "one seed" in told
    assert verdict.comparisons == 0
    assert of(known)["a"].word is None
    assert "nothing is said" in verdict.sentence


def swept(best: float, **more: Any) -> Results:
    arms = [METHOD, arm("dense-stopped"), arm("size-4"), arm("size-16")]
    made = [runs("method", 0.9), runs("dense-stopped", 0.85), runs("size-4", 0.8), runs("size-16", best)]
    return results(arms, made, sizes=[4, 16], **more)


def test_regret_is_what_the_best_size_wins_and_the_sweep_costs() -> None:
    regret = judge(swept(0.92)).regret
    assert regret is not None
    assert regret.best == "size-16"
    assert regret.regret.value == pytest.approx(0.02)
    assert (regret.runs, regret.flops) == (45, 45e9)
    assert (regret.method_runs, regret.method_flops) == (15, 15e9)
    below = judge(swept(0.83)).regret
    assert below is not None
    assert below.best == "dense-stopped"
    assert below.regret.value == pytest.approx(-0.05)
    assert below.regret.low is not None
    assert below.regret.low <= below.regret.value
    assert judge(results([METHOD], [runs("method", 0.9)])).regret is None


def test_results_read_back_say_the_same(tmp_path: Path) -> None:
    known = swept(0.92)
    known.write(tmp_path)
    assert read_results(tmp_path) == known
    assert study_markdown(read_results(tmp_path / "results.json")) == study_markdown(known)


def test_no_table_is_wider_than_a_terminal() -> None:
    arms = [METHOD, arm("scratch-matched-seconds")]
    known = results(
        arms, [runs("method", 0.9), runs("scratch-matched-seconds", 0.8, 0.2, rates=(0.016, 0.032))]
    )
    shown = Console(width=80, file=io.StringIO())
    for table in study_tables(known, judge(known)):
        assert shown.measure(table.rich()).maximum <= 80


def test_the_tables_say_what_was_chosen() -> None:
    known = swept(0.92)
    arms, costs, grid = study_tables(known, judge(known))
    by_arm = {row[0]: row for row in arms.rows}
    assert by_arm["size-16"][1] == "0.004"
    assert by_arm["size-16"][2].startswith("92.00 ±")
    assert by_arm["size-16"][3].startswith("-2.00")
    assert by_arm["size-16"][5] == "worse"
    assert ["size-16", "8, 9", "1.00 GFLOP", "10", "10"] in costs.rows
    assert grid.columns == ["arm", "0.002", "0.004", "0.008"]
    assert {row[0]: row[1:] for row in grid.rows}["size-4"] == ["79.80", "[80.00]", "79.60"]
    assert "| size-16 | 0.004 |" in study_markdown(known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": 3}, "runs"),
        ({"rate": -1.0}, "rate"),
        ({"format": 9}, "format"),
        ({"more": 1}, "more"),
        ({"seeds": [7]}, "none of its seeds"),
        ({"arms": []}, "there is no arm"),
        ({"rate": 0.003}, "no power"),
        ({"rate": 5e-324}, "rate"),
        ({"sizes": [4, 8]}, "sizes: there is no arm size-8"),
        ({"seeds": [0, *SEEDS]}, "seeds: one of them is there twice"),
        ({"arms": [METHOD, METHOD]}, "arms: one of them is there twice"),
        ({"runs": [{"arm": "method", "rate": 0.004, "seed": 0, "error": ""}]}, "error"),
        ({"runs": [{"arm": "method", "rate": 0.004, "seed": 0, "parameters": 10**400}]}, "parameters"),
    ],
)
def test_damaged_results_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    swept(0.92).write(tmp_path)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInputError, match=message):
        read_results(path)


def test_a_study_without_a_run_yet_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(
        BadInputError, match="no run of this study is done yet; go on with compressm study --resume"
    ):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("count", "told"), [(1, "about 0.05 of"), (3, "about 0.15 of"), (13, "about 0.65 of")]
)
def test_false_alarms_are_not_rounded_up(count: int, told: str) -> None:
    arms = [METHOD, *(arm(f"a{number}") for number in range(count))]
    made = [runs("method", 0.9), *(runs(f"a{number}", 0.8) for number in range(count))]
    assert told in lines(results(arms, made))[0]


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_what_is_no_results_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(BadInputError, match=r"results\.json"):
        read_results(tmp_path)
    with pytest.raises(BadInputError, match="cannot be read"):
        read_results(tmp_path / "nowhere")
