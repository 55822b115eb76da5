"""What each arm trains: the same recipe but for what it is about, at the cost that it says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Maker, Trainer

from compressm_cli.objectives.classification import ClassificationConfig
from compressm_cli.objectives.regression import RegressionConfig
from compressm_cli.objectives.teacher import TeacherConfig
from compressm_cli.recipe import Recipe
from compressm_cli.runs.folder import Run
from compressm_cli.studies.arms import ARMS, LeftOutError, Source, chosen_arms, obstacles
from compressm_cli.studies.arms.small import sized, sizes_up_to
from compressm_cli.studies.costs import counter, nearest
from compressm_cli.studies.reference import Cut, Reference

CUT = {"method": "hankel", "energy_threshold": 0.8, "schedule": {"kind": "listed", "fractions": [0.3, 0.6]}}
REFERENCE = Reference(
    steps=30,
    flops=2000,
    final_step_flops=50,
    seconds=3.0,
    start=[8, 8],
    final=[3, 5],
    cuts=[Cut(0.3, 9, [4, 6]), Cut(0.6, 18, [3, 5])],
    others=[],
)

TEACHER = Path("/outputs/dense/v0001")


def states(recipe: Recipe) -> int:
    """What a step costs here: a hundred a block, and one a state."""
    dims = recipe.model.state_dims()
    return 100 * len(dims) // 10 + sum(dims)


@pytest.fixture
def make(tiny: Maker) -> Callable[..., Recipe]:
    """The recipe of an arm."""

    def arm(name: str, reference: Reference = REFERENCE, **parts: Any) -> Recipe:
        recipe = tiny(compression=CUT, model={"depth": 2}, **parts)
        return ARMS[name].make(Source(recipe, states, reference, Run(TEACHER)))

    return arm


def test_the_method_is_the_recipe(make: Callable[..., Recipe], tiny: Maker) -> None:
    assert make("method") == tiny(compression=CUT, model={"depth": 2})


@pytest.mark.parametrize("budget", [{}, {"budget": {"flops": "0.5x"}}])
def test_what_each_arm_is(make: Callable[..., Recipe], budget: dict[str, Any]) -> None:
    """orders, steps, budget; none of them has the recipe's own budget."""
    found = {}
    for name in ARMS:
        recipe = make(name, **budget)
        limit = None if recipe.budget is None else recipe.budget.amount
        found[name] = (recipe.model.state_dims(), recipe.train.steps, limit)
        cuts = name in ("method", "random", "magnitude", "post", "post-recovered")
        assert (recipe.compression.method != "none") == cuts
    own = "0.5x" if budget else None
    assert found == {
        "method": ([8, 8], 30, own),
        "dense": ([8, 8], 30, None),
        "dense-stopped": ([8, 8], 30, 2000.0),
        "dense-stopped-seconds": ([8, 8], 30, 3.0),
        "scratch": ([3, 5], 30, None),
        "scratch-matched": ([3, 5], 30, 2000.0),
        "scratch-matched-seconds": ([3, 5], 30, 3.0),
        # 2000 / 30 is more than any of them costs.
        "average": ([8, 8], 30, 2000.0),
        "shallow": ([8], 30, 1500.0),
        "shallow-matched": ([8], 30, 2000.0),
        "shallow-average": ([8], 30, 2000.0),
        "random": ([8, 8], 30, own),
        "magnitude": ([8, 8], 30, own),
        "post": ([8, 8], 30, None),
        # 30 steps, and the 12 that the method had after its last cut.
        "post-recovered": ([8, 8], 42, None),
        "distilled": ([3, 5], 30, None),
    }


def test_other_scores_cut_when_and_to_what_the_method_did(make: Callable[..., Recipe]) -> None:
    for name in ("random", "magnitude"):
        compression = make(name).compression
        assert compression.method == name
        assert compression.units == [[4, 6], [3, 5]]
        assert compression.schedule.steps(30) == [9, 18]
    whole = replace(REFERENCE, final=[8, 8], cuts=[])
    assert make("random", whole).compression.method == "none"


def test_a_pupil_is_the_small_arm_with_a_teacher(make: Callable[..., Recipe], tiny: Maker) -> None:
    pupil = make("distilled")
    assert pupil.objective.teacher.model == str(TEACHER)
    assert pupil.model_copy(update={"objective": None}) == make("scratch")
    own = make("distilled", objective={"kind": "classification", "primary": "macro_f1"}).objective
    assert own.primary == "macro_f1"
    with pytest.raises(LeftOutError, match="its teacher failed"):
        ARMS["distilled"].make(Source(tiny(compression=CUT, model={"depth": 2}), states, REFERENCE))
    assert list(chosen_arms(["distilled"], [], [])) == ["method", "dense", "distilled"]
    taught = ClassificationConfig(teacher=TeacherConfig(model="x"))
    for objective, why in ((RegressionConfig(), "takes no teacher"), (taught, "teacher of its own")):
        recipe = tiny(compression=CUT).model_copy(update={"objective": objective})
        assert why in obstacles(chosen_arms(None, [], []), recipe)["distilled"]


