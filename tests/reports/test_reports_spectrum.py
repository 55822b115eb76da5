"""What ``analyze`` finds in a checkpoint or run."""

from pathlib import Path

import pytest
import torch
from made_runs import MakeRun, tiny_checkpoint, tiny_recipe

from compressm_cli.core.errors import BadInputError
from compressm_cli.engine.trainee import Setting
from compressm_cli.exchange.places import find_checkpoint
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.lti import hankel_singular_values
from compressm_cli.reports import analyze, spectrum
from compressm_cli.reports.spectrum import LayerSpectrum
from compressm_cli.reports.timing import StepTimes

WHITE = ("compression.gramian=analytic", "compression.horizon=infinite")
"""Gramians as in the paper, which need no data."""


def saved(folder: Path, **layer: object) -> Path:
    """A checkpoint of a model with another layer."""
    recipe = tiny_recipe("other", 0, layer={"state_dim": 6, **layer})
    path = folder / "model.pt"
    tiny_checkpoint(recipe).save(path)
    return path


def test_spectrum_is_that_of_an_independent_computation(make_run: MakeRun) -> None:
    run = make_run()
    report = analyze(run.final_checkpoint, (1.0,), overrides=WHITE)
    for name, layer in state_space_layers(tiny_checkpoint(tiny_recipe("baseline", 0)).build_model()).items():
        (system,) = layer.systems()
        found = next(x for x in report.layers if x.layer == name)
        expected = hankel_singular_values(system.real_output())
        torch.testing.assert_close(
            torch.tensor(found.hsv, dtype=torch.float64), expected, rtol=1e-8, atol=1e-12
        )
        assert found.spectral_radius == pytest.approx(float(system.A.abs().max()))
        assert found.decay == pytest.approx(float(expected[-1] / expected[0]))


def check_thresholds(layer: LayerSpectrum) -> None:
    total = sum(layer.hsv)
    for at in layer.thresholds:
        assert "refused" not in at.reason
        assert at.values_kept is not None
        assert at.values_kept >= at.values_needed
        kept = sum(layer.hsv[: at.values_kept])
        assert kept >= at.energy_threshold * total * (1 - 1e-12)
        assert sum(layer.hsv[: at.values_needed - 1]) < at.energy_threshold * total
        if layer.systems == 1:  # of several it is the mean of their shares, as in compression.jsonl
            assert at.tail == pytest.approx(1 - kept / total, abs=1e-12)
        assert 1 <= at.order <= layer.order
    orders = [at.order for at in layer.thresholds]
    assert orders == sorted(orders)


@pytest.mark.parametrize("gramian", ["analytic", "empirical"])
@pytest.mark.parametrize("realization", ["real", "complex"])
def test_orders_keep_the_energy_asked_for(make_run: MakeRun, realization: str, gramian: str) -> None:
    settings = WHITE if gramian == "analytic" else ()
    report = analyze(make_run().folder, (0.99, 0.5, 0.9), realization, overrides=settings)  # type: ignore[arg-type]
    assert (report.realization, report.gramian) == (realization, gramian)
    assert report.calibration_batches == (None if gramian == "analytic" else 4)
    for layer in report.layers:
        assert (layer.realization, layer.gramian) == (realization, gramian)
        assert len(layer.hsv) == (16 if realization == "real" else 8)
        assert [at.energy_threshold for at in layer.thresholds] == [0.5, 0.9, 0.99]
        check_thresholds(layer)
        for at in layer.thresholds:
            if gramian == "empirical":
                assert at.bound is None
            else:
                assert at.bound == pytest.approx(2 * sum(layer.hsv[at.values_kept :]))


def test_predicted_sizes_are_those_of_such_models(make_run: MakeRun) -> None:
    run = make_run()
    report = analyze(run.folder, (0.6, 1.0))
    small, whole = report.predicted
    twin = tiny_checkpoint(tiny_recipe("baseline", 0), small.orders).build_model()
    assert small.parameters == sum(p.numel() for p in twin.parameters()) < report.now.parameters
    assert small.inference_flops < report.now.inference_flops
    assert small.training_step_flops < report.now.training_step_flops
    assert (whole.orders, whole.parameters) == (report.now.orders, report.now.parameters)
    assert whole.inference_flops == report.now.inference_flops


