"""One step of training, against the same step by hand."""

import pytest
import torch
from torch import nn

from compressm_cli.data.interface import Split
from compressm_cli.engine.batches import Share
from compressm_cli.engine.step import training_step
from compressm_cli.recipe.schema import TrainConfig


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, inputs: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(inputs.mean(dim=1))


def batch() -> Split:
    return Split(torch.randn(5, 7, 3), torch.randint(4, (5,)))


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_it_is_a_step_down_the_clipped_gradient(clip_norm: float | None) -> None:
    torch.manual_seed(0)
    model, rows = Linear(), batch()
    x, weight = rows.inputs.mean(dim=1).double(), model.head.weight.detach().double()
    scores = x @ weight.T + model.head.bias.detach().double()
    probabilities = torch.softmax(scores, dim=1)
    expected_loss = -torch.log(probabilities[torch.arange(5), rows.labels]).mean()
    error = (probabilities - nn.functional.one_hot(rows.labels, 4)) / 5
    gradient, bias_gradient = error.T @ x, error.sum(0)
    if clip_norm is not None:
        norm = torch.sqrt((gradient**2).sum() + (bias_gradient**2).sum())
        assert norm > clip_norm
        gradient = gradient * clip_norm / norm
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss = training_step(model, optimizer, Share([rows], None), TrainConfig(steps=1, clip_norm=clip_norm))
    torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-5, atol=0)
    assert not loss.requires_grad
    torch.testing.assert_close(
        model.head.weight.detach().double(), weight - 0.5 * gradient, rtol=1e-4, atol=1e-6
    )


def test_gradients_of_the_step_before_do_not_count() -> None:
    model, rows = Linear(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    config = TrainConfig(steps=1)
    training_step(model, optimizer, Share([rows], None), config)
    first = model.head.weight.grad.clone()  # type: ignore[union-attr]
    training_step(model, optimizer, Share([rows], None), config)
    torch.testing.assert_close(model.head.weight.grad, first)


def test_another_forward_may_stand_for_the_models() -> None:
    model, rows = Linear(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.head.weight.detach().clone()
    loss = training_step(
        model,
        optimizer,
        Share([rows], None),
        TrainConfig(steps=1),
        forward=lambda inputs, lengths: 0 * model(inputs),
    )
    torch.testing.assert_close(loss, torch.tensor(4.0).log())
    torch.testing.assert_close(model.head.weight.detach(), before)
