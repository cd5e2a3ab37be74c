"""Which blocks moved between tiers lately, and why? A ring of the newest, for who looks; the counts have them all.

No token, no text and no session: a block is found by content, so it may be several sessions' at once.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from threading import Lock

from model_runtime.kv.reports import BlockMove

_TOGETHER = 1.0
"""Seconds within which the same move of several blocks is one entry: a prompt of 64 blocks is not 64 lines."""
_NEWEST = 32
"""Entries that are looked at for that: tenants take turns."""


class Departures:
    """One thread notes; any thread reads. `most`: entries of all tenants together, about 300 bytes each."""

    def __init__(self, clock: Callable[[], float] = time.time, most: int = 2_000) -> None:
        self._clock = clock
        self._kept: deque[tuple[str, BlockMove]] = deque(maxlen=most)
        self._lock = Lock()

    def note(self, tenant: str, origin: str, target: str | None, reason: str, nbytes: int) -> None:
        """`target` None: no tier has the block any more."""
        now = self._clock()
        with self._lock:
            for back in range(1, min(_NEWEST, len(self._kept)) + 1):
                whose, move = self._kept[-back]
                if not 0 <= now - move.at < _TOGETHER:
                    break
                if (whose, move.origin, move.target, move.reason) == (tenant, origin, target, reason):
                    grown = replace(move, blocks=move.blocks + 1, bytes=move.bytes + nbytes)
                    self._kept[-back] = (tenant, grown)
                    return
            self._kept.append((tenant, BlockMove(now, origin, target, reason, 1, nbytes)))

    def of(self, tenant: str) -> tuple[BlockMove, ...]:
        """Newest first."""
        with self._lock:
            kept = list(self._kept)
        return tuple(move for whose, move in reversed(kept) if whose == tenant)
