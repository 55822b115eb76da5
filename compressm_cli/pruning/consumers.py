"""The linear maps that read the units of axes, and the moments of what they read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Slot
from compressm_cli.methods.calibration import Statistic, real_steps, seeing_inputs
from compressm_cli.pruning.groups import Group
from compressm_cli.pruning.workload import Workload
from compressm_cli.structure.map import tensors_of

MOST_BYTES = 2**31
"""Of all moments that are held at once; where there are more, the batches are passed again."""
LEAST_PLACES = 4
"""Of the calibration batches, for each input of a linear map: with fewer a regression would fit these alone."""


@dataclass(frozen=True)
class Consumer:
    """A module that multiplies what it is given by a matrix, whose input features are units."""

    module: str
    weight: str
    """Name of the matrix."""
    dim: int
    """Of the matrix: along which its inputs lie."""
    bias: str | None
    ndim: int
    features: int
    """Dimension of what the module is given along which the same inputs lie."""
    width: int

    def matrix(self, model: nn.Module) -> Tensor:
        """(outputs, inputs), float64 on the CPU."""
        value = model.get_parameter(self.weight).detach().cpu().double()
        return value.movedim(self.dim, 1).reshape(-1, self.width)

    def shaped(self, matrix: Tensor, like: Tensor) -> Tensor:
        """(outputs, inputs) as the weight lies."""
        moved = like.movedim(self.dim, 1).shape
        return matrix.reshape(moved).movedim(1, self.dim)

    def entries(self, group: Group, units: Tensor) -> Tensor:
        """The inputs that some units of a group are, (n,), ascending; empty where they are none."""
        found = [
            s.entries(units) for s in group.slots if s.tensor == self.weight and s.dim % self.ndim == self.dim
        ]
        return torch.cat(found).unique() if found else torch.empty(0, dtype=torch.int64)


def consumers_of(model: nn.Module, group: Group) -> tuple[list[Consumer], list[str]]:
    """The linear maps in whose columns the units of a group are silent, and why others are none, once a module."""
    found, reasons = dict[str, Consumer](), dict[str, str]()
    if any(axis.divisors for axis in group.axes):
        return [], ["a normalization lies in between, which counts the units"]
    for slot in group.outputs:
        one = _consumer(model, slot)
        if isinstance(one, Consumer):
            found[one.weight] = one
        else:
            reasons.setdefault(slot.tensor.rpartition(".")[0], one)
    if not group.outputs:
        return [], ["no matrix reads its units"]
    return list(found.values()), list(dict.fromkeys(reasons.values()))


def _consumer(model: nn.Module, slot: Slot) -> Consumer | str:
    place, _, leaf = slot.tensor.rpartition(".")
    module, ndim = model.get_submodule(place), tensors_of(model)[slot.tensor].ndim
    dim, bias = (
        slot.dim % ndim,
        f"{place}.bias".removeprefix(".") if getattr(module, "bias", None) is not None else None,
    )
    kind = type(module).__name__
    if leaf != "weight":
        return f"{slot.tensor} is not the matrix of a linear layer"
    weight: Tensor = module.get_parameter("weight")
    if isinstance(module, nn.Linear) and dim == 1:
        return Consumer(place, slot.tensor, 1, bias, ndim, -1, weight.shape[1])
    if kind == "Conv1D" and ndim == 2 and dim == 0:  # of transformers: a linear layer whose matrix is turned
        return Consumer(place, slot.tensor, 0, bias, ndim, -1, weight.shape[0])
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and dim == 1:
        if weight[0, 0].numel() > 1 or module.groups > 1:
            return f"{place} reads more than one place at once"
        return Consumer(place, slot.tensor, 1, bias, ndim, 1, weight.shape[1])
    return f"its units are not inputs of {place}, a {kind}"


@dataclass(frozen=True)
class Moment:
    """Of inputs (d,) of a linear map: their mean, and the mean of their products; float64."""

    count: int
    mean: Tensor
    second: Tensor
    """(d, d)"""

    @property
    def covariance(self) -> Tensor:
        return self.second - torch.outer(self.mean, self.mean)


class InputMoments(Statistic):
    """The sums of what a linear map is given, and of its products, over all places that are no padding."""

    def __init__(self, consumer: Consumer) -> None:
        self._features = consumer.features
        self._count = 0
        self._sum = torch.zeros(consumer.width, dtype=torch.float64)
        self._products = torch.zeros(consumer.width, consumer.width, dtype=torch.float64)

    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        x = u.movedim(self._features, -1)
        if lengths is not None and x.ndim == 3:
            x = x[real_steps(lengths, x)]
        x = x.reshape(-1, x.shape[-1]).double().cpu()
        self._count += len(x)
        self._sum += x.sum(dim=0)
        self._products += x.T @ x

    def result(self) -> Moment:
        if not self._count:
            raise ValueError("it was given nothing on the calibration batches")
        if self._count < LEAST_PLACES * len(self._sum):
            raise ValueError(
                f"it has {len(self._sum)} inputs, and the calibration batches {self._count} places; give at least "
                f"{LEAST_PLACES * len(self._sum)}"
            )
        moment = Moment(self._count, self._sum / self._count, self._products / self._count)
        if not bool(moment.second.isfinite().all()):
            raise ValueError("what it was given on the calibration batches is not finite")
        return moment


def moments_of(
    model: nn.Module, consumers: Iterable[Consumer], workload: Workload
) -> Iterator[tuple[Consumer, Moment | str]]:
    """What each of some linear maps is given on the calibration batches, in evaluation mode; or why that is not known.

    No more of them are held than ``MOST_BYTES`` allow: the batches are passed through the model several times, if need
    be.
    """
    for chunk in _chunks(list(consumers)):
        statistics = {one.module: InputMoments(one) for one in chunk}
        _pass(model, statistics, workload)
        for one in chunk:
            try:
                yield one, statistics.pop(one.module).result()
            except ValueError as error:
                yield one, str(error)


def _pass(model: nn.Module, statistics: Mapping[str, Statistic], workload: Workload) -> None:
    lengths: list[Tensor | None] = [None]
    with torch.no_grad(), seeing_inputs(model, statistics, lambda: lengths[0]):
        for batch in workload.batches:
            lengths[0] = workload.lengths(batch)
            workload.run(model, batch)


def _chunks(consumers: Sequence[Consumer]) -> Iterator[list[Consumer]]:
    chunk, held = list[Consumer](), 0
    for one in consumers:
        size = 8 * one.width**2
        if chunk and held + size > MOST_BYTES:
            yield chunk
            chunk, held = [], 0
        chunk.append(one)
        held += size
    if chunk:
        yield chunk
