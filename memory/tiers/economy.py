"""What is a byte of a tier worth? Seconds that it is expected to save: one measure for tiers that hold unlike things.

A byte is worth what its absence costs when it is asked for, times the chance that it is asked for. KV blocks are
weighed the same way where they lie (model_runtime/kv/eviction.py), each with the cost that was measured for it; the
prices here are those of the tiers of the memory. Long-term has no price: it is what the others are caches of, it holds
everything and gives up nothing but what was purged.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Price:
    """Of one piece: `seconds` that its absence costs when it is asked for, `bytes` that it occupies."""

    seconds: float
    bytes: int

    @property
    def per_byte(self) -> float:
        return self.seconds / self.bytes


SEGMENT = Price(seconds=0.0084, bytes=512)
"""256 dimensions in float16. Without it the long-term index is searched: 8.4 ms at 100,000 events on two cores
(benchmarks/results/recall_latency.json, recall.rank.search)."""

TOKEN = Price(seconds=0.0056, bytes=24_588)
"""KV of one token of a model of 76 million parameters on two cores, exact: computed anew in 5.6 ms
(benchmarks/results/kv_reuse.json, 8,192 tokens). A larger model has a larger price of about the same ratio."""


def score(price: Price, log_chance: float) -> float:
    """The logarithm of the seconds that a byte is expected to save: what tiers/eviction.py compares.

    `log_chance`: of the chance that it is asked for, as far as it is known.
    """
    return math.log(price.per_byte) + log_chance
