"""The frozen beginning of a model: what it puts out for a row is computed once, and kept."""

from itertools import islice

import torch
from torch import Tensor, nn

from compressm_cli.models import SequenceModel, has_batch_statistics


class FrozenPrefix:
    """Calls a model with rows of known numbers; what its frozen beginning puts out for them is kept.

    The beginning is the encoder and the first blocks, as far as nothing in them is trained or random and no row depends
    on those beside it (``frozen_blocks``). It is the model itself that is called, not what wraps it for several
    processes. A batch is served where all of its rows are known, in the layout in which the model puts them out, so
    that the steps are those without a cache, bit by bit. The first batch that is served is computed as well: where it
    differs in a bit - rows may be rounded otherwise beside other rows - nothing is kept.

    An edit, a thaw, another value, mode or precision is noticed at the next call, and what was kept is forgotten.
    """

    def __init__(self, model: SequenceModel, rows: int, limit: int) -> None:
        """``rows``: how many there are, numbered from 0; ``limit``: bytes that may be kept, of all rows or of none."""
        self._model, self._rows, self._limit = model, rows, limit
        self._seen: tuple[object, ...] = ()
        self._tensors: list[Tensor] = []
        self._kept: Tensor | None = None
        self._like: Tensor | None = None
        """A batch as the model put it out, for its layout."""
        self._reason: str | None = None
        self._is_confirmed = False
        self._forget()

    @property
    def reason(self) -> str | None:
        """Why nothing is kept, as far as that is known; None where something is, or may be."""
        return self._reason

    def __call__(self, rows: Tensor, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What the model puts out for ``inputs`` (batch, length, ...), of the data's ``rows`` (batch,) int64."""
        blocks = frozen_blocks(self._model)
        if (seen := self._state(blocks, inputs.device.type)) != self._seen:
            self._forget()
            self._seen = seen
        if blocks is None:
            self._reason = "the encoder is trained, or random"
        elif lengths is not None:
            self._reason = "rows are padded to the longest one of their batch"
        if self._reason is not None or blocks is None:
            return self._model(inputs, lengths)
        return self._model.from_hidden(self._hidden(rows.cpu(), inputs, blocks), lengths, blocks)

    def _hidden(self, rows: Tensor, inputs: Tensor, blocks: int) -> Tensor:
        x = self._served(rows)
        if x is None:
            x = self._model.hidden(inputs, None, blocks)
            self._keep(rows, x)
            return x
        if not self._is_confirmed:
            fresh = self._model.hidden(inputs, None, blocks)
            if not torch.equal(fresh, x) or fresh.stride() != x.stride():
                self._forget()
                self._reason = "a row is rounded otherwise beside other rows"
                return fresh
            self._is_confirmed = True
        return x

    def _served(self, rows: Tensor) -> Tensor | None:
        """What is kept of some rows, laid out as the model would; None where one is not known."""
        kept, like = self._kept, self._like
        if kept is None or like is None or not bool(self._known[rows].all()):
            return None
        found = kept[rows.to(kept.device)]
        if len(rows) != len(like):
            return found if like.is_contiguous() else None
        return torch.empty_like(like).copy_(found)

    def _keep(self, rows: Tensor, x: Tensor) -> None:
        if self._kept is None:
            needed = self._rows * x[0].numel() * x.element_size()
            if needed > self._limit:
                self._reason = f"all {self._rows} rows take {needed} bytes, and {self._limit} may be kept"
                return
            self._kept = x.new_empty(self._rows, *x.shape[1:])
        if x.shape[1:] == self._kept.shape[1:]:
            self._like = x.detach()
            self._kept[rows.to(x.device)] = x.detach()
            self._known[rows] = True

    def _forget(self) -> None:
        self._kept, self._like, self._reason = None, None, None
        self._known = torch.zeros(self._rows, dtype=torch.bool)
        self._is_confirmed = False

    def _state(self, blocks: int | None, device: str) -> tuple[object, ...]:
        """What the outputs depend on: other tensors, other values in them, or another precision compare unequal."""
        beginning = [] if blocks is None else [self._model.encoder, *islice(self._model.blocks, blocks)]
        self._tensors = [
            t for m in beginning for t in (*m.parameters(), *m.buffers())
        ]  # so that no id is another's
        forms = [str(getattr(part, "form", None)) for m in beginning for part in m.modules()]
        precision = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        return blocks, self._model.training, precision, forms, [(id(t), t._version) for t in self._tensors]


def frozen_blocks(model: SequenceModel) -> int | None:
    """How many blocks from the first on, and the encoder, put out the same for a row each time; None: not even that."""
    if not _is_fixed(model.encoder):
        return None
    return next((i for i, block in enumerate(model.blocks) if not _is_fixed(block)), len(model.blocks))


def _is_fixed(module: nn.Module) -> bool:
    """Whether nothing in a module is trained, or random, or depends on the other rows."""
    if any(p.requires_grad for p in module.parameters()):
        return False
    return not (module.training and (has_batch_statistics(module) or any(map(_drops, module.modules()))))


def _drops(module: nn.Module) -> bool:
    shares = getattr(module, "dropout", 0.0), getattr(module, "p", 0.0)
    return any(isinstance(share, float) and share > 0.0 for share in shares)
