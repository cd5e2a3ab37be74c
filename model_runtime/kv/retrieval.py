"""Which earlier blocks does a new token read? The first, the latest, and those that can matter most to it.

Whether that was enough is measured: now and then a layer also reads the rest, and says which share of the softmax's
mass the chosen blocks had (coverage). When it was low, the answer reads everything for a while.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from model_runtime.kv.arena import Arena
from model_runtime.kv.shape import BLOCK, SUBPAGE
from model_runtime.kv.summaries import Summaries

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SparsePolicy:
    """Up to `dense_tokens`, and in the first `dense_layers` layers, everything is read.

    Above: the first block, those of the last `window_tokens`, and `top_k` more.
    """

    dense_tokens: int = 16_384
    window_tokens: int = 8_192
    top_k: int = 64
    dense_layers: int = 2
    least_coverage: float = 0.9
    sample_every: int = 32
    """Steps from one measurement of coverage to the next; each is of one layer, in turn."""
    dense_steps: int = 64
    """Steps that read everything after a measurement below `least_coverage`."""

    def facts(self) -> dict[str, Any]:
        """For the namespace: KV behind a sparse step is not what a dense one would have computed."""
        return {"sparse": asdict(self) | {"subpage": SUBPAGE}}


@dataclass(slots=True)
class SparseCounts:
    """`there`: blocks that dense steps would have read in the same layers; `sampled`: read to measure only."""

    steps: int = 0
    dense_steps: int = 0
    fallbacks: int = 0
    read: int = 0
    there: int = 0
    sampled: int = 0
    samples: int = 0
    covered: float = 0.0
    """The sum of the measured shares."""

    @property
    def coverage(self) -> float | None:
        return self.covered / self.samples if self.samples else None


class Retrieval:
    """Of one answer. `summaries`: of its blocks, as far as they are made; steps are dense until all are."""

    def __init__(self, policy: SparsePolicy, arena: Arena, totals: SparseCounts) -> None:
        self.policy = policy
        self.summaries = Summaries(arena)
        self.counts = SparseCounts()
        self.missed: Counter[int] = Counter()
        """By place: how often a layer read a block that was not on the device."""
        self._layers = arena.shape.layers
        self._both = (self.counts, totals)
        self._active = False
        self._dense_left = 0
        self._before: dict[int, set[int]] = {}

    def due(self, length: int) -> bool:
        """Whether a step behind so many tokens is sparse, given the summaries."""
        return length > self.policy.dense_tokens and self.policy.dense_layers < self._layers

    def begin(self, blocks: int, length: int) -> None:
        """A step begins that computes one new token behind so many full blocks."""
        self._active = False
        if not self.due(length):
            return
        self._active = not self._dense_left and self.summaries.count >= blocks
        self._dense_left = max(0, self._dense_left - 1)
        for counts in self._both:
            counts.steps += self._active
            counts.dense_steps += not self._active

    def end(self) -> None:
        self._active = False

    def choose(self, layer: int, q: "torch.Tensor", blocks: int, length: int) -> Sequence[int]:
        """Places to read, in order, of `blocks` full ones; q [kv_heads, group, head_dim]."""
        if not self._active or layer < self.policy.dense_layers:
            return range(blocks)
        latest = min(blocks, max(1, (length - self.policy.window_tokens) // BLOCK))
        chosen: Sequence[int] = range(blocks)
        if latest - 1 > self.policy.top_k:
            ranks = _ranks(self.summaries.scores(layer, q)[:, 1:latest])
            best = [1 + place for place in ranks[: 2 * self.policy.top_k]]
            middle = _kept(best, self._before.get(layer, set()), self.policy.top_k)
            self._before[layer] = set(middle)
            chosen = [0, *sorted(middle), *range(latest, blocks)]
        for counts in self._both:
            counts.read += len(chosen)
            counts.there += blocks
        return chosen

    def samples(self, layer: int) -> bool:
        """Whether this layer's coverage is measured in this step."""
        number, late = divmod(self.counts.steps - 1, self.policy.sample_every)
        sparse = self._layers - self.policy.dense_layers
        return self._active and not late and layer == self.policy.dense_layers + number % sparse

    def measured(self, chosen: "torch.Tensor", rest: "torch.Tensor", blocks: int) -> None:
        """The log-sum-exp of all heads over what was chosen, and over the `blocks` that were not."""
        coverage = float((chosen - rest).double().sigmoid().mean())
        low = coverage < self.policy.least_coverage
        self._dense_left = self.policy.dense_steps if low else 0
        for counts in self._both:
            counts.samples += 1
            counts.covered += coverage
            counts.sampled += blocks
            counts.fallbacks += low

    def worth_keeping_close(self) -> int | None:
        """The place of a block that was missed as often as bringing it costs: once a layer."""
        if not self.missed:
            return None
        place, times = self.missed.most_common(1)[0]
        if times < self._layers:
            return None
        self.missed.clear()
        return place

    def truncate(self, blocks: int) -> None:
        self._active = False
        self.summaries.truncate(blocks)
        self.missed.clear()
        self._before.clear()


def _ranks(scores: "torch.Tensor") -> list[int]:
    """Blocks of scores [kv_heads, blocks], best first. Heads can't be compared: a block stands as in its best one."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    standing = order.argsort(dim=1).amin(0)
    found: list[int] = standing.argsort(stable=True).tolist()
    return found


def _kept(best: list[int], before: set[int], top_k: int) -> list[int]:
    """Half of them are the best now; for the rest those of the step before go first, as long as they are still good."""
    first = best[: math.ceil(top_k / 2)]
    others = sorted(best[len(first) :], key=lambda place: place not in before)
    return [*first, *others[: top_k - len(first)]]