def test_late_cuts_are_the_methods_to_the_orders_that_it_chose(make: Callable[..., Recipe]) -> None:
    post, recovered = make("post").compression, make("post-recovered").compression
    assert (post.target_order, post.energy_threshold) == ([3, 5], None)
    assert post.schedule.steps(30) == [30]
    assert recovered.schedule.steps(42) == [30]


def test_the_average_size_costs_what_the_method_did_a_step(make: Callable[..., Recipe]) -> None:
    spent = replace(REFERENCE, flops=30 * (20 + 13))
    recipe = make("average", spent)
    assert recipe.model.state_dims() == [6, 7]
    assert recipe.budget is not None
    assert recipe.budget.flops == 990.0
    assert make("average", replace(spent, final=[8, 8])).model.state_dims() == [8, 8]


def test_fewer_blocks_have_the_states_that_cost_the_same(make: Callable[..., Recipe]) -> None:
    assert make("shallow-matched", replace(REFERENCE, final_step_flops=15)).model.state_dims() == [5]


def test_sizes_are_powers_of_two_below_the_recipes() -> None:
    assert sizes_up_to([64, 64]) == [4, 8, 16, 32]
    assert sizes_up_to([4]) == []
    assert sizes_up_to([]) == []


def test_a_fixed_size_is_that_of_all_layers(tiny: Maker) -> None:
    source = Source(tiny(compression=CUT, model={"depth": 2}), states, REFERENCE)
    assert sized(4).make(source).model.state_dims() == [4, 4]


def test_what_cut_more_than_states_has_no_small_arm(make: Callable[..., Recipe]) -> None:
    for name in ("scratch", "average", "shallow", "random"):
        with pytest.raises(LeftOutError, match="neurons"):
            make(name, replace(REFERENCE, others=["neurons"]))


def test_a_method_that_takes_no_orders_cannot_be_late(tiny: Maker) -> None:
    source = Source(tiny(compression={"method": "random", "keep_fraction": 0.5}), states, REFERENCE)
    for name in ("post", "post-recovered"):
        with pytest.raises(LeftOutError, match="takes no target_order"):
            ARMS[name].make(source)


def test_a_single_block_cannot_be_fewer(tiny: Maker) -> None:
    left_out = obstacles(chosen_arms(None, [], ["flops"]), tiny(compression=CUT))
    assert left_out == dict.fromkeys(
        ("shallow", "shallow-matched", "shallow-average"), "the model has a single block"
    )


def test_arms_are_those_that_are_matched_as_is_wanted() -> None:
    by_flops, by_seconds, both = (
        chosen_arms(None, [], m) for m in (["flops"], ["seconds"], ["flops", "seconds"])
    )
    assert "scratch-matched" in by_flops
    assert "scratch-matched-seconds" not in by_flops
    assert "scratch-matched" not in by_seconds
    assert set(both) == set(ARMS)
    assert list(chosen_arms(["post", "dense"], [8], ["flops"])) == ["method", "dense", "post", "size-8"]


@pytest.mark.parametrize("wanted", [0, 3, 3.4, 3.6, 9, 99])
def test_the_nearest_cost_is_found(tiny: Maker, wanted: float) -> None:
    recipes = [tiny(model={"layer": {"kind": "lru", "state_dim": n}}) for n in range(1, 10)]
    costs = {recipe.model.state_dims()[0]: recipe for recipe in recipes}
    found = nearest(recipes, wanted, lambda recipe: recipe.model.state_dims()[0])
    assert found is costs[min(costs, key=lambda cost: abs(cost - wanted))]


def test_costs_are_those_that_runs_count_and_the_reference_tells_them(tiny: Maker, train: Trainer) -> None:
    recipe = tiny(steps=10, compression=CUT, model={"depth": 2})
    run = train(recipe)
    known, count, summary = Reference.of(run), counter(recipe), run.read_summary()
    small = recipe.model_copy(update={"model": recipe.model.with_state_dims(known.final)})
    assert count(recipe) == summary["flops"]["training_start_per_step"]
    assert count(small) == summary["flops"]["training_final_per_step"] == known.final_step_flops
    assert known.start == [8, 8]
    assert known.cuts[-1].orders == known.final
    assert [cut.step for cut in known.cuts] == [3, 6][: len(known.cuts)]
    assert known.cuts
    assert known.others == []
    assert known.last_cut == known.cuts[-1].step
