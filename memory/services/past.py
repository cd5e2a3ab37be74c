"""What did memories say at an earlier moment, and were they valid? The indexes know only what they say today.

Memories that have changed since are read from the database: those whose text was the same only change sides (`shown`,
`hidden`); those that said something else are ranked by what they said, next to what the index found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from memory.domain.ids import ItemId, memory_item
from memory.domain.memories import Memory, Then
from memory.domain.principals import Scope
from memory.domain.recall import Degraded, TierName
from memory.ports.models import QUERY_TEXTS
from memory.ports.spaces import Spaces
from memory.ports.storage import UnitOfWork
from memory.tiers.base import Candidates, Conditions, Floats, Question
from memory.tiers.scan import asks, indexed_text, memory_passes, tells_time

_MOST = 5_000
"""Memories changed since then, the last changed first; beyond them today's text and validity stand in."""
_EMBEDDED = 32
"""Former texts that are embedded for one question, those with the most of its words first: a third of a second."""
_DEGRADED = Degraded(TierName.LONGTERM, f"more than {_MOST} memories have changed since: older changes are not undone")


@dataclass(frozen=True, slots=True)
class Past:
    """`reworded`: valid then, with another text or other metadata than today; they are hidden from the index."""

    shown: frozenset[ItemId]
    hidden: frozenset[ItemId]
    reworded: tuple[Memory, ...]
    degraded: tuple[Degraded, ...] = ()


NO_PAST = Past(frozenset(), frozenset(), ())


async def past_of(tx: UnitOfWork, scope: Scope, moment: datetime, now: datetime) -> Past:
    """What has expired by `now` is gone, also from the past."""
    found = await tx.versions.changed_since(scope.tenant_id, moment, _MOST)
    gone = frozenset(memory_item(key) for key in await tx.memories.expired_of(scope.tenant_id, now))
    valid = [then for then in found if then.memory.valid_at(moment) and _visible(then, scope)]
    same = frozenset(then.memory.item for then in valid if not then.reworded)
    hidden = frozenset(then.memory.item for then in found) - same | gone
    reworded = tuple(then.memory for then in valid if then.reworded and then.memory.item not in gone)
    return Past(same, hidden, reworded, (_DEGRADED,) if len(found) == _MOST else ())


def _visible(then: Then, scope: Scope) -> bool:
    """Then and today."""
    return shown(then.memory, scope) and shown(replace(then.memory, visibility=then.visibility), scope)


def shown(memory: Memory, scope: Scope) -> bool:
    """Whether the scope lets the caller see it."""
    inside = memory.session_key is None or scope.shows_memory(memory.session_key, memory.memory_key) is not None
    return inside and memory.tenant_id == scope.tenant_id and memory.audience in scope.audiences


class FormerTexts:
    """`analyze`: the terms of a text, as the word index sees them."""

    def __init__(self, spaces: Spaces, analyze: Callable[[str], list[str]]) -> None:
        self._spaces = spaces
        self._analyze = analyze

    async def beside(self, found: Candidates, question: Question, reworded: Sequence[Memory]) -> Candidates:
        """`found` with those of the reworded memories that meet the conditions."""
        memories = [memory for memory in reworded if _accepted(memory, question.conditions)]
        if not memories:
            return found
        terms = [set(self._analyze(indexed_text(memory.agent_id, memory.text))) for memory in memories]
        coverage = np.array([[term in known for term in found.terms] for known in terms], np.bool_)
        coverage = coverage.reshape(len(memories), len(found.terms))
        # As BM25 says it of a text of average length that has each word once.
        lexical = (coverage @ found.term_weights).astype(np.float32)
        dense = await self._dense(question, memories, lexical)
        return _joined(found, _candidates(found, memories, self._named(memories, found), dense, lexical, coverage))

    def _named(self, memories: Sequence[Memory], found: Candidates) -> list[bool]:
        return [not set(found.terms).isdisjoint(self._analyze(memory.agent_id or "")) for memory in memories]

    async def _dense(self, question: Question, memories: Sequence[Memory], lexical: Floats) -> Floats:
        dense = np.full(len(memories), np.nan, np.float32)
        query, embedder = await question.vector(), self._spaces.embedder(question.space)
        if query is None or embedder is None:
            return dense
        best = np.argsort(-lexical, kind="stable")[:_EMBEDDED]
        for at in range(0, len(best), QUERY_TEXTS):
            part = best[at : at + QUERY_TEXTS]
            dense[part] = await embedder.embed([memories[place].text for place in part]) @ query
        return dense


def _accepted(memory: Memory, conditions: Conditions) -> bool:
    if conditions.kinds is not None and memory.kind not in conditions.kinds:
        return False
    return conditions.filter is None or memory_passes(conditions.filter, memory)


def _candidates(
    found: Candidates,
    memories: Sequence[Memory],
    named: Sequence[bool],
    dense: Floats,
    lexical: Floats,
    coverage: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
) -> Candidates:
    return replace(
        found,
        items=np.array([memory.item for memory in memories], np.int64),
        sessions=np.array([memory.session_key or 0 for memory in memories], np.int64),
        seqs=np.zeros(len(memories), np.int64),
        created_at=np.array([memory.created_at.timestamp() for memory in memories], np.float64),
        asks=np.array([asks(memory.text) for memory in memories], np.bool_),
        tells_time=np.array([tells_time(memory.text) for memory in memories], np.bool_),
        speaker=np.array(named, np.bool_),
        episodes=np.full(len(memories), -1, np.int32),
        neighbours=np.full((len(memories), found.neighbours.shape[1]), -1, np.int32),
        dense=dense,
        lexical=lexical,
        coverage=coverage,
    )


_BY_ITEM = "items sessions seqs created_at asks tells_time speaker episodes neighbours dense lexical coverage".split()


def _joined(one: Candidates, other: Candidates) -> Candidates:
    """Terms and population are the first one's."""
    both: dict[str, Any] = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in _BY_ITEM}
    return replace(one, **both)
