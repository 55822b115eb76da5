"""What steps make of parameters, made once for as long as these stay the same."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class Remembered:
    """What was made of some tensors, until one of them is another one or was changed in place.

    A change through ``.data`` is not noticed: a layer forgets where a new sequence begins.
    """

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []
        self._marks: list[Any] = []
        self._value: Any = None

    def of(self, tensors: Iterable[Tensor], make: Callable[[], T]) -> T:
        """The value of ``make``, a function of these tensors alone."""
        now = list(tensors)
        if any(t.is_inference() for t in now):  # these do not count their changes
            return make()
        marks = [(t._version, t.data_ptr(), t.dtype, t.device) for t in now]
        same = len(now) == len(self._tensors) and all(a is b for a, b in zip(now, self._tensors, strict=True))
        if not same or marks != self._marks:
            self._value, self._tensors, self._marks = make(), now, marks
        value: T = self._value
        return value

    def forget(self) -> None:
        """Let the value be made anew."""
        self.__init__()  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Remembered":
        return Remembered()

    def __reduce__(self) -> tuple[type["Remembered"], tuple[()]]:
        return Remembered, ()
