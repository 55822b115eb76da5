"""Which form the recurrences of a run take, and that it is told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compressm_cli.engine import experiment, forms, loop
from compressm_cli.engine.view import SilentView
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.models import build_model
from compressm_cli.ops.forms import FORMS, CostModel, Form
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.runs.folder import Run

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]

pytestmark = pytest.mark.usefixtures("rough_flops")

LAYER = "blocks.0.layer"
CUT = {"method": "hankel", "target_order": 2, "schedule": {"kind": "listed", "at_steps": [8]}}


def costs(states: float) -> CostModel:
    """A convolution costs as much as the recurrence of so many states, whatever the rest."""
    return CostModel({"convolution": (states * 16 * 64, 0, 0, 0, 0), "recurrent": (0, 0, 1, 0)})


class Told(SilentView):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize("form", FORMS)
def test_a_recipe_forces_a_form(tiny: Maker, train: Trainer, form: Form) -> None:
    view = Told()
    run = train(tiny(steps=3, train={"form": form}), view=view)
    assert run.read_summary()["forms"] == {"start": {LAYER: form}, "final": {LAYER: form}}
    assert f"form of the recurrence: {LAYER} {form}" in view.messages


def test_after_a_cut_the_form_is_chosen_again(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "calibrated", lambda *_: costs(states=5))
    run = train(tiny(steps=12, compression=CUT))
    assert run.read_summary()["orders"] == {"start": {LAYER: 8}, "final": {LAYER: 2}}
    assert run.read_summary()["forms"] == {"start": {LAYER: "convolution"}, "final": {LAYER: "recurrent"}}
    told = {m["step"]: m["forms"][LAYER] for m in run.read_metrics() if "forms" in m}
    assert (told[7], told[8], told[9]) == ("convolution", "convolution", "recurrent")


def test_a_resumed_run_chooses_by_the_costs_it_began_with(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(SilentView):
        def evaluation(self, step: int, loss: float, value: float | None) -> None:
            if step == 6:
                raise KeyboardInterrupt

    monkeypatch.setattr(forms, "calibrated", lambda *_: costs(states=5))
    recipe = tiny(steps=12, compression=CUT, train={"checkpoint_every": 3, "eval_every": 3})
    with pytest.raises(KeyboardInterrupt):
        train(recipe, view=Interrupting())
    monkeypatch.setattr(forms, "calibrated", lambda *_: pytest.fail("calibrated again"))
    (run,) = Run.find(Path(recipe.output.root) / recipe.name)
    experiment.resume(run, load_recipe(run.recipe_path), SilentView(), "test")
    assert run.read_summary()["forms"] == {"start": {LAYER: "convolution"}, "final": {LAYER: "recurrent"}}


def test_a_layer_with_one_form_needs_no_costs(tiny: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "calibrated", lambda *_: pytest.fail("calibrated"))
    recipe = tiny(model={"layer": {"kind": "s4d", "state_dim": 4}})
    model = build_model(recipe.model, experiment.load_data(recipe).spec)
    cpu = torch.device("cpu")
    assert forms.costs_here(model, "auto", cpu, "fp32") is None
    for wanted in ("auto", "recurrent"):
        chosen: dict[str, Any] = forms.choose_forms(model, wanted, None, 16, 64)
        assert chosen == {LAYER: "convolution"}
    assert all(layer.form == "convolution" for layer in state_space_layers(model).values())


def test_a_run_in_bfloat16_without_instructions_for_it_is_warned_of(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings = []
    for slow in (True, False):
        monkeypatch.setattr(loop, "bfloat16_is_slow", lambda _, slow=slow: slow)
        view = Told()
        train(tiny(steps=1, train={"precision": "bf16"}), view=view)
        warnings.append([m for m in view.messages if m.startswith("warning: this processor has no bfloat16")])
    assert [len(w) for w in warnings] == [1, 0]
