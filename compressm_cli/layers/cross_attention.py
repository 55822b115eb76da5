"""Attention of one sequence to another one, as of a translation to what is translated."""

import torch
from torch import Tensor

from compressm_cli.layers.attention import Attention, by_head
from compressm_cli.layers.state import State


class CrossAttention(Attention):
    """``o(softmax(scale * q k^T) v)`` with queries of one sequence, and keys and values of another, the memory.

    Weights and axes are those of ``Attention``. It knows no positions: every step reads the whole memory.
    """

    def __init__(
        self,
        model_dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__(model_dim, heads, kv_heads=kv_heads, head_dim=head_dim, causal=False, bias=bias)

    def forward(  # type: ignore[override]  # there are two sequences
        self, x: Tensor, memory: Tensor, lengths: Tensor | None = None
    ) -> Tensor:
        """x (batch, length, H) reads memory (batch, steps, H); lengths (batch,), at least 1, of the memory's rows."""
        k, v = self._memory(memory)
        return self._read(x, k, v, lengths)

    @torch.no_grad()
    def initial_state(self, batch: int) -> State:
        """Raises ValueError: what is kept is made of the memory, by ``prefill``."""
        raise ValueError("cross-attention begins with prefill, which is given the memory")

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (batch, H) at one time step; ``state`` is used up, and goes on as it is."""
        if x.ndim != 2:
            raise ValueError(f"a step takes x (batch, {self.q.in_features}), not {tuple(x.shape)}")
        batch, groups = len(x), len(self.groups)
        qk, vo = self.k.weight.shape[0] // groups, self.v.weight.shape[0] // groups
        k, v, lengths = state.take(k=(batch, groups, None, qk), v=(batch, groups, None, vo), lengths=(batch,))
        return self._read(x[:, None], k, v, lengths)[:, 0], State({"k": k, "v": v, "lengths": lengths})

    @torch.no_grad()
    def prefill(  # type: ignore[override]
        self, x: Tensor, memory: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """``forward``, and keys and values of the memory, which all steps read."""
        k, v = self._memory(memory)
        if lengths is None:
            lengths = torch.full((len(x),), memory.shape[1], device=x.device)
        kept = State({"k": k.contiguous(), "v": v.contiguous(), "lengths": lengths})
        return self._read(x, k, v, lengths), kept

    def _memory(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (batch, groups, steps, qk) and values (batch, groups, steps, vo)."""
        groups = len(self.groups)
        return by_head(self.k(memory), groups), by_head(self.v(memory), groups)

    def _read(self, x: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> Tensor:
        q = self.q(x)
        heads = len(self.groups) * (q.shape[-1] // self.k.weight.shape[0])
        mask = None
        if lengths is not None:
            mask = (torch.arange(k.shape[2], device=x.device) < lengths[:, None])[:, None, None]
        return self._attended(by_head(q, heads), k, v, mask, False)
