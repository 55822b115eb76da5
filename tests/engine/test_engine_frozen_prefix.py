"""What a frozen beginning puts out is kept: the same steps, bit by bit, and nothing kept that is out of date."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from layer_kinds import SMALL
from torch import Tensor, nn

from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.engine.batches import Batches, Share
from compressm_cli.engine.frozen_prefix import FrozenPrefix, frozen_blocks
from compressm_cli.engine.optimizer import build_optimizer
from compressm_cli.engine.step import training_step
from compressm_cli.layers import LAYERS
from compressm_cli.models import SequenceModel, build_model
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.structure.edits import Keep, Train
from compressm_cli.structure.surgery import apply_edits

ROWS, LENGTH, WIDTH = 24, 19, 8
PLENTY = 10**9
FREEZE = Train(["encoder.*", "blocks.0.*", "blocks.1.*"], False)


def build(kind: str, **settings: Any) -> SequenceModel:
    torch.manual_seed(2)
    layer = {"kind": kind, "state_dim": 5, **SMALL.get(kind, {})}
    config = SequenceConfig(layer=layer, model_dim=WIDTH, depth=3, **settings)
    model = build_model(config, DataSpec(classes=4, length=LENGTH, features=2))
    assert isinstance(model, SequenceModel)
    apply_edits(model, None, [FREEZE])
    return model


def split() -> Split:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, LENGTH, 2, generator=generator)
    return Split(inputs, torch.randint(4, (ROWS,), generator=generator))


def counted(model: SequenceModel) -> list[int]:
    """How many rows passed each of the first blocks."""
    seen = [0, 0, 0]
    for i, block in enumerate(model.blocks):

        def count(_: Any, inputs: tuple[Tensor, ...], i: int = i) -> None:
            seen[i] += len(inputs[0])

        block.register_forward_pre_hook(count)
    return seen


def train(model: SequenceModel, cache: FrozenPrefix | None, epochs: int = 3) -> list[float]:
    config = TrainConfig(steps=20, learning_rate=1e-2, weight_decay=0.1)
    optimizer, batches = build_optimizer(model, config), Batches(split(), 8, seed=0)
    losses = []
    for step in range(1, epochs * batches.per_epoch + 1):
        rows = batches.numbers(step)

        def forward(inputs: Tensor, lengths: Tensor | None, rows: Tensor = rows) -> Tensor:
            assert cache is not None
            return cache(rows, inputs, lengths)

        share = Share([batches(step)], None)
        losses.append(
            float(training_step(model, optimizer, share, config, None if cache is None else forward))
        )
    return losses


@pytest.mark.parametrize("kind", LAYERS)
def test_steps_with_what_is_kept_are_the_same_to_the_bit(kind: str) -> None:
    plain, model = build(kind), build(kind)
    cache, passed = FrozenPrefix(model, ROWS, PLENTY), counted(model)
    assert frozen_blocks(model) == 2
    assert train(model, cache) == train(plain, None)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    if cache.reason is None:  # each row once, and one batch again to be sure
        assert passed == [ROWS + 8, ROWS + 8, 3 * ROWS]
    else:  # a matter of the processor's products
        assert cache.reason == "a row is rounded otherwise beside other rows"
        assert passed == [3 * ROWS] * 3


def thaw(model: SequenceModel) -> None:
    apply_edits(model, None, [Train(["blocks.1.*"], True)])


def cut(model: SequenceModel) -> None:
    apply_edits(model, None, [Keep("blocks.0.layer:states", [0, 2])])


def drop(model: SequenceModel) -> None:
    apply_edits(model, None, [Keep("blocks.0:sublayer", [])])


def load(model: SequenceModel) -> None:
    model.load_state_dict({name: 1.1 * value for name, value in model.state_dict().items()})


def assign(model: SequenceModel) -> None:
    bias = model.encoder.bias
    assert isinstance(bias, Tensor)
    bias.data = 1.5 * bias.data


def hook(model: SequenceModel) -> None:
    model.encoder.register_forward_hook(lambda _module, _inputs, x: 2 * x)


def hook_before(model: SequenceModel) -> None:
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: (2 * inputs[0], *inputs[1:]))


def set_a_number(model: SequenceModel) -> None:
    model.blocks[0].norm.eps = 0.5


def set_a_function(model: SequenceModel) -> None:
    forward = model.blocks[0].forward
    model.blocks[0].forward = lambda *inputs: 2 * forward(*inputs)


CHANGES = [thaw, cut, drop, load, assign, hook, hook_before, set_a_number, set_a_function, SequenceModel.eval]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_change_is_noticed(change: Callable[[SequenceModel], Any]) -> None:
    model = build("lru")
    cache, inputs, rows = FrozenPrefix(model, ROWS, PLENTY), split().inputs, torch.arange(ROWS)
    passed = counted(model)
    for _ in range(3):
        assert torch.equal(cache(rows, inputs), model(inputs))
    passed[:] = [0, 0, 0]
    cache(rows, inputs)
    assert passed == [0, 0, ROWS]
    change(model)
    assert torch.equal(cache(rows, inputs), model(inputs))
    passed[:] = [0, 0, 0]
    cache(rows, inputs)
    cache(rows, inputs)
    # Once more, to be sure, and then no more; a removed block passes on what it sees.
    assert passed == ([ROWS, 2 * ROWS, 2 * ROWS] if change is thaw else [ROWS, ROWS, 2 * ROWS])


class Noisy(nn.Module):
    """A norm of somebody else's, which nobody knows to be random."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


