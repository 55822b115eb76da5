"""A whole study of a tiny recipe: what is trained, in which order, and what is not trained again."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Maker

from compressm_cli.cli.main import run as compressm
from compressm_cli.core.errors import BadInputError
from compressm_cli.engine import experiment
from compressm_cli.engine.view import SilentView
from compressm_cli.recipe import Recipe, recipe_to_yaml
from compressm_cli.runs.folder import Run
from compressm_cli.studies.plan import Plan
from compressm_cli.studies.results import read_results
from compressm_cli.studies.study import Study
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.workers import Crew, Outcome

CUT = {"method": "hankel", "keep_fraction": 0.5, "schedule": {"kind": "listed", "fractions": [0.3]}}
Capture = pytest.CaptureFixture[str]


def write_run(recipe: Recipe) -> None:
    """A finished run that nobody has trained: best at a learning rate of 0.02, a little more so with larger seeds."""
    seed, start = recipe.seeds[0], recipe.model.state_dims()
    orders = start if recipe.compression.method == "none" else [4] * len(start)
    score = 0.9 - abs(math.log2(recipe.train.learning_rate / 0.02)) / 10 + seed / 100
    named = [{f"blocks.{i}.layer": order for i, order in enumerate(of)} for of in (start, orders)]
    run = Run.create(Path(recipe.output.root), recipe.name)
    run.write_recipe(recipe_to_yaml(recipe))
    run.write_info({"status": "done", "seed": seed, "git": None})
    run.write_summary(
        {
            "steps": recipe.train.steps,
            "primary": {"name": "accuracy"},
            "validation": {"accuracy": score},
            "test": {"accuracy": score - 0.01},
            "orders": {"start": named[0], "final": named[1]},
            "parameters": {"final": 100},
            "flops": {"training": 4000 + seed, "training_final_per_step": 400},
            "seconds": {"total": 2.0, "training": 1.5, "training_cpu": 1.4},
        }
    )


class InProcess:
    """Makes the runs of a crew's jobs, and counts them; those fail that it is told to fail."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.is_real = False
        """Whether it trains them."""
        self.failing: Callable[[Recipe], bool] = lambda _: False

    def run_all(
        self, crew: Crew, jobs: Sequence[Job], told: Callable[[Outcome], None] = lambda _: None
    ) -> list[Outcome]:
        found = []
        for job in jobs:
            if (run := job.finished()) is not None:
                outcome = Outcome(job, run, was_there=True)
            elif self.failing(job.recipe):
                outcome = Outcome(job, None, "error: it was to fail")
            else:
                self.trained.append(job.name)
                self._make(job.recipe)
                outcome = Outcome(job, job.finished())
            found.append(outcome)
            told(outcome)
        return found

    def _make(self, recipe: Recipe) -> None:
        if not self.is_real:
            write_run(recipe)
            return
        experiment.start(recipe, recipe.seeds[0], experiment.load_data(recipe), SilentView(), "test")


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch, rough_flops: None) -> InProcess:
    made = InProcess()
    monkeypatch.setattr(Crew, "run_all", lambda *arguments: made.run_all(*arguments))
    return made


