"""Attention with several heads, whose keys and values groups of queries may share, and with rotary positions."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.core.axes import Axis, Kind, Slot
from compressm_cli.layers.plain import is_plain
from compressm_cli.layers.slots import columns, rows
from compressm_cli.layers.state import State
from compressm_cli.ops.attention_inputs import attention_inputs
from compressm_cli.ops.decoding import ends_of
from compressm_cli.ops.parallel import runs_eagerly_on_cpu

ROOM = 16
"""Of how many steps keys and values can be kept at first; where that is used up, of twice as many and so many more."""


class Attention(nn.Module):
    """``o(softmax(scale * q k^T) v)`` in each head (Vaswani et al. 2017), (batch, length, H) -> (batch, length, H).

    With fewer ``kv_heads`` than ``heads``, equally many heads next to one another form a group that shares its keys and
    values (Ainslie et al. 2023, "GQA"). With ``rope_base``, queries and keys are rotated by their position (Su et al.
    2021, "RoFormer"): the dimensions i and i + head_dim / 2 of a head are a pair, as in Llama.

    The weights are those of the linear maps ``q`` (heads * qk, H), ``k`` (groups * qk, H), ``v`` (groups * vo, H) and
    ``o`` (H, heads * vo), heads in the order of their groups. A cut may leave the dimension qk of queries and keys
    another size than vo, that of values.

    No size is stored. Of the buffer ``groups``, the groups that are left, the length tells how many there are; then
    qk, vo and the queries of a group follow from what the linear maps give. The buffer ``pairs`` names the rotated
    pairs that are left, so they keep their frequencies. Both hold integers, which no change of type rounds.
    ``scale``, 1 / sqrt(head_dim), and the number of pairs that frequencies are made of stay those of the full model,
    so that cutting a dimension is the same as holding it at zero.
    """

    groups: Tensor
    """(groups,) int64; a group is one head where no heads share keys and values."""
    pairs: Tensor | None
    """(qk / 2,) int64; None without rotary positions."""

    def __init__(
        self,
        model_dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        bias: bool = False,
        rope_base: float | None = None,
    ) -> None:
        """``kv_heads`` are as many as ``heads`` where none are given, ``head_dim`` is model_dim / heads.

        Raises ValueError for sizes that do not divide.
        """
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if head_dim is None and model_dim % heads:
            raise ValueError(f"model_dim {model_dim} is no multiple of {heads} heads; give head_dim")
        if heads % kv_heads:
            raise ValueError(f"{heads} heads cannot share {kv_heads} kv_heads equally")
        head_dim = model_dim // heads if head_dim is None else head_dim
        if rope_base is not None and head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {head_dim}")
        self.q = nn.Linear(model_dim, heads * head_dim, bias=bias)
        self.k = nn.Linear(model_dim, kv_heads * head_dim, bias=bias)
        self.v = nn.Linear(model_dim, kv_heads * head_dim, bias=bias)
        self.o = nn.Linear(heads * head_dim, model_dim, bias=bias)
        self.causal = causal
        self.grouped = kv_heads < heads
        self.scale = head_dim**-0.5
        self.rope = None if rope_base is None else (rope_base, head_dim // 2)
        self.register_buffer("groups", torch.arange(kv_heads))
        self.register_buffer("pairs", None if rope_base is None else torch.arange(head_dim // 2))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (batch, length, H); lengths (batch,), at least 1, where rows are padded at their end.

        No real step attends to padding. What comes out at padded steps means nothing.
        """
        q, k, v = self._heads(x, torch.arange(x.shape[1], device=x.device))
        mask = None
        if lengths is not None and not self.causal:
            # Causal attention looks back, and padding lies ahead of all real steps.
            mask = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[:, None, None]
        return self._attended(q, k, v, mask, self.causal)

    def _heads(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (batch, heads, length, qk), keys (batch, groups, length, qk) and values (.., vo) of x.

        positions (length,), or (batch, 1, length) where rows are at different ones.
        """
        groups, maps = len(self.groups), (self.q, self.k, self.v)
        if positions.ndim == 1 and runs_eagerly_on_cpu(x) and all(map(is_plain, maps)):
            turns = None if self.rope is None else self._turns(positions, x.dtype)
            biases = None if self.q.bias is None else (self.q.bias, self.k.bias, self.v.bias)
            weights = (self.q.weight, self.k.weight, self.v.weight)
            return attention_inputs(x, weights, biases, groups, turns)
        q, k, v = self.q(x), self.k(x), self.v(x)
        heads = groups * (q.shape[-1] // k.shape[-1])
        q, k, v = by_head(q, heads), by_head(k, groups), by_head(v, groups)
        if self.rope is not None:
            q, k = self._rotated(q, positions), self._rotated(k, positions)
        return q, k, v

    def _attended(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """What queries read, (batch, length, H); mask (batch, 1, 1, keys), true where there is something to read."""
        y = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale, enable_gqa=q.shape[1] > k.shape[1]
        )
        out: Tensor = self.o(y.transpose(1, 2).flatten(2))
        return out

    @torch.no_grad()
    def initial_state(self, batch: int) -> State:
        """Keys and values of all steps so far, of which there are none; the one state that grows.

        Raises ValueError where attention is not causal: a step would have to know those after it.
        """
        self._require_causal()
        groups, like = len(self.groups), self.k.weight
        k, v = (like.new_zeros(batch, groups, ROOM, p.weight.shape[0] // groups) for p in (self.k, self.v))
        return State({"k": k, "v": v, "length": torch.zeros(batch, dtype=torch.int64, device=like.device)})

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (batch, H) at one time step, which may be another one in each row; ``state`` is used up."""
        self._require_causal()
        if x.ndim != 2:
            raise ValueError(f"a step takes x (batch, {self.q.in_features}), not {tuple(x.shape)}")
        batch, groups = len(x), len(self.groups)
        qk, vo = self.k.weight.shape[0] // groups, self.v.weight.shape[0] // groups
        sizes = {"k": (batch, groups, None, qk), "v": (batch, groups, None, vo), "length": (batch,)}
        keys, values, length = state.take(**sizes)
        q, k, v = self._heads(x[:, None], length[:, None, None])
        steps = int(length.max()) + 1 if batch else 1
        if steps > keys.shape[2]:
            keys, values = (functional.pad(t, (0, 0, 0, t.shape[2] + ROOM)) for t in (keys, values))
        rows = torch.arange(batch, device=x.device)
        keys[rows, :, length], values[rows, :, length] = k[:, :, 0], v[:, :, 0]
        mask = (torch.arange(steps, device=x.device) <= length[:, None])[:, None, None]
        y = self._attended(q, keys[:, :, :steps], values[:, :, :steps], mask, False)
        return y[:, 0], State({"k": keys, "v": values, "length": length + 1})

    @torch.no_grad()
    def prefill(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """``forward``, and the state after the last real step of each row."""
        self._require_causal()
        q, k, v = self._heads(x, torch.arange(x.shape[1], device=x.device))
        y = self._attended(q, k, v, None, True)
        return y, State({"k": k.contiguous(), "v": v.contiguous(), "length": ends_of(x, lengths)})

    def _require_causal(self) -> None:
        if not self.causal:
            raise ValueError("attention that is not causal has no step by step form")

    def _rotated(self, x: Tensor, positions: Tensor) -> Tensor:
        """x (batch, heads, length, qk), its pairs rotated by position * base^(-pair / all pairs); float32 at least."""
        cos, sin = self._turns(positions, x.dtype)
        a, b = x.to(cos.dtype).chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)

    def _turns(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine (..., length, pairs) of the angles by which pairs are rotated, in float32 at least."""
        assert self.rope is not None
        assert self.pairs is not None
        base, pairs = self.rope
        frequencies = base ** (-self.pairs.to(torch.promote_types(dtype, torch.float32)) / pairs)
        angles = positions[..., None] * frequencies
        return angles.cos(), angles.sin()

    def axes(self) -> Iterator[Axis]:
        """Heads, or groups and the queries of each; the dimensions of queries and keys (or pairs of them); of values.

        A query leaves every group at once, and a dimension every head. Silent are: a head, a group or a query whose
        columns of ``o`` are zero; a dimension of values likewise; a dimension of queries and keys that is zero in all
        queries.
        """
        groups = len(self.groups)
        qk, vo = self.k.weight.shape[0] // groups, self.v.weight.shape[0] // groups
        queries = self.q.weight.shape[0] // self.k.weight.shape[0]
        yield self._groups_axis(qk, vo, queries)
        if self.grouped:
            yield _axis(
                "queries",
                "query",
                queries,
                *rows("q", self.q, block=qk, repeat=groups, span=queries * qk),
                *columns("o", block=vo, repeat=groups, span=queries * vo),
            )
        yield self._qk_axis(qk, groups, queries)
        yield _axis(
            "vo_dim",
            "rank",
            vo,
            *rows("v", self.v, repeat=groups, span=vo),
            *columns("o", repeat=groups * queries, span=vo),
        )

    def _groups_axis(self, qk: int, vo: int, queries: int) -> Axis:
        return _axis(
            "kv_groups" if self.grouped else "heads",
            "kv_group" if self.grouped else "head",
            len(self.groups),
            *rows("q", self.q, block=queries * qk),
            *rows("k", self.k, block=qk),
            *rows("v", self.v, block=vo),
            *columns("o", block=queries * vo),
            Slot("groups", 0),
        )

    def _qk_axis(self, qk: int, groups: int, queries: int) -> Axis:
        # The two dimensions of a pair are half a head apart: every half of a head has all pairs once.
        halves = 1 if self.pairs is None else 2
        size = qk // halves
        slots = (
            *rows("q", self.q, "out", repeat=groups * queries * halves, span=size),
            *rows("k", self.k, repeat=groups * halves, span=size),
        )
        if self.pairs is None:
            return _axis("qk_dim", "rank", size, *slots)
        return _axis("qk_pairs", "rank", size, *slots, Slot("pairs", 0))


def _axis(name: str, kind: Kind, size: int, *slots: Slot) -> Axis:
    return Axis(f":{name}", kind, size, slots, "")


def by_head(x: Tensor, heads: int) -> Tensor:
    """(batch, length, heads * d) -> (batch, heads, length, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