@pytest.mark.parametrize("norm", [Noisy, nn.RReLU, lambda: nn.Dropout(1)], ids=["noise", "rrelu", "dropout"])
def test_what_takes_random_numbers_is_not_kept(norm: Callable[[], nn.Module]) -> None:
    model, inputs, rows = build("lru"), split().inputs, torch.arange(ROWS)
    model.blocks[0].norm = norm()
    cache = FrozenPrefix(model, ROWS, PLENTY)
    for seed in range(4):
        torch.manual_seed(seed)
        expected, following = model(inputs), torch.rand(())
        torch.manual_seed(seed)
        assert torch.equal(cache(rows, inputs), expected)
        assert torch.equal(torch.rand(()), following)
    if norm in (Noisy, nn.RReLU):
        assert cache.reason == "something in it is random"
    else:
        assert frozen_blocks(model) == 0


def test_inputs_that_want_a_gradient_get_theirs() -> None:
    model, inputs, rows = build("lru"), split().inputs, torch.arange(ROWS)
    cache, wanted = FrozenPrefix(model, ROWS, PLENTY), split().inputs.requires_grad_()
    for _ in range(3):
        cache(rows, inputs)
    cache(rows, wanted).sum().backward()
    plain = split().inputs.requires_grad_()
    model(plain).sum().backward()
    assert wanted.grad is not None
    assert plain.grad is not None
    assert torch.equal(wanted.grad, plain.grad)


def test_tensors_that_do_not_count_what_is_written_are_never_out_of_date() -> None:
    model, inputs, rows = build("lru"), split().inputs, torch.arange(ROWS)
    with torch.inference_mode():
        model.blocks[0].register_buffer("factor", torch.ones(1))
    model.blocks[0].register_forward_hook(lambda block, _, x: block.factor * x)
    cache = FrozenPrefix(model, ROWS, PLENTY)
    for _ in range(3):
        assert torch.equal(cache(rows, inputs), model(inputs))
    with torch.inference_mode():
        model.blocks[0].factor.mul_(2)
    assert torch.equal(cache(rows, inputs), model(inputs))


