"""A model that is read a part at a time is, to who reads it, the model: names, shared tensors, roles, scores."""

import copy
import weakref

import pytest
import torch
from model_examples import EXAMPLES
from torch import Tensor, nn

from compressm_cli.core.outlines import attach_outline
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.distributed.lazy import Reader
from compressm_cli.engine.distributed.shares import copied
from compressm_cli.layers.interface import parameter_roles
from compressm_cli.methods.baselines.weights import magnitudes
from compressm_cli.models import build_model
from compressm_cli.models.decoder import DecoderConfig
from compressm_cli.structure import surgery
from compressm_cli.structure.map import StructureMap

DATA = DataSpec(classes=20, length=8, vocabulary=20, per_step=True)


class Elsewhere:
    """A model, and one of the same names whose values are fetched from it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = build_model(DecoderConfig(**EXAMPLES["decoder"]), DATA)
        self.model.blocks[0].requires_grad_(False)
        self.fetched: list[str] = []
        self.alive = self.most = 0
        outline = copied(self.model, {}, {})
        self.read = copied(self.model, {}, dict(self.model.named_buffers()))
        Reader(self.read, self._fetch)
        attach_outline(self.read, outline)

    def _fetch(self, names: list[str]) -> dict[str, Tensor]:
        found = {name: self.model.get_parameter(name).detach().clone() for name in names}
        self.fetched += names
        for value in found.values():
            weakref.finalize(value.untyped_storage(), self._add, -value.numel())
            self._add(value.numel())
        return found

    def _add(self, entries: int) -> None:
        self.alive += entries
        self.most = max(self.most, self.alive)


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


def test_names_shapes_and_roles_need_no_values(elsewhere: Elsewhere) -> None:
    assert parameter_roles(elsewhere.read) == parameter_roles(elsewhere.model)
    assert StructureMap.of(elsewhere.read).sizes() == StructureMap.of(elsewhere.model).sizes()
    assert surgery.frozen(elsewhere.read) == surgery.frozen(elsewhere.model) != []
    assert elsewhere.fetched == []


def test_scores_are_those_of_the_model_and_one_module_is_here_at_a_time(elsewhere: Elsewhere) -> None:
    structure = StructureMap.of(elsewhere.model)
    for name in structure:
        together = structure.together(name)
        assert torch.equal(magnitudes(elsewhere.read, together), magnitudes(elsewhere.model, together))
    modules = [m for m in elsewhere.model.modules() if next(m.children(), None) is None]
    assert 0 < elsewhere.most <= 2 * max(sum(p.numel() for p in m.parameters()) for m in modules)


def test_what_is_held_is_the_same_object_again(elsewhere: Elsewhere) -> None:
    read, model = elsewhere.read, elsewhere.model
    held = dict(read.named_parameters())
    assert list(held) == [name for name, _ in model.named_parameters()]
    assert "head.weight" not in held  # tied
    assert all(p is held[name] for name, p in read.named_parameters())
    assert sorted(elsewhere.fetched) == sorted(held)
    twin = copy.deepcopy(read)
    assert isinstance(twin.head, nn.Linear)
    assert twin.head.weight is twin.get_parameter("encoder.weight")


def test_a_copy_may_be_changed(elsewhere: Elsewhere) -> None:
    twin = copy.deepcopy(elsewhere.read)
    assert list(dict(twin.named_parameters())) == list(dict(elsewhere.model.named_parameters()))
    del twin.blocks[1]  # type: ignore[union-attr, operator]
    assert StructureMap.of(twin).keys() < StructureMap.of(elsewhere.model).keys()
