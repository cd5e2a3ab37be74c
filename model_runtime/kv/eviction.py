"""Which blocks go when room is needed?

A block whose children stay is useless to them if it goes, so only leaves go: then their parents are leaves. Among the
leaves: branches that were superseded, then tenants over their quota, then what is cheapest to lose:
seconds to recompute x chance that it is asked for again / bytes.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from model_runtime.kv.identity import BlockId

_HORIZON = 3_600.0
_FRESH = 60.0


class Reason(StrEnum):
    SUPERSEDED = "superseded"
    OVER_QUOTA = "over_quota"
    LEAST_VALUE = "least_value"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A block of a tier. All blocks of the tier are given, those too that can't go: they hold their parents."""

    block_id: BlockId
    parent: BlockId | None
    tenant: str
    bytes: int
    last_use: float
    """Seconds, of the clock of `now`."""
    uses: int
    recompute_seconds: float
    pinned: bool
    superseded: bool
    refs: int
    """Running requests that read it."""


@dataclass(frozen=True, slots=True)
class Choice:
    block_id: BlockId
    reason: Reason


_Rank: TypeAlias = tuple[bool, bool, float, bytes]


def choose(
    candidates: Iterable[Candidate], need_bytes: int, now: float, quotas: Mapping[str, int] | None = None
) -> list[Choice]:
    """What to drop, in this order, until `need_bytes` are free: all that may go where that is not enough.

    `quotas`: bytes per tenant; a tenant without one is never over it. Raises ValueError where an id is given twice.
    """
    blocks = list(candidates)
    by_id = {block.block_id: block for block in blocks}
    if len(by_id) != len(blocks):
        raise ValueError("a block is given twice")
    children = Counter(block.parent for block in blocks if block.parent is not None)
    usage = _Usage(blocks, quotas or {})
    leaves = [(_rank(b, usage, now), b.block_id) for b in blocks if _may_go(b) and not children[b.block_id]]
    heapq.heapify(leaves)
    chosen: list[Choice] = []
    freed = 0
    while leaves and freed < need_bytes:
        rank, block_id = heapq.heappop(leaves)
        block = by_id[block_id]
        current = _rank(block, usage, now)
        if current != rank:  # its tenant is within the quota by now; a rank only rises, so this ends
            heapq.heappush(leaves, (current, block_id))
            continue
        chosen.append(Choice(block_id, _reason(current)))
        freed += block.bytes
        usage.free(block)
        parent = by_id.get(block.parent) if block.parent is not None else None
        if parent is not None:
            children[parent.block_id] -= 1
            if not children[parent.block_id] and _may_go(parent):
                heapq.heappush(leaves, (_rank(parent, usage, now), parent.block_id))
    return chosen


def value(block: Candidate, now: float) -> float:
    """Seconds of computing that a byte is expected to save."""
    chance = reuse_chance(now - block.last_use, block.uses)
    return block.recompute_seconds * chance / max(block.bytes, 1)


def reuse_chance(idle_seconds: float, uses: int) -> float:
    """That a block is asked for within the next hour: falls with the time since its last use, rises with its uses.

    Uses arrive at an unknown rate: with a gamma prior on it (1 use a minute before the last one), the chance of none
    within h is (1 + h / (idle + 60 s)) ^ -(1 + uses).
    """
    odds = _HORIZON / (max(idle_seconds, 0.0) + _FRESH)
    return -math.expm1(-(1 + uses) * math.log1p(odds))


class _Usage:
    """Mutable: bytes per tenant while blocks go."""

    def __init__(self, blocks: Iterable[Candidate], quotas: Mapping[str, int]) -> None:
        self._quotas = quotas
        self._bytes: Counter[str] = Counter()
        for block in blocks:
            self._bytes[block.tenant] += block.bytes

    def over(self, tenant: str) -> bool:
        return tenant in self._quotas and self._bytes[tenant] > self._quotas[tenant]

    def free(self, block: Candidate) -> None:
        self._bytes[block.tenant] -= block.bytes


def _may_go(block: Candidate) -> bool:
    return not block.pinned and block.refs == 0


def _rank(block: Candidate, usage: _Usage, now: float) -> _Rank:
    return not block.superseded, not usage.over(block.tenant), value(block, now), block.block_id


def _reason(rank: _Rank) -> Reason:
    not_superseded, not_over, *_ = rank
    if not not_superseded:
        return Reason.SUPERSEDED
    return Reason.LEAST_VALUE if not_over else Reason.OVER_QUOTA