@pytest.mark.parametrize(
    ("settings", "limit", "kept", "reason"),
    [
        ({"dropout": 0.1}, PLENTY, 0, None),
        ({"norm": "batch"}, PLENTY, 0, None),
        ({}, ROWS * LENGTH * (WIDTH + 2) * 4 - 1, 2, "all 24 rows take 18240 bytes, and 18239 may be kept"),
    ],
    ids=str,
)
def test_what_is_random_depends_on_others_or_is_too_large_is_computed(
    settings: dict[str, Any], limit: int, kept: int, reason: str | None
) -> None:
    plain, model = build("lru", **settings), build("lru", **settings)
    cache, passed = FrozenPrefix(model, ROWS, limit), counted(model)
    assert frozen_blocks(model) == kept
    torch.manual_seed(0)
    losses = train(model, cache)
    torch.manual_seed(0)
    assert losses == train(plain, None)
    assert passed == [3 * ROWS] * 3
    assert cache.reason == reason
    apply_edits(model, None, [Train(["encoder.*"], True)])
    cache(torch.arange(4), split().inputs[:4])
    assert cache.reason == "the encoder is trained, or random"


def test_rows_that_are_rounded_otherwise_beside_others_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs, rows = build("lru"), split().inputs, torch.arange(ROWS)
    hidden, calls = SequenceModel.hidden, iter(range(100))

    def rounded(self: SequenceModel, *arguments: Any) -> Tensor:
        return hidden(self, *arguments) * (1 + 1e-7 * next(calls))

    cache = FrozenPrefix(model, ROWS, PLENTY)
    monkeypatch.setattr(SequenceModel, "hidden", rounded)
    cache(rows, inputs)
    cache(rows, inputs)
    assert cache.reason == "a row is rounded otherwise beside other rows"


@pytest.mark.parametrize("case", ["other inputs", "shorter", "another type", "fewer", "more"])
def test_only_what_is_known_of_these_inputs_is_served(case: str) -> None:
    model, inputs, rows = build("lru"), split().inputs, torch.arange(8)
    cache, passed = FrozenPrefix(model, ROWS, PLENTY), counted(model)
    for _ in range(3):
        cache(rows, inputs[:8])
    passed[:] = [0, 0, 0]
    then = {
        "other inputs": (rows, inputs[8:16]),
        "shorter": (rows, inputs[:8, :5]),
        "another type": (rows, inputs[:8].double()),
        "fewer": (rows[:3], inputs[:3]),
        "more": (torch.arange(12), inputs[:12]),
    }[case]
    if case == "another type":
        model.double()
    size = len(then[0])
    assert torch.equal(cache(*then), model(then[1]))
    assert passed == [2 * size] * 3  # once in the cache, and once in the model beside it
    assert torch.equal(cache(*then), model(then[1]))


def test_a_row_with_two_inputs_is_not_kept() -> None:
    model, inputs = build("lru"), split().inputs
    cache, rows = FrozenPrefix(model, ROWS, PLENTY), torch.tensor([3, 3])
    for _ in range(4):
        assert torch.equal(cache(rows, inputs[:2]), model(inputs[:2]))


def test_a_hook_of_the_whole_model_is_called() -> None:
    model, inputs, rows = build("lru"), split().inputs, torch.arange(ROWS)
    cache = FrozenPrefix(model, ROWS, PLENTY)
    for _ in range(3):
        cache(rows, inputs)
    doubled = model.register_forward_hook(lambda _module, _inputs, y: 2 * y)
    assert torch.equal(cache(rows, inputs), model(inputs))
    assert cache.reason == "the model has hooks, which see it whole"
    doubled.remove()
    assert torch.equal(cache(rows, inputs), model(inputs))
    assert cache.reason is None


@pytest.mark.parametrize(
    ("rows", "message"), [([-1, 0], "0 to 23, got -1 to 0"), ([24, 1], "got 1 to 24"), ([1], "2 inputs")]
)
def test_rows_that_there_are_not_are_refused(rows: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FrozenPrefix(build("lru"), ROWS, PLENTY)(torch.tensor(rows), split().inputs[:2])


@pytest.mark.parametrize("rows", [torch.tensor([True, False]), torch.tensor([0.0, 1.0]), [0, 1]], ids=str)
def test_rows_that_are_no_numbers_are_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match="the numbers of rows are a tensor of whole numbers, not a "):
        FrozenPrefix(build("lru"), ROWS, PLENTY)(rows, split().inputs[:2])