@pytest.fixture
def file(tiny: Maker, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    recipe = tiny(steps=8, compression=CUT, train={"eval_every": 8, "warmup": 0.0})
    path.write_text(recipe_to_yaml(recipe.model_copy(update={"seeds": [0, 1]})), encoding="utf-8")
    return path


def study(recipe: Recipe, folder: Path, **asked: Any) -> Study:
    settings = {"arms": None, "sizes": [], "grid": 1, "matched": ["flops"], "command": "test", **asked}
    plan = Plan.of(recipe, **settings)
    folder.mkdir(exist_ok=True)
    plan.write(folder)
    return Study(Plan.read(folder), folder, 1, lambda _: None)


def two_seeds(tiny: Maker, **parts: Any) -> Recipe:
    recipe = tiny(steps=8, compression=CUT, train={"eval_every": 8, "warmup": 0.0}, **parts)
    return recipe.model_copy(update={"seeds": [0, 1]})


def test_all_arms_of_a_study(tiny: Maker, crew: InProcess, tmp_path: Path) -> None:
    crew.is_real = True
    results = study(two_seeds(tiny), tmp_path / "study", sizes=[2]).run()
    by_arm = {arm.name: results.best(arm.name) for arm in results.arms if arm.left_out is None}
    assert set(by_arm) == {
        *("method", "dense", "dense-stopped", "scratch", "scratch-matched", "average", "random", "magnitude"),
        *("post", "post-recovered", "distilled", "size-2"),
    }
    assert all(set(runs) == {0, 1} for runs in by_arm.values())
    method = by_arm["method"]
    for seed in (0, 1):
        orders, flops = method[seed].orders, method[seed].flops
        assert orders == [4]
        assert flops is not None
        for name in ("scratch", "scratch-matched", "random", "magnitude", "post", "post-recovered"):
            assert by_arm[name][seed].orders == orders
        for name in ("dense-stopped", "scratch-matched", "average", "size-2"):
            spent, steps = by_arm[name][seed].flops, by_arm[name][seed].steps
            assert spent is not None
            assert steps is not None
            assert flops <= spent < flops + spent / steps
        for name in ("random", "magnitude"):
            assert by_arm[name][seed].flops == flops
        # What the teacher's training cost counts; its passes are not among these FLOPs, which are made up.
        small, teacher, pupil = (by_arm[name][seed].flops for name in ("scratch", "dense", "distilled"))
        assert small is not None
        assert teacher is not None
        assert pupil == small + teacher
    # What needs the method's orders comes after it.
    first = crew.trained[:4]
    assert {name.partition(",")[0] for name in first} == {"method-lr0.01", "dense-lr0.01"}
    assert read_results(tmp_path / "study") == results


def test_rates_are_tuned_and_what_is_there_is_not_trained_again(
    tiny: Maker, crew: InProcess, tmp_path: Path
) -> None:
    recipe = two_seeds(tiny)
    asked: dict[str, Any] = {"arms": ["scratch-matched"], "grid": 2}
    results = study(recipe, tmp_path / "study", **asked).run()
    for arm in ("method", "scratch-matched"):
        assert sorted(results.means(arm)) == [0, 1, 2]
        assert results.chosen(arm) == 0.02
    count = len(crew.trained)
    assert count == len(results.runs) == len(set(crew.trained))
    again = study(recipe, tmp_path / "study", **asked).run()
    assert len(crew.trained) == count
    assert again == results


def test_a_failed_run_stops_no_other_and_is_tried_again(tiny: Maker, crew: InProcess, tmp_path: Path) -> None:
    recipe = two_seeds(tiny)
    crew.failing = lambda of: of.name.startswith("scratch") and of.seeds == [1]
    results = study(recipe, tmp_path / "study", arms=["scratch", "post"]).run()
    assert results.chosen("scratch") is None
    assert results.chosen("post") is not None
    assert [run.error for run in results.of("scratch")] == [None, "error: it was to fail"]
    crew.failing = lambda _: False
    assert study(recipe, tmp_path / "study", arms=["scratch", "post"]).run().chosen("scratch") is not None
    assert sum(name.startswith("scratch") for name in crew.trained) == 2


def test_without_the_method_there_is_nothing_to_match(tiny: Maker, crew: InProcess, tmp_path: Path) -> None:
    crew.failing = lambda of: of.name.startswith("method")
    results = study(two_seeds(tiny), tmp_path / "study", arms=["scratch", "dense"]).run()
    assert results.chosen("dense") is not None
    (scratch,) = (arm for arm in results.arms if arm.name == "scratch")
    assert scratch.left_out is not None
    assert "nothing to match" in scratch.left_out


def test_a_size_that_is_the_recipes_own_is_the_stopped_arm(tiny: Maker) -> None:
    plan = Plan.of(two_seeds(tiny), ["scratch"], [8, 4], 1, ["flops"], "test")
    assert (plan.arms, plan.sizes) == (["method", "dense-stopped", "scratch"], [4])
    assert Plan.of(two_seeds(tiny), None, None, 1, ["flops"], "test").sizes == [4]


def test_an_uncompressed_recipe_is_no_study(tiny: Maker) -> None:
    with pytest.raises(BadInputError, match="no compression"):
        Plan.of(tiny(), None, None, 3, ["flops"], "test")
    with pytest.raises(BadInputError, match="single block"):
        Plan.of(two_seeds(tiny), ["shallow"], None, 3, ["flops"], "test")
    with pytest.raises(BadInputError, match="there is no arm 'smal'"):
        Plan.of(two_seeds(tiny), ["smal"], None, 3, ["flops"], "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ["method", "dens"]}, "arms: there is no arm 'dens'"),
        ({"left_out": {"dens": "it is none"}}, "left_out: there is no arm 'dens'"),
        ({"sizes": [10**9]}, "sizes"),
        ({"recipe": {"compression": {"method": "none"}}}, "recipe: has no compression"),
    ],
)
def test_a_plan_that_was_changed_by_hand_is_judged_as_one_that_is_asked_for(
    tiny: Maker, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    Plan.of(two_seeds(tiny), None, None, 1, ["flops"], "test").write(tmp_path)
    path = tmp_path / "study.json"
    known = json.loads(path.read_text())
    parts = {key: known[key] | value if key == "recipe" else value for key, value in change.items()}
    path.write_text(json.dumps(known | parts))
    with pytest.raises(BadInputError, match=message):
        Plan.read(tmp_path)


def test_the_command(
    file: Path, crew: InProcess, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["study", str(file), "--arms", "scratch-matched,dense", "--lr-grid", "1", "--output", "study"]
    assert compressm([*asked, "--dry-run"]) == 0
    assert "scratch-matched" in capsys.readouterr().out
    assert not Path("study").exists()
    assert compressm(asked) == 0
    told = capsys.readouterr()
    assert "final size from scratch, equal FLOPs" in told.out
    assert "no learning rate was tuned" in told.out
    assert "[1 of 6]" in told.err
    count = len(crew.trained)
    assert compressm(["study", "--resume", "study", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    assert len(crew.trained) == count == 6
    assert [row["arm"]["name"] for row in known["rows"]] == ["method", "dense", "scratch-matched"]
    assert compressm(["study", "--report", "study/results.json", "--markdown"]) == 0
    assert "| scratch-matched |" in capsys.readouterr().out
    assert compressm([*asked, "train.steps=9"]) == 2
    assert "differs in recipe" in capsys.readouterr().err
    # What trains nothing may be asked all the same.
    assert compressm([*asked, "train.steps=9", "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of RECIPE"),
        (["x.yaml", "--resume", "y"], "found RECIPE and --resume"),
        (["--resume", "nowhere"], "nowhere/study.json: cannot be read"),
        (["--report", "nowhere"], "nowhere: cannot be read"),
        (["--report", "nowhere", "--arms", "dense"], "leave out --arms"),
        (["--resume", "x", "--lr-grid", "3", "--matched", "flops"], "leave out --lr-grid, --matched"),
        (["--report", "x", "--dry-run"], "leave out --dry-run"),
        (["study/mnist1d_full"], "has no compression"),
        (["study/mnist1d_compressed", "--arms", "dense,dense"], "write each once"),
        (["study/mnist1d_compressed", "--arms", "dens"], "there is no arm 'dens'"),
        (["study/mnist1d_compressed", "--arms", "shallow"], "single block"),
        (["study/mnist1d_compressed", "--sizes", "4,x"], "x is no number of states"),
        (["study/mnist1d_compressed", "--matched", "joules"], "joules is not in flops, seconds"),
        (["study/mnist1d_compressed", "--lr-grid", "0"], "--lr-grid"),
        (["--report", "x", "--json", "--markdown"], "exclude each other"),
    ],
)
def test_what_cannot_be_asked_is_refused(words: list[str], message: str, capsys: Capture) -> None:
    assert compressm(["study", *words]) == 2
    assert message in capsys.readouterr().err
