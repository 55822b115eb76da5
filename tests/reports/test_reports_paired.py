"""Two models on the same items: tests and intervals of their difference, and what is said of them."""

import itertools
import math

import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from compressm_cli.core.errors import BadInputError
from compressm_cli.reports.paired import QUANTILE, Paired, mcnemar, paired, score_interval
from compressm_cli.reports.task_results import Item, ModelResult, Score, TaskResult, hash_of


def result(name: str, right: list[int], ids: str | None = None, share: bool = True) -> ModelResult:
    """A model that has these items right, or values of them."""
    names = list(ids or map(str, range(len(right))))
    items = [Item(id=i, values={"acc": float(v)}) for i, v in zip(names, right, strict=True)]
    score = Score(metric="acc", value=sum(right) / len(right), is_share=share)
    task = TaskResult(
        task="t", source="t.jsonl", count=len(items), hash=hash_of(names), scores=[score], items=items
    )
    return ModelResult(model=name, chosen="it", context=8, tasks=[task])


def test_mcnemar_is_a_test_of_even_odds() -> None:
    for one, two in itertools.product((0, 1, 3, 11), (0, 2, 7)):
        wanted = binomtest(one, one + two).pvalue if one + two else 1.0
        assert mcnemar(one, two) == pytest.approx(wanted)


@pytest.mark.parametrize(("items", "won", "lost"), [(50, 12, 2), (100, 1, 0), (30, 3, 9), (40, 0, 5)])
def test_limits_are_where_the_score_test_is_at_its_quantile(items: int, won: int, lost: int) -> None:
    """With the nuisance parameter found by maximizing the likelihood, instead of by its formula."""

    def statistic(difference: float) -> float:
        def loss(q: float) -> float:
            terms = ((won, q + difference), (lost, q), (items - won - lost, 1 - 2 * q - difference))
            return -sum(n * math.log(p) if n else 0.0 for n, p in terms)

        ends = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
        q = float(minimize_scalar(loss, bounds=ends, method="bounded", options={"xatol": 1e-12}).x)
        return (won - lost - items * difference) / math.sqrt(items * (2 * q + difference * (1 - difference)))

    low, high = score_interval(items, won, lost)
    assert low < (won - lost) / items < high
    assert statistic(low) == pytest.approx(QUANTILE, rel=1e-3)
    assert statistic(high) == pytest.approx(-QUANTILE, rel=1e-3)


@pytest.mark.parametrize("items", [10, 1000])
def test_no_discordant_items_are_no_certainty(items: int) -> None:
    square = QUANTILE**2
    assert score_interval(items, 0, 0) == pytest.approx(
        (-square / (items + square), square / (items + square))
    )
    assert score_interval(items, items, 0)[1] == 1.0
    assert score_interval(items, 0, items)[0] == -1.0


def test_items_are_paired_by_what_was_asked() -> None:
    (found,) = paired(result("a", [1, 1, 0, 1, 0], "vwxyz"), result("b", [0, 1, 0, 1, 1], "zyxwv"))
    assert (found.only_baseline, found.only_other, found.difference) == (0, 0, 0.0)
    (found,) = paired(result("a", [1, 1, 0, 1, 0], "vwxyz"), result("b", [0, 0, 1, 0, 1], "vwxyz"))
    assert (found.only_baseline, found.only_other) == (3, 2)
    assert found.difference == pytest.approx(-0.2)
    assert found.p_value == 1.0


def test_other_values_than_right_and_wrong_have_an_interval_of_their_mean() -> None:
    (found,) = paired(result("a", [1, 2, 3, 4], share=False), result("b", [2, 2, 3, 5], share=False))
    assert (found.p_value, found.only_other, found.verdict(0.01)) == (None, None, None)
    assert found.low is not None
    assert found.high is not None
    assert (found.low + found.high) / 2 == pytest.approx(0.5)
    assert found.high - found.low == pytest.approx(2 * 3.182446 * math.sqrt(1 / 3) / 2)


def test_other_items_are_refused() -> None:
    with pytest.raises(BadInputError, match="different items"):
        paired(result("a", [1, 0], "ab"), result("b", [1, 0], "ac"))
    other = result("b", [1, 0], "ab")
    other = other.model_copy(update={"tasks": [other.tasks[0].model_copy(update={"task": "u"})]})
    with pytest.raises(BadInputError, match="same tasks"):
        paired(result("a", [1, 0], "ab"), other)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.005, 0.004, "no measurable loss: one of more than 1 points is excluded"),
        (-0.01, 0.02, "not enough items to tell: a loss up to 1.0 points cannot be excluded"),
        (-0.04, 0.004, "not enough items to tell: a loss up to 4.0 points cannot be excluded"),
        (-0.04, -0.02, "a loss of 3.0 points; it may be 4.0 points"),
        (-0.009, -0.001, "a loss, of at most 0.9 points, within the margin of 1"),
        (0.01, 0.03, "a gain of 2.0 points"),
    ],
)
def test_what_follows(low: float, high: float, said: str) -> None:
    middle = (low + high) / 2
    found = Paired("t", "acc", True, 9, 0.5, 0.5 + middle, middle, low, high, 1, 1, 1.0)
    assert found.verdict(0.01) == said
