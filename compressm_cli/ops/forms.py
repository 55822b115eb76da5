"""Which form of a time-invariant recurrence is cheaper here: a cost model, calibrated once per machine.

The seconds of a training step (forward and backward) of one layer are taken as a sum of a few counts, each times a
constant of the machine. The constants are fitted to timings of small problems and kept in the user's cache.
"""

import math
from dataclasses import dataclass
from typing import Literal

Form = Literal["convolution", "recurrent"]
FORMS: tuple[Form, ...] = ("convolution", "recurrent")


@dataclass(frozen=True)
class Problem:
    """The sizes of one layer's recurrence."""

    batch: int
    length: int
    state_dim: int
    inputs: int
    outputs: int


def terms(form: Form, problem: Problem) -> tuple[float, ...]:
    """What the time of a form is made of: a constant, and counts that grow with the problem."""
    steps = problem.batch * problem.length
    channels, pairs = problem.inputs + problem.outputs, problem.inputs * problem.outputs
    if form == "recurrent":
        return 1.0, steps * channels, steps * problem.state_dim, steps * problem.state_dim * channels
    logarithm = math.log2(2 * problem.length)
    return (
        1.0,
        (steps * channels + problem.length * pairs) * logarithm,  # transforms
        steps * pairs,  # products in frequency
        problem.length * problem.state_dim,  # powers of the poles
        problem.length * problem.state_dim * pairs,  # the kernel
    )


@dataclass(frozen=True)
class CostModel:
    """Seconds per unit of each of the ``terms``, by form."""

    constants: dict[Form, tuple[float, ...]]

    def seconds(self, form: Form, problem: Problem) -> float:
        """Predicted seconds of one forward and backward pass."""
        return sum(c * t for c, t in zip(self.constants[form], terms(form, problem), strict=True))

    def cheapest(self, problem: Problem) -> Form:
        """The form with the least predicted time."""
        return min(FORMS, key=lambda form: self.seconds(form, problem))


DEFAULT = CostModel(
    {
        "convolution": (2.7e-3, 2.0e-9, 1.7e-9, 0.0, 5.6e-10),
        "recurrent": (7.7e-4, 1.4e-9, 1.15e-8, 1.02e-10),
    }
)
"""Of two cores of an AMD EPYC without AVX-512, in float32: for where nothing is calibrated."""
