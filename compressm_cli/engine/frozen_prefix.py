"""The frozen beginning of a model: what it puts out for a row is computed once, and kept."""

from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from compressm_cli.core.validation import described
from compressm_cli.models import Stack, has_batch_statistics


class FrozenPrefix:
    """Calls a model with rows of known numbers; what its frozen beginning puts out for them is kept.

    The beginning is the encoder and the first blocks, as far as nothing in them is trained or random and no row depends
    on those beside it (``frozen_blocks``). It is the model itself that is called, not what wraps it for several
    processes. A batch is served where all of its rows are known with these very inputs, in the layout in which the
    model puts them out, so that the steps are those without a cache, bit by bit. Rows may be rounded otherwise in
    a batch of another size, so that only batches of the largest size so far are kept and served; and the first one that
    is served is computed as well: where it differs in a bit, nothing is kept.

    An edit, a thaw, another value, mode, attribute, hook or precision is noticed at the next call, and what was kept is
    forgotten. What takes random numbers is not kept, and inputs that want a gradient are not served. What a hook does
    beside is not done for a batch that is served. Not noticed is what is written past autograd
    (``parameter.data.mul_(...)``), or into an object that a module has: make a new one then.
    """

    def __init__(self, model: Stack, rows: int, limit: int) -> None:
        """``rows``: how many there are, numbered from 0; ``limit``: bytes that may be kept, of all rows or of none."""
        self._model, self._rows, self._limit = model, rows, limit
        self._seen: tuple[object, ...] = ()
        self._held: list[object] = []
        """Tensors and modules that were seen, so that no id is another's."""
        self._kept: Tensor | None = None
        self._inputs: Tensor | None = None
        """What each of the rows was that are kept."""
        self._like: Tensor | None = None
        """A batch as the model put it out, for its size and its layout."""
        self._reason: str | None = None
        self._is_confirmed = False
        self._forget()

    @property
    def reason(self) -> str | None:
        """Why nothing is kept, as far as that is known; None where something is, or may be."""
        return self._reason

    def __call__(self, rows: Tensor, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What the model puts out for ``inputs`` (batch, length, ...), of the data's ``rows`` (batch,) int64.

        Raises ValueError for a row that there is not, and where there are not as many rows as inputs.
        """
        self._require_rows(rows, inputs)
        numbers = rows.cpu()
        blocks = frozen_blocks(self._model)
        if (seen := self._state(blocks, inputs.device.type)) != self._seen:
            self._forget()
            self._seen = seen
        if blocks is None:
            self._reason = "the encoder is trained, or random"
        elif lengths is not None:
            self._reason = "rows are padded to the longest one of their batch"
        elif self._model._forward_hooks or self._model._forward_pre_hooks:
            self._reason = "the model has hooks, which see it whole"
        if inputs.requires_grad:  # of what is kept the inputs would get no gradient
            return self._model(inputs, lengths)
        if self._reason is not None or blocks is None:
            return self._model(inputs, lengths)
        return self._model.from_hidden(self._hidden(numbers, inputs, blocks), lengths, blocks)

    def _require_rows(self, rows: Tensor, inputs: Tensor) -> None:
        if not isinstance(rows, Tensor) or rows.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"the numbers of rows are a tensor of whole numbers, not {described(rows)}")
        if rows.shape != inputs.shape[:1]:
            raise ValueError(f"{tuple(rows.shape)} numbers of rows for {len(inputs)} inputs")
        if len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= self._rows):
            raise ValueError(
                f"rows are numbered from 0 to {self._rows - 1}, got {int(rows.min())} to {int(rows.max())}"
            )

    def _hidden(self, rows: Tensor, inputs: Tensor, blocks: int) -> Tensor:
        x = self._served(rows, inputs)
        if x is None:
            before = _random(inputs.device)
            x = self._model.hidden(inputs, None, blocks)
            if all(map(torch.equal, before, _random(inputs.device))):
                self._keep(rows, inputs, x)
            else:
                self._forget()
                self._reason = "something in it is random"
            return x
        if not self._is_confirmed:
            fresh = self._model.hidden(inputs, None, blocks)
            if not torch.equal(fresh, x) or fresh.stride() != x.stride():
                self._forget()
                self._reason = "a row is rounded otherwise beside other rows"
                return fresh
            self._is_confirmed = True
        return x

    def _served(self, rows: Tensor, inputs: Tensor) -> Tensor | None:
        """What is kept of some rows, laid out as the model would; None where one is not known, or was another."""
        kept, known, like = self._kept, self._inputs, self._like
        if kept is None or known is None or like is None or len(rows) != len(like):
            return None
        if not _are_alike(inputs, known) or not bool(self._known[rows].all()):
            return None
        if not torch.equal(known[rows.to(known.device)], inputs):
            return None
        return torch.empty_like(like).copy_(kept[rows.to(kept.device)])

    def _keep(self, rows: Tensor, inputs: Tensor, x: Tensor) -> None:
        if self._like is not None and len(rows) > len(self._like):
            self._forget()
        if self._kept is None or self._inputs is None:
            needed = self._rows * (_row_bytes(x) + _row_bytes(inputs)) if len(rows) else 0
            if needed > self._limit:
                self._reason = f"all {self._rows} rows take {needed} bytes, and {self._limit} may be kept"
                return
            self._kept = x.new_empty(self._rows, *x.shape[1:])
            self._inputs = inputs.new_empty(self._rows, *inputs.shape[1:])
            self._like = x.detach()
        if self._like is not None and len(rows) == len(self._like) and _are_alike(inputs, self._inputs):
            self._kept[rows.to(x.device)] = x.detach()
            self._inputs[rows.to(inputs.device)] = inputs.detach()
            # Not where a row is there twice, with two inputs.
            self._known[rows] = torch.equal(self._inputs[rows.to(inputs.device)], inputs)

    def _forget(self) -> None:
        self._kept, self._inputs, self._like, self._reason = None, None, None, None
        self._known = torch.zeros(self._rows, dtype=torch.bool)
        self._is_confirmed = False

    def _state(self, blocks: int | None, device: str) -> tuple[object, ...]:
        """What the outputs depend on: other modules, tensors, values in them, hooks or precision compare unequal."""
        beginning = [] if blocks is None else [self._model.encoder, *islice(self._model.blocks, blocks)]
        tensors = [t for m in beginning for t in (*m.parameters(), *m.buffers())]
        parts = [part for m in beginning for part in m.modules()]
        self._held = [*tensors, *parts]
        precision = (
            torch.is_autocast_enabled(device),
            torch.get_autocast_dtype(device),
            torch.get_float32_matmul_precision(),
        )
        hooks = tuple(torch_module._global_forward_hooks), tuple(torch_module._global_forward_pre_hooks)
        values = [(id(t), _version(t), t.data_ptr(), t.dtype, t.shape) for t in tensors]
        return blocks, precision, hooks, values, [_seen(part) for part in (self._model, *parts)]


def frozen_blocks(model: Stack) -> int | None:
    """How many blocks from the first on, and the encoder, put out the same for a row each time; None: not even that."""
    if not _is_fixed(model.encoder):
        return None
    return next((i for i, block in enumerate(model.blocks) if not _is_fixed(block)), len(model.blocks))


def _is_fixed(module: nn.Module) -> bool:
    """Whether nothing in a module is trained, or random, or depends on the other rows."""
    if any(p.requires_grad for p in module.parameters()):
        return False
    return not any(
        part.training and (has_batch_statistics(part) or _drops(part)) for part in module.modules()
    )


def _drops(module: nn.Module) -> bool:
    shares = getattr(module, "dropout", 0.0), getattr(module, "p", 0.0)
    return any(isinstance(share, float | int) and share > 0 for share in shares)


def _random(device: torch.device) -> tuple[Tensor, ...]:
    """The state of the random numbers that a pass may take."""
    own = (torch.cuda.get_rng_state(device),) if device.type == "cuda" else ()
    return torch.get_rng_state(), *own


def _version(tensor: Tensor) -> object:
    """How often a tensor was written to; of one that does not count that, what equals nothing else."""
    return object() if tensor.is_inference() else tensor._version


def _seen(part: nn.Module) -> tuple[object, ...]:
    """What is told of a module beside its tensors: plain attributes by their value, others by what they are."""
    hooks = tuple(part._forward_hooks), tuple(part._forward_pre_hooks)
    attributes = {
        name: value if isinstance(value, bool | int | float | str) else id(value)
        for name, value in vars(part).items()
        if not name.startswith("_")
    }
    return id(part), type(part), attributes, str(getattr(part, "form", None)), hooks


def _are_alike(inputs: Tensor, known: Tensor) -> bool:
    """Whether rows have the shape and the type of those that are known, on the same device."""
    return (inputs.shape[1:], inputs.dtype, inputs.device) == (known.shape[1:], known.dtype, known.device)


def _row_bytes(batch: Tensor) -> int:
    return batch[0].numel() * batch.element_size()