def test_a_step_is_timed_at_each_of_the_orders(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[dict[str, int]]] = []

    def times(setting: Setting, orders: list[dict[str, int]]) -> list[StepTimes]:
        asked.append(orders)
        return [StepTimes([float(sum(each.values()))], [1.0]) for each in orders]

    monkeypatch.setattr(spectrum, "time_steps", times)
    report = analyze(make_run().folder, (0.5, 0.50001, 0.9, 1.0), timed=True)
    sizes = [report.now, *report.predicted]
    assert [size.step_seconds for size in sizes] == [size.total_order for size in sizes]
    (orders,) = asked
    assert all(orders.count(each) == 1 for each in orders)
    assert orders[0] == report.now.orders
    assert len(orders) < len(sizes)


def test_start_orders_of_a_cut_model(make_run: MakeRun) -> None:
    report = analyze(make_run("compressed", orders=(3, 2)).folder, (1.0,))
    assert [(x.start_order, x.order) for x in report.layers] == [(8, 3), (8, 2)]
    assert report.now.total_order == 5


@pytest.mark.parametrize("kind", ["s4d", "s5"])
def test_other_layers(tmp_path: Path, kind: str) -> None:
    report = analyze(saved(tmp_path, kind=kind), (0.9, 0.99))
    assert [x.systems for x in report.layers] == ([8, 8] if kind == "s4d" else [1, 1])
    for layer in report.layers:
        assert layer.poles == 6 * layer.systems
        check_thresholds(layer)


def test_random_state_is_left_alone(make_run: MakeRun) -> None:
    run = make_run()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    analyze(run.folder, (0.9,))
    assert torch.equal(before, torch.get_rng_state())


def test_which_checkpoint_is_meant(make_run: MakeRun) -> None:
    first, newest = make_run(seed=0), make_run(seed=1)
    assert find_checkpoint(first.final_checkpoint) == (first.final_checkpoint, "the given checkpoint", None)
    assert find_checkpoint(first.folder)[0] == first.final_checkpoint
    path, why, _ = find_checkpoint(first.folder.parent)
    assert path == newest.final_checkpoint
    assert "newest of 2 runs, v0002" in why
    unfinished = make_run(seed=2, status="running")
    path, why, _ = find_checkpoint(unfinished.folder)
    assert path == unfinished.last_checkpoint(50)
    assert why == "the newest checkpoint of the run, which has not finished (status: running)"


def test_a_run_that_is_done_is_not_told_as_unfinished(make_run: MakeRun) -> None:
    run = make_run()
    run.final_checkpoint.rename(run.last_checkpoint(100))
    path, why, _ = find_checkpoint(run.folder)
    assert path == run.last_checkpoint(100)
    assert why == "the newest checkpoint of the run, which is done, but its final.pt is gone"
    path.rename(run.best_checkpoint)
    assert (
        find_checkpoint(run.folder)[1]
        == "the best checkpoint of the run, which is done, but its final.pt is gone"
    )
    run.best_checkpoint.unlink()
    with pytest.raises(
        BadInputError, match=r"is done, and all its checkpoints are gone; put checkpoints/final\.pt back"
    ):
        find_checkpoint(run.folder)


def test_bad_input(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no such file or folder"):
        analyze(tmp_path / "missing")
    with pytest.raises(BadInputError, match="above 0 and up to 1"):
        analyze(tmp_path, (0.9, 1.5))
    run = make_run(status="running")
    run.last_checkpoint(50).unlink()
    with pytest.raises(BadInputError, match="no checkpoint yet"):
        analyze(run.folder)
    (tmp_path / "other.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(BadInputError, match="not a readable checkpoint"):
        analyze(tmp_path / "other.pt")


def test_a_model_that_diverged_is_refused(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tiny_recipe("diverged", 0))
    checkpoint.weights["blocks.1.layer.B_re"].fill_(float("nan"))
    checkpoint.save(tmp_path / "model.pt")
    with pytest.raises(BadInputError, match=r"blocks\.1\.layer\.B_re.* not finite"):
        analyze(tmp_path / "model.pt")
