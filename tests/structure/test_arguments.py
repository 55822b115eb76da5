"""What is no model, optimizer or place is told in one line; axes that cannot be cut are left out, with a reason."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import compressm
from compressm_cli.layers import LRU, FeedForward, LRUConfig, Residual
from compressm_cli.structure.edits import Edit, Keep, MaskEntries, Park, Train, Wake
from compressm_cli.structure.map import NoAxisError, StructureMap
from compressm_cli.structure.modules import Insert
from compressm_cli.structure.projection import Project
from compressm_cli.structure.surgery import apply_edits, resize

NEURONS = "blocks.0.inner:neurons"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(nn.LayerNorm(4), FeedForward(4, 6)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Odd(nn.Module):
    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found

    def axes(self) -> Any:
        return self.found


WEIGHTS: dict[str, Any] = Net().state_dict()
CUT = Keep(NEURONS, [0])
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "load nothing": (lambda: compressm.load(None), "load: a model's place is a path, as text .* not nothing"),  # type: ignore[arg-type]
    "load a number": (lambda: compressm.load(3), "a Run, not the number 3"),  # type: ignore[arg-type]
    "load bytes": (lambda: compressm.load(b"x"), "a Run, not a value of type bytes"),  # type: ignore[arg-type]
    "edit nothing": (
        lambda: apply_edits(None, None, [CUT]),
        r"the model is a torch\.nn\.Module, not nothing",
    ),  # type: ignore[arg-type]
    "edit a class": (lambda: apply_edits(Net, None, [CUT]), "not the class Net; make one of it"),  # type: ignore[arg-type]
    "optimizer": (
        lambda: apply_edits(Net(), "adam", [CUT]),
        r"torch\.optim\.Optimizer or None, not the text 'adam'",
    ),  # type: ignore[arg-type]
    "copies": (lambda: apply_edits(Net(), None, [CUT], Net()), "copies are a list of modules"),  # type: ignore[arg-type]
    "a copy": (lambda: apply_edits(Net(), None, [CUT], [None]), r"copies\[0\]: the model is a"),  # type: ignore[list-item]
    "map": (lambda: StructureMap.of(None), r"StructureMap\.of: the model is a torch\.nn\.Module"),  # type: ignore[arg-type]
    "extra": (lambda: StructureMap.of(Net(), [3]), r"extra is \[3\], which is no list of Axis"),  # type: ignore[list-item]
    "no axes": (
        lambda: StructureMap.of(Odd(None)),
        r"the model: axes\(\) of Odd gave None, which is no list",
    ),
    "no axis": (lambda: StructureMap.of(nn.Sequential(Odd([3]))), r"0: axes\(\) of Odd gave \[3\]"),
    "resize nothing": (lambda: resize(None, None, WEIGHTS), "resize: the model is"),  # type: ignore[arg-type]
    "resize by nothing": (
        lambda: resize(Net(), None, None),
        r"weights are what state_dict\(\) .* not nothing",
    ),  # type: ignore[arg-type]
    "resize by numbers": (
        lambda: resize(Net(), None, {"a": 3}),
        r"weights\['a'\] is a tensor, not the number 3",
    ),  # type: ignore[dict-item]
    "resize by optimizer": (lambda: resize(Net(), 3, WEIGHTS), "the optimizer is"),  # type: ignore[arg-type]
    "sizes": (lambda: resize(Net(), None, WEIGHTS, {NEURONS: "6"}), "is a whole number, not the text '6'"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_of_no_use_is_told_in_a_line(case: str) -> None:
    call, message = WRONG[case]
    with pytest.raises(TypeError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


EDITS: dict[str, tuple[Any, str]] = {
    "a class": (Keep, "a plan is of edits such as Keep"),
    "a list": (MaskEntries(["a"], torch.ones(6) > 0), r"the model has no parameter \['a'\]"),  # type: ignore[arg-type]
    "active": (Train(["blocks*"], "no"), "active is True or False, not 'no'"),  # type: ignore[arg-type]
    "silent": (Insert("blocks", 0, lambda: nn.Linear(2, 2), silent=3), "silent are names of parameters"),  # type: ignore[arg-type]
    "moments": (
        Project("states:states", 4, None, "moved", {}),
        "the moments are one of reset, transport, slice",
    ),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edit_of_something_else_is_refused(case: str) -> None:
    """As ValueError, which in a run and in a loop is a refused plan, and ends neither."""
    edit, message = EDITS[case]
    model = Net()
    model.states = LRU(LRUConfig(), 4, 8)
    with pytest.raises(ValueError, match=message):
        apply_edits(model, None, [edit])


def test_a_part_of_a_model_may_be_called_axes() -> None:
    model = Net()
    model.axes = nn.Linear(2, 2)
    assert NEURONS in StructureMap.of(model)


def test_what_modules_keep_beside_their_tensors_has_no_shape() -> None:
    model = Net()
    resize(model, None, {**WEIGHTS, "blocks._extra_state": {"seen": 3}})  # type: ignore[dict-item]
    assert StructureMap.of(model)[NEURONS].size == 6


COMPUTED: dict[str, Callable[[nn.Module], Any]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm of old": nn.utils.weight_norm,
    "spectral_norm of old": nn.utils.spectral_norm,
    "pruned": lambda module: prune.l1_unstructured(module, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("how", COMPUTED)
def test_an_axis_of_a_computed_tensor_is_left_out(how: str) -> None:
    model = Net()
    COMPUTED[how](model.blocks[0].inner.up)  # type: ignore[union-attr]
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    structure = StructureMap.of(model)
    assert list(structure.left_out) == [NEURONS]
    assert list(structure) == ["blocks.0:sublayer", "blocks.1:sublayer", "blocks.1.inner:neurons"]
    assert structure.left_out[NEURONS].startswith("blocks.0.inner.up.weight is ")
    assert f"left out: {NEURONS}: " in str(structure)
    with pytest.raises(NoAxisError, match=f"{NEURONS}: cannot be cut: .*; to cut it, first call "):
        apply_edits(model, None, [CUT])
    edits: list[Edit] = [Park("blocks.0:sublayer", [0]), Keep("blocks.1.inner:neurons", [0, 1])]
    apply_edits(model, torch.optim.AdamW(model.parameters()), edits)
    apply_edits(model, None, [Wake("blocks.0:sublayer", [0])])
    now = dict(model.named_parameters())
    assert all(torch.equal(now[n], before[n]) for n in before if n.startswith("blocks.0"))
    assert model(torch.ones(2, 4)).shape == (2, 4)


def test_what_is_told_to_do_is_enough() -> None:
    model = Net()
    parametrizations.weight_norm(model.blocks[0].inner.up)  # type: ignore[union-attr, arg-type]
    told = StructureMap.of(model).left_out[NEURONS].partition("first call ")[2]
    eval(told, {"torch": torch, "model": model})
    assert not StructureMap.of(model).left_out
    apply_edits(model, None, [CUT])
    assert parametrize.is_parametrized(model.blocks[0].inner.up) is False  # type: ignore[union-attr, arg-type]


def test_hankel_cuts_the_layers_that_can_be() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(LRU(LRUConfig(), 4, 8) for _ in range(2)))
    parametrizations.spectral_norm(model[0], "B_re")
    settings = {"method": "hankel", "keep_fraction": 0.5}
    first, second = compressm.compress(model, settings, calibration=[torch.randn(2, 6, 4)])
    assert (first.before, first.after) == (8, 8)
    assert first.reason.startswith("nothing cut: refused: 0.B_re is computed of other tensors (SpectralNorm)")
    assert second.after == 4
