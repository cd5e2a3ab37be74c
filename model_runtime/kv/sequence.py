"""The KV of one sequence of tokens: shared blocks that are never written again, then a private one that grows.

Full blocks are attended in groups on an absolute grid, and merged in one order: a sequence gets the same bits whether
its blocks were just computed, came back from a disk, lie scattered over the slots, or in none and are streamed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from model_runtime.kv.arena import Arena
from model_runtime.kv.attention import Partial, causal, fold, masked, merge, over_batch, partial, unfold
from model_runtime.kv.retrieval import Retrieval
from model_runtime.kv.shape import BLOCK

if TYPE_CHECKING:
    import torch

    from model_runtime.kv.nodes import Node

GROUP = 16
"""Blocks attended at once: 8,192 keys."""


Stream = Callable[[int, Sequence[Sequence["Node"]]], Iterator["torch.Tensor"]]
"""(layer, runs of blocks that are not on the device) -> their KV [blocks, kv_heads, 2, BLOCK, head_dim], run by run."""


class _Run(NamedTuple):
    """Blocks of one group that are read at once. `bordering`: one block, of which some queries see a part only."""

    places: list[int]
    bordering: bool


class SequenceKV:
    """`blocks`: full ones, shared. `own`: the slot of the private one behind them. `length`: tokens with written KV.

    `stream` reads blocks that lie in no slot, at most `most` at once. `retrieval`: steps may leave blocks out.
    """

    def __init__(
        self, arena: Arena, stream: Stream | None = None, most: int = GROUP, retrieval: Retrieval | None = None
    ) -> None:
        self.blocks: list[Node] = []
        self.own: int | None = None
        self.length = 0
        self.retrieval = retrieval
        self._arena = arena
        self._stream = stream
        self._most = most

    @property
    def room(self) -> int:
        """Tokens that the private block still takes."""
        return 0 if self.own is None else BLOCK - self.length % BLOCK

    def attend(
        self, layer: int, q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", scale: float, window: int | None
    ) -> "torch.Tensor":
        """Writes k, v [kv_heads, n, head_dim] behind `length`; q [heads, n, head_dim] gets [n, heads, head_dim].

        The n tokens lie in one block. The caller adds them to `length` after the last layer. Raises BlockLost.
        """
        assert self.own is not None
        heads, n, size = q.shape
        group = heads // k.shape[0]
        offset = self.length % BLOCK
        own = self._arena.layers[layer][self.own]
        own[:, 0, offset : offset + n] = k
        own[:, 1, offset : offset + n] = v
        grouped = q.view(1, k.shape[0], group, n, size)
        kept = own[None, :, :, : offset + n]
        places = self._seen(window) if window or n > 1 else self._retrieved(layer, grouped)
        parts = list(self._earlier(layer, grouped, places, scale, window))
        parts.append(causal(grouped, kept[:, :, 0], kept[:, :, 1], scale, window))
        found = merge(parts)
        if len(places) < len(self.blocks) and self.retrieval is not None and not window:
            found = self._measured(layer, grouped, found, places, scale)
        return found.out.reshape(heads, n, size).transpose(0, 1)

    def _retrieved(self, layer: int, q: "torch.Tensor") -> Sequence[int]:
        if self.retrieval is None:
            return range(len(self.blocks))
        places = self.retrieval.choose(layer, q[0, :, :, 0], len(self.blocks), self.length)
        if len(places) < len(self.blocks):
            self.retrieval.missed.update(place for place in places if self.blocks[place].slot is None)
            now = time.time()
            for place in places:
                self.blocks[place].last_use = now
        return places

    def _measured(self, layer: int, q: "torch.Tensor", found: Partial, places: Sequence[int], scale: float) -> Partial:
        """Where coverage is measured the rest is read as well, and used."""
        assert self.retrieval is not None
        if not self.retrieval.samples(layer):
            return found
        rest = sorted(set(range(len(self.blocks))).difference(places))
        others = merge(list(self._earlier(layer, q, rest, scale, None)))
        self.retrieval.measured(found.lse, others.lse, len(rest))
        return merge([found, others])

    def _seen(self, window: int | None) -> range:
        """The places of the full blocks that some query sees."""
        return range(0 if window is None else max(0, self.length - window + 1) // BLOCK, len(self.blocks))

    def _earlier(
        self, layer: int, q: "torch.Tensor", places: Sequence[int], scale: float, window: int | None
    ) -> Iterator[Partial]:
        """One partial answer a group of full blocks, wherever they lie."""
        last = self.length + q.shape[3] - 1
        whole = 0 if window is None else max(0, last - window + BLOCK) // BLOCK
        runs = list(self._runs(places, whole))
        absent = [[self.blocks[place] for place in run.places] for run in runs if self._slot(run) is None]
        streamed = self._streamed(layer, absent)
        for _, group in groupby(runs, lambda run: run.places[0] // GROUP):
            seen = []
            for run in group:
                slot = self._slot(run)
                kv = next(streamed) if slot is None else self._arena.layers[layer][slot : slot + len(run.places)]
                seen.append(self._partial(run, q, kv, scale, window))
            yield unfold(over_batch(_stacked(seen)), q.shape[2])

    def _slot(self, run: _Run) -> int | None:
        return self.blocks[run.places[0]].slot

    def _streamed(self, layer: int, absent: "list[list[Node]]") -> Iterator["torch.Tensor"]:
        if not absent:
            return iter(())
        if self._stream is None:
            raise ValueError("a block is not on the device, and nothing reads it elsewhere")
        return self._stream(layer, absent)

    def _runs(self, places: Sequence[int], whole: int) -> Iterator[_Run]:
        """Blocks in slots beside each other are read where they lie, those in none as many as there is room for."""

        def beside(item: tuple[int, int]) -> tuple[int, int | None, int | None]:
            number, place = item
            slot = self.blocks[place].slot
            return place // GROUP, place if place < whole else None, None if slot is None else slot - number

        for (_, border, shift), run in groupby(enumerate(places), beside):
            found = [place for _, place in run]
            most = self._most if shift is None else GROUP
            for start in range(0, len(found), most):
                yield _Run(found[start : start + most], border is not None)

    def _partial(self, run: _Run, q: "torch.Tensor", kv: "torch.Tensor", scale: float, window: int | None) -> Partial:
        import torch

        if not run.bordering:
            rows = fold(q).expand(len(run.places), -1, -1, -1)
            return partial(rows, kv[:, :, 0], kv[:, :, 1], scale)
        assert window is not None
        (place,) = run.places
        keys = torch.arange(place * BLOCK, (place + 1) * BLOCK, device=q.device)
        newest = torch.arange(self.length, self.length + q.shape[3], device=q.device).unsqueeze(1)
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
