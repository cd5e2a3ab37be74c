"""The KV of one sequence of tokens: shared blocks that are never written again, then a private one that grows.

Full blocks are attended in groups on an absolute grid, and merged in one order: a sequence gets the same bits whether
its blocks were just computed, came back from a disk, or lie scattered over the slots.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from model_runtime.kv.arena import Arena
from model_runtime.kv.attention import Partial, causal, fold, masked, merge, over_batch, partial, unfold
from model_runtime.kv.shape import BLOCK

if TYPE_CHECKING:
    import torch

_GROUP = 16
"""Blocks attended at once: 8,192 keys."""


class SequenceKV:
    """`slots`: one a block, the last one private while it is not full. `length`: tokens whose KV is written."""

    def __init__(self, arena: Arena, slots: Sequence[int] = (), length: int = 0) -> None:
        self.slots = list(slots)
        self.length = length
        self._arena = arena

    @property
    def room(self) -> int:
        """Tokens that the private block still takes."""
        return len(self.slots) * BLOCK - self.length

    def attend(
        self, layer: int, q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", scale: float, window: int | None
    ) -> "torch.Tensor":
        """Writes k, v [kv_heads, n, head_dim] behind `length`; q [heads, n, head_dim] gets [n, heads, head_dim].

        The n tokens lie in one block. The caller adds them to `length` after the last layer.
        """
        heads, n, size = q.shape
        group = heads // k.shape[0]
        full, offset = divmod(self.length, BLOCK)
        own = self._arena.layers[layer][self.slots[full]]
        own[:, 0, offset : offset + n] = k
        own[:, 1, offset : offset + n] = v
        grouped = q.view(1, k.shape[0], group, n, size)
        kept = own[None, :, :, : offset + n]
        parts = list(self._earlier(layer, grouped, full, scale, window))
        parts.append(causal(grouped, kept[:, :, 0], kept[:, :, 1], scale, window))
        return merge(parts).out.reshape(heads, n, size).transpose(0, 1)

    def _earlier(self, layer: int, q: "torch.Tensor", full: int, scale: float, window: int | None) -> Iterator[Partial]:
        """One partial answer a group of full blocks that a query can see."""
        first, last = self.length, self.length + q.shape[3] - 1
        begin = 0 if window is None else max(0, first - window + 1) // BLOCK
        whole = 0 if window is None else max(0, last - window + BLOCK) // BLOCK
        for start in range(begin // _GROUP * _GROUP, full, _GROUP):
            places = range(max(start, begin), min(start + _GROUP, full))
            seen = [self._bordering(layer, q, place, scale, window) for place in places if place < whole and window]
            inside = [place for place in places if window is None or place >= whole]
            seen += list(self._runs(layer, q, inside, scale))
            if seen:
                yield unfold(over_batch(_stacked(seen)), q.shape[2])

    def _runs(self, layer: int, q: "torch.Tensor", places: list[int], scale: float) -> Iterator[Partial]:
        """Blocks in slots beside each other are read where they lie."""
        for _, run in groupby(places, lambda place: self.slots[place] - place):
            found = list(run)
            at = self.slots[found[0]]
            kv = self._arena.layers[layer][at : at + len(found)]
            rows = fold(q).expand(len(found), -1, -1, -1)
            yield partial(rows, kv[:, :, 0], kv[:, :, 1], scale)

    def _bordering(self, layer: int, q: "torch.Tensor", place: int, scale: float, window: int | None) -> Partial:
        """A block of which some queries see a part only."""
        import torch

        assert window is not None
        keys = torch.arange(place * BLOCK, (place + 1) * BLOCK, device=q.device)
        newest = torch.arange(self.length, self.length + q.shape[3], device=q.device).unsqueeze(1)
        kv = self._arena.layers[layer][self.slots[place]][None]
        return masked(fold(q), kv[:, :, 0], kv[:, :, 1], scale, (keys > newest - window).repeat(q.shape[2], 1))


def _stacked(parts: list[Partial]) -> Partial:
    import torch

    return Partial(torch.cat([part.out for part in parts]), torch.cat([part.lse for part in parts]))


def attention(
    module: Any,
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: "torch.Tensor | None",
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    kv: Sequence[SequenceKV] = (),
    **others: Any,
) -> "tuple[torch.Tensor, None]":
    """For transformers' `AttentionInterface`: query [B, heads, n, head_dim] -> [B, n, heads, head_dim].

    Causality and the window are ours: a private name gets no mask. `kv`: one sequence a row of the batch.
    """
    import torch

    unknown = {name for name in _CHANGE_THE_SCORES if others.get(name) is not None}
    if unknown:
        raise NotImplementedError(f"attention with {', '.join(sorted(unknown))} is not supported")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows = [
        sequence.attend(module.layer_idx, q, k, v, scale, sliding_window)
        for sequence, q, k, v in zip(kv, query, key, value, strict=True)
    ]
    return torch.stack(rows), None


_CHANGE_THE_SCORES = ("softcap", "s_aux", "position_bias", "sinks")
