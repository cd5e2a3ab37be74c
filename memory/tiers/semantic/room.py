"""What has no room in the semantic tier, and how is it written down? Segments as pieces, decisions as moves."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memory.domain.moves import NewMove, PolicyName, Reason
from memory.domain.principals import SHARED
from memory.domain.recall import TierName
from memory.domain.segments import TierSegment
from memory.tiers.base import Floats
from memory.tiers.economy import SEGMENT
from memory.tiers.eviction import Leaving, Pieces, leaving
from memory.tiers.semantic.policy import importance

_NEAR = 8
"""Segments on either side, about, that a use tells of: eight short events, or the next long one."""
_OF_A_NEIGHBOUR = 0.5
"""Of a use of the next event, so much counts."""


@dataclass(frozen=True, slots=True)
class Departure:
    """A segment that goes, or would go; `like`: the one that stays that it is most like."""

    segment: TierSegment
    decision: Leaving
    like: TierSegment | None


def departures(
    held: Sequence[TierSegment],
    vectors: Floats,
    *,
    last_seq: int,
    capacity: int,
    policy: PolicyName = PolicyName.LRU_SIMILARITY,
) -> list[Departure]:
    """`held` with its vectors [n, 256]; `last_seq`: of the session's log. What was said last stays for sure."""
    order = sorted(range(len(held)), key=lambda at: held[at].segment_key)
    segments = [held[at] for at in order]
    pieces = _pieces(segments, vectors[order], last_seq, max(1, capacity))
    return [
        Departure(segments[one.place], one, None if one.nearest is None else segments[one.nearest])
        for one in leaving(pieces, len(segments) - capacity, policy)
    ]


def _pieces(segments: Sequence[TierSegment], vectors: Floats, last_seq: int, capacity: int) -> Pieces:
    seqs, used = _numbers([s.seq for s in segments]), _numbers([s.used_seq for s in segments])
    uses = _numbers([s.uses for s in segments])
    classes = [SHARED, *sorted({s.audience for s in segments} - {SHARED})]
    audiences = _numbers([classes.index(s.audience) for s in segments])
    # Disuse is known in events of the log; a full tier spans so many of them, as long as what it holds.
    tierful = capacity * len(np.unique(seqs)) / max(1, len(segments))
    return Pieces(
        idle=np.maximum(0, last_seq - used) / max(1.0, tierful),
        uses=uses,
        around=_around(seqs, uses, audiences),
        importance=importance(_numbers([s.characters for s in segments])),
        costs=np.full(len(segments), SEGMENT.per_byte),
        protected=seqs >= last_seq,
        audiences=audiences,
        vectors=vectors,
    )


def _around(seqs: NDArray[np.int64], uses: NDArray[np.int64], audiences: NDArray[np.int64]) -> NDArray[np.float64]:
    """What was recalled tells of the events around it, the less the further off: they are of one subject.

    Only of what everybody sees who sees the segment: uses of private events stay among those.
    """
    around = np.zeros(len(seqs), np.float64)
    near = max(1, round(_NEAR * len(np.unique(seqs)) / max(1, len(seqs))))
    for audience in np.unique(audiences):
        telling = (audiences == 0) | (audiences == audience)
        events, place = np.unique(seqs[telling], return_inverse=True)
        most = np.zeros(len(events), np.float64)
        np.maximum.at(most, place, uses[telling])
        own = audiences == audience
        for distance in (*range(-near, 0), *range(1, near + 1)):
            at = np.minimum(np.searchsorted(events, seqs[own] + distance), len(events) - 1)
            there = events[at] == seqs[own] + distance
            around[own] += np.where(there, most[at], 0.0) * _OF_A_NEIGHBOUR / abs(distance)
    return around


def _numbers(values: Sequence[int]) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def leaves(session_key: int, gone: Sequence[Departure]) -> list[NewMove]:
    """One move for each: every decision can be read."""
    return [
        NewMove(
            session_key=session_key,
            audience=one.segment.audience,
            origin=TierName.SEMANTIC,
            target=TierName.LONGTERM,
            reason=one.decision.reason,
            first_seq=one.segment.seq,
            last_seq=one.segment.seq,
            pieces=1,
            size=SEGMENT.bytes,
            unit="bytes",
            score=one.decision.score,
            parts=one.decision.parts,
            cluster_key=one.segment.cluster_key,
        )
        for one in gone
    ]


def joins(
    session_key: int, audience: str, new: Sequence[TierSegment], keys: Sequence[int], known: int
) -> list[NewMove]:
    """One move for each cluster that took segments in; `keys`: the cluster of each segment. From `known` on: founded.

    known: the highest key of a cluster that was there before.
    """
    moves = []
    for key, count in Counter(keys).items():
        seqs = [segment.seq for segment, joined in zip(new, keys, strict=True) if joined == key]
        reason = Reason.JOINED if key <= known else Reason.FOUNDED
        target = TierName.SEMANTIC
        moves.append(_batch(session_key, audience, target, reason, seqs, count, cluster_key=key))
    return moves


def passed_by(session_key: int, passed: Sequence[TierSegment]) -> list[NewMove]:
    """One move for each visibility class of what is too old to be taken in."""
    moves = []
    for audience in sorted({segment.audience for segment in passed}):
        seqs = [segment.seq for segment in passed if segment.audience == audience]
        moves.append(_batch(session_key, audience, TierName.LONGTERM, Reason.PASSED_BY, seqs, len(seqs)))
    return moves


def _batch(
    session_key: int,
    audience: str,
    target: TierName,
    reason: Reason,
    seqs: Sequence[int],
    count: int,
    cluster_key: int | None = None,
) -> NewMove:
    return NewMove(
        session_key=session_key,
        audience=audience,
        origin=TierName.LONGTERM,
        target=target,
        reason=reason,
        first_seq=min(seqs),
        last_seq=max(seqs),
        pieces=count,
        size=count * SEGMENT.bytes,
        unit="bytes",
        cluster_key=cluster_key,
    )
