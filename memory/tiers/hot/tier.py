"""The recent window of a session: kept verbatim in the log, its KV wherever the KV store has room.

The window itself is derived from the log (see policy), so there is nothing to lose. Its KV is found by content: whoever
asks with the same beginning reads it, and what no session's newest prompt has any more goes first.
"""

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

import numpy as np

from memory.domain.events import Event, Extent
from memory.domain.ids import ItemId
from memory.domain.recall import TierName
from memory.domain.sessions import Session
from memory.ports.indexes import LexicalDocument, LexicalIndex, LexicalScope
from memory.ports.jobs import Clock
from memory.ports.kv import KVStore
from memory.ports.spaces import Spaces
from memory.ports.storage import Storage, UnitOfWork
from memory.tiers.base import Candidates, Floats, Question, TierStats
from memory.tiers.hot import policy
from memory.tiers.hot.policy import TokenRange
from memory.tiers.hot.settings import HotSettings
from memory.tiers.scan import Words, candidates, indexed_text, matching

# A recall from the window alone reads its events: the newest of each session, up to this many.
_SCANNED = 2_000
_SESSIONS = 16


class HotTier:
    name: ClassVar = TierName.HOT
    holds: ClassVar = "the recent window of each session, token by token, and its KV"
    bound: ClassVar = "window_tokens of the session"

    def __init__(
        self,
        *,
        storage: Storage,
        kv: KVStore,
        words: Callable[[], LexicalIndex],
        spaces: Spaces,
        settings: HotSettings,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._kv = kv
        self._words = words
        self._spaces = spaces
        self._settings = settings
        self._clock = clock

    async def absorb(self, tenant_id: str, session_key: int | None = None) -> int:
        """Nothing: the window follows from the log, and its KV is computed with the answers (services/warming)."""
        return 0

    async def recall(self, question: Question) -> Candidates:
        """Reads the window of each session in scope and compares it event by event, with no index."""
        scope, space = question.scope, self._spaces.of(question.scope.tenant_id).space
        async with self._storage.read() as tx:
            keys = scope.session_keys
            if keys is None:
                newest = await tx.sessions.page(scope.tenant_id, after_key=None, limit=_SESSIONS)
                keys = tuple(session.session_key for session in newest)
            sessions = await tx.sessions.by_keys(keys[-_SESSIONS:])
            windows = [await self._newest(tx, session, question) for session in sessions.values()]
            once = {event.item: event for window in windows for event in window}  # forks share what they inherited
            vectors = await _vectors_of(tx, space, list(once.values()))
            owners = await tx.sessions.by_keys({event.session_key for event in once.values()} - sessions.keys())
        ids = {key: session.session_id for key, session in (owners | sessions).items()}
        events = matching(list(once.values()), scope, question.conditions, ids)
        vector = await question.vector() if question.space == space else None
        return self._compared(question, vector, events, vectors)

    async def evict(self, tenant_id: str, session_key: int | None = None) -> int:
        """The window slides by itself (see policy); what it left since the last time is written down.

        Its KV is not dropped: what no session's newest prompt has any more is the first to go when room is needed.
        """
        if session_key is None:
            return 0
        async with self._storage.read() as tx:
            session = (await tx.sessions.by_keys([session_key])).get(session_key)
        if session is None or self.window_begin(session) <= session.slid_tokens:
            return 0
        async with self._storage.write() as tx:
            return await self._write_down(tx, tenant_id, session_key)

    async def forget(self, tenant_id: str, session_keys: Collection[int] = ()) -> dict[str, int]:
        # By content no block is one session's alone, and a memory that was recalled is in the KV of any session.
        return {"kv_blocks": await self._kv.forget(tenant_id)}

    async def stats(self, tenant_id: str) -> TierStats:
        async with self._storage.read() as tx:
            totals = await tx.sessions.totals(tenant_id)
        kv = await self._kv.usage(tenant_id)
        details: dict[str, float | int | str] = {"sessions": totals["sessions"]}
        details |= {f"kv_bytes_{tier}": used for tier, used in kv.used.items()}
        return TierStats(items=totals["tokens"], bytes=sum(kv.used.values()), details=details)

    async def verify(self, tenant_id: str) -> list[str]:
        return await self._kv.verify()

    def window_begin(self, session: Session) -> int:
        """The place on the token axis from which events are in the window."""
        return policy.threshold(session.shared_tokens, session.window_tokens, self._grid(session))

    def _grid(self, session: Session) -> int:
        return policy.grid_of(session.window_tokens, self._settings.range_tokens)

    async def tokens(self, tx: UnitOfWork, session: Session) -> int:
        """Tokens in the window, exactly."""
        start = self.window_begin(session)
        if not start:
            return session.shared_tokens
        first = await tx.sessions.window_start(session.lineage, start)
        return 0 if first is None else session.shared_tokens - first

    async def window(self, tx: UnitOfWork, session: Session) -> list[TokenRange]:
        """The ranges in the window, oldest first."""
        extents = await tx.events.extents(session.lineage, self.window_begin(session))
        return policy.ranges(extents, self._grid(session))

    async def _write_down(self, tx: UnitOfWork, tenant_id: str, session_key: int) -> int:
        session = await tx.sessions.locked_by_key(session_key)
        begin = 0 if session is None else self.window_begin(session)
        if session is None or begin <= session.slid_tokens:
            return 0
        left = await tx.events.extents(session.lineage, session.slid_tokens, below=begin)
        if left:
            move = policy.slide(session_key, left)
            await tx.moves.add(tenant_id, [move], self._clock.now())
        await tx.sessions.mark_slid(session_key, begin)
        return len(left)

    def sliding(self, extents: Sequence[Extent], session: Session, window_tokens: int) -> list[TokenRange]:
        """The ranges that a window of so many tokens would not hold, of those that it has; oldest first."""
        grid = policy.grid_of(window_tokens, self._settings.range_tokens)
        begin = policy.threshold(session.shared_tokens, window_tokens, grid)
        return policy.ranges([extent for extent in extents if extent.token_start < begin], grid)

    async def _newest(self, tx: UnitOfWork, session: Session, question: Question) -> list[Event]:
        start, audiences = self.window_begin(session), question.scope.audiences
        found = await tx.events.page(session.lineage, audiences, limit=_SCANNED, descending=True)
        return [event for event in found if event.token_start >= start]

    def _compared(
        self, question: Question, query: Floats | None, events: list[Event], vectors: dict[ItemId, list[bytes]]
    ) -> Candidates:
        index = self._words()
        index.put(
            [LexicalDocument(e.item, e.session_key, e.audience, indexed_text(e.agent_id, e.content)) for e in events]
        )
        terms = tuple(dict.fromkeys(index.analyze(question.text)))
        hits = index.search(terms, len(events), LexicalScope(None, question.scope.audiences))
        place = {event.item: at for at, event in enumerate(events)}
        found = [place[item] for item in hits.items.tolist()]
        lexical = np.zeros(len(events), np.float32)
        coverage = np.zeros((len(events), len(terms)), np.bool_)
        lexical[found], coverage[found] = hits.scores, hits.matches
        dense = np.array([_best(query, vectors.get(event.item)) for event in events], np.float32)
        return candidates(question.text, events, dense, Words(terms, hits.term_weights, lexical, coverage))


async def _vectors_of(tx: UnitOfWork, space: str, events: list[Event]) -> dict[ItemId, list[bytes]]:
    seqs: dict[int, list[int]] = {}
    for event in events:
        seqs.setdefault(event.session_key, []).append(event.seq)
    vectors: dict[ItemId, list[bytes]] = {}
    for session_key, of_session in seqs.items():
        stretch = (session_key, min(of_session), max(of_session))
        for found in await tx.changes.vectors_of_events(space, *stretch):
            vectors.setdefault(found.item, []).append(found.vector)
    return vectors


def _best(query: Floats | None, vectors: list[bytes] | None) -> float:
    if query is None or not vectors:
        return float("nan")
    return float(max(np.frombuffer(vector, "<f2").astype(np.float32) @ query for vector in vectors))
