"""Learning from a larger model beside the labels (Hinton, Vinyals and Dean, 2015, arXiv:1503.02531)."""

import copy

import torch
from torch import Tensor, nn

from compressm_cli.data.interface import Split
from compressm_cli.objectives.classification import Classification
from compressm_cli.objectives.objective import Draw, Metric, Objective, Reduction


class Distillation(Objective):
    """``(1 - weight) * loss + weight * temperature^2 * KL(teacher || student)``, both softened by the temperature.

    ``loss`` is that of an objective of classes or tokens, by which the model is evaluated. The teacher, which takes the
    same inputs and says the same classes, is in evaluation mode and gets no gradient from here on. Of a recipe it is
    made where the objective names a ``teacher`` (``engine.teaching``).
    """

    LOSS = Metric("loss", "distillation loss", unit="nats")

    def __init__(
        self, objective: Objective, teacher: nn.Module, temperature: float = 2.0, weight: float = 0.5
    ) -> None:
        if not isinstance(objective, Classification):
            raise ValueError(f"{type(objective).__name__} has no classes, which distillation is about")
        if temperature <= 0 or not 0 <= weight <= 1:
            raise ValueError(f"temperature {temperature} must be above 0, weight {weight} from 0 to 1")
        super().__init__(objective.config, objective.spec, objective.task)
        self._objective, self._teacher = objective, teacher.eval().requires_grad_(False)
        self._temperature, self._weight = temperature, weight

    @property
    def primary(self) -> Metric:
        return self._objective.primary

    def judge(self) -> Objective:
        return self._objective.judge()

    def learned(self, batch: Split, rows: Tensor, draw: Draw | None) -> Split:
        return self._objective.learned(batch, rows, draw)

    def loss(self, outputs: Tensor, batch: Split, reduction: Reduction = "mean") -> Tensor:
        scored = batch.scored
        with torch.no_grad():
            said = self._softened(self.forward(self._teacher, batch))
        divergence = nn.functional.kl_div(self._softened(outputs), said, reduction="none", log_target=True)
        # Not by indexing, which needs values: FLOPs are counted without.
        apart = torch.where(scored, divergence.sum(dim=-1), 0.0).sum()
        soft = self._temperature**2 * (apart if reduction == "sum" else apart / scored.sum())
        return (1 - self._weight) * self._objective.loss(outputs, batch, reduction) + self._weight * soft

    def modules(self) -> list[nn.Module]:
        return [self._teacher]

    def on(self, device: torch.device) -> Objective:
        place = next((tensor.device for tensor in self._teacher.parameters()), device)
        if place == device:
            return self
        teacher = copy.deepcopy(self._teacher).to(device)
        return Distillation(self._objective, teacher, self._temperature, self._weight)

    def _softened(self, outputs: Tensor) -> Tensor:
        """Logarithms of the probabilities (labels, classes)."""
        return (outputs.float() / self._temperature).log_softmax(dim=-1)
