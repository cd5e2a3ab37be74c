"""Find what was said: resolve the scope, ask the tiers, fuse, fit the budget, read the texts."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from memory.domain.errors import Retryable
from memory.domain.events import Event, EventVisibility
from memory.domain.ids import is_memory, item_key
from memory.domain.memories import Memory, MemoryVisibility
from memory.domain.principals import Principal, Scope
from memory.domain.recall import EVENT_KIND, Degraded, EventRef, Recalled, RecallRequest, RecallResult, TierName
from memory.domain.sessions import Session
from memory.ports.jobs import Clock
from memory.ports.models import Embedder
from memory.ports.spaces import Spaces
from memory.ports.storage import Storage, UnitOfWork
from memory.recall import budget
from memory.recall.fusion import Fused, fuse
from memory.recall.planner import read_question, tiers_instead, tiers_to_ask
from memory.recall.settings import RecallSettings
from memory.services import access
from memory.services.activity import Activity
from memory.services.passages import Passages
from memory.services.past import NO_PAST, FormerTexts, Past, past_of, shown
from memory.services.usage import Usage
from memory.tiers.base import Candidates, Conditions, Floats, Question, Tier

# An answer looks at so many more than it shows, so that doubles can step back for others.
_SPARE = 2


@dataclass(frozen=True, slots=True)
class _Ranked:
    """The best candidates' items with their scores and signals, best first, and where each was found."""

    items: list[int]
    scores: Floats
    signals: dict[str, Floats]
    degraded: tuple[Degraded, ...]


class Recall:
    def __init__(
        self,
        *,
        storage: Storage,
        tiers: Mapping[TierName, Tier],
        spaces: Spaces,
        passages: Passages,
        usage: Usage,
        activity: Activity,
        former: FormerTexts,
        window_begin: Callable[[Session], int],
        settings: RecallSettings,
        clock: Clock,
    ) -> None:
        self._storage = storage
        self._tiers = tiers
        self._spaces = spaces
        self._passages = passages
        self._usage = usage
        self._activity = activity
        self._former = former
        self._window_begin = window_begin
        self._settings = settings
        self._clock = clock

    async def recall(self, principal: Principal, request: RecallRequest, *, outside: int | None = None) -> Recalled:
        """`outside`: the seq from which the shared events of the one session that is asked do not count.

        Raises NotFound for an absent session, InvalidInput for a question that is too long.

        A tier that can't answer is named in `degraded`; raises TierUnavailable only when none could.
        """
        asked = time.monotonic()
        # A whole page may be asked; its beginning is what is looked for.
        text = request.query[: 4 * self._settings.max_query_tokens]
        embedder = self._spaces.of(principal.tenant_id)
        embedding = asyncio.create_task(_embedded(embedder, text))

        async def vector() -> Floats | None:
            return (await embedding)[0]

        try:
            scope, past = await self._scope(principal, request)
            wanted = min(request.top_k * _SPARE, 400)
            conditions = self._conditions(request, outside, past)
            question = Question(text, vector, scope, conditions, wanted, embedder.space, asked)
            ranked = await self._ranked(question, request, past)
            found = await self._read(scope, request, ranked)
            query, reason = await embedding
        finally:
            embedding.cancel()
        results = await self._fitted(request, query, embedder.space, found)
        reason = reason or self._spaces.left_to_words(principal.tenant_id)
        if reason is not None:
            return Recalled(results, (*ranked.degraded, Degraded("embedder", reason)))
        return Recalled(results, ranked.degraded)

    def _conditions(self, request: RecallRequest, outside: int | None, past: Past) -> Conditions:
        return Conditions(
            now=self._clock.now().timestamp(),
            as_of=None if request.as_of is None else request.as_of.timestamp(),
            kinds=request.kinds,
            filter=request.filter,
            outside=outside,
            shown=past.shown,
            hidden=past.hidden,
        )

    async def _scope(self, principal: Principal, request: RecallRequest) -> tuple[Scope, Past]:
        async with self._storage.read() as tx:
            scope = await access.scope(tx, principal, request.session_ids)
            return scope, NO_PAST if request.as_of is None else await past_of(
                tx, scope, request.as_of, self._clock.now()
            )

    async def _ranked(self, question: Question, request: RecallRequest, past: Past) -> _Ranked:
        found, degraded = await self._ask(question, request.tiers)
        if TierName.LONGTERM in request.tiers:
            found[0] = await self._former.beside(found[0], question, past.reworded)
        facts = read_question(question.text)
        fused = [fuse(facts, candidates) for candidates in found]
        items, scores, signals = _merged(found, fused)
        if request.threshold is not None:
            items, scores = items[scores >= request.threshold], scores[scores >= request.threshold]
        best = np.lexsort((items, -scores))[: question.wanted]
        kept = {name: values[best] for name, values in signals.items()}
        return _Ranked(items[best].tolist(), scores[best], kept, (*degraded, *past.degraded))

    async def _ask(self, question: Question, wanted: frozenset[TierName]) -> tuple[list[Candidates], list[Degraded]]:
        found: list[Candidates] = []
        degraded: list[Degraded] = []
        failures: list[Retryable] = []
        for names in (tiers_to_ask(wanted), tiers_instead(wanted)):
            asked = await asyncio.gather(*(self._tiers[n].recall(question) for n in names), return_exceptions=True)
            for name, answer in zip(names, asked, strict=True):
                if isinstance(answer, Retryable):
                    degraded.append(Degraded(name, answer.detail))
                    failures.append(answer)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    found.append(answer)
            if found:
                break
        if not found:
            raise failures[0]
        return found, degraded

    async def _read(self, scope: Scope, request: RecallRequest, ranked: _Ranked) -> list[tuple[int, RecallResult]]:
        keys = [item_key(item) for item in ranked.items if not is_memory(item)]
        memory_keys = [item_key(item) for item in ranked.items if is_memory(item)]
        async with self._storage.read() as tx:
            events = {event.item: event for event in await tx.events.by_keys(keys)}
            memories = {memory.item: memory for memory in await tx.memories.by_keys(memory_keys)}
            # Each as part of the session that was asked: a fork's, where it inherited it.
            shown_in = {e.item: scope.shows(e.session_key, e.seq) for e in events.values()}
            shown_in |= {m.item: _memory_shown(m, scope) for m in memories.values() if scope.inherited}
            sessions = await tx.sessions.by_keys({key for key in shown_in.values() if key is not None})
            session_of = {item: sessions.get(key) for item, key in shown_in.items() if key is not None}
            outside = [e.item for e in events.values() if not self._hot(e, session_of.get(e.item), request.tiers)]
            semantic = await tx.segments.held_items(outside)
            if request.as_of is not None:
                memories = await _as_at(tx, memories, scope, request.as_of)
        results = []
        for place, item in enumerate(ranked.items):
            signals = {name: round(float(values[place]), 4) for name, values in ranked.signals.items()}
            told = {name: value for name, value in signals.items() if value == value} if request.explain else None
            score = float(ranked.scores[place])
            if item in events and (session := session_of.get(item)):
                if _visible_event(events[item], session, scope):
                    tier = self._fastest(events[item], session, item in semantic, request.tiers)
                    results.append((item, _event_result(events[item], session, score, tier, told)))
            elif item in memories and shown(memories[item], scope):
                tokens = None if request.as_of is None else self._passages.count(memories[item].text)
                named = session_of.get(item)
                session_id = memories[item].session_id if named is None else named.session_id
                results.append((item, _memory_result(memories[item], session_id, tokens, score, told)))
        return results

    async def _fitted(
        self, request: RecallRequest, vector: Floats | None, space: str, results: list[tuple[int, RecallResult]]
    ) -> tuple[RecallResult, ...]:
        """Doubles step back, long texts give way to their best passage, and the budget is kept."""
        order = budget.diverse_order(
            [result.text for _, result in results], [result.created_at for _, result in results]
        )[: request.top_k]
        scores = budget.falling([results[at][1].score for at in order])
        best = [(results[at][0], replace(results[at][1], score=s)) for at, s in zip(order, scores, strict=True)]
        shown = await self._passages.shorten(best, request.query, vector, space, request.max_tokens)
        places = budget.within([result.tokens for result in shown], request.max_tokens)
        self._activity.note("recalls")
        self._usage.note([(best[at][0], shown[at].tier) for at in places])
        return tuple(shown[at] for at in places)

    def _hot(self, event: Event, session: Session | None, asked: frozenset[TierName]) -> bool:
        within = session is not None and event.token_start >= self._window_begin(session)
        return TierName.HOT in asked and within

    def _fastest(self, event: Event, session: Session, semantic: bool, asked: frozenset[TierName]) -> TierName:
        """The fastest of the asked tiers that holds the event."""
        if self._hot(event, session, asked):
            return TierName.HOT
        return TierName.SEMANTIC if semantic and TierName.SEMANTIC in asked else TierName.LONGTERM


async def _embedded(embedder: Embedder, text: str) -> tuple[Floats | None, str | None]:
    """The vector, or why there is none."""
    try:
        return (await embedder.embed([text]))[0], None
    except Retryable as error:  # words alone still find something; the caller is told
        return None, error.detail


def _merged(found: list[Candidates], fused: list[Fused]) -> tuple[NDArray[np.int64], Floats, dict[str, Floats]]:
    """All candidates once, each with its best score; signals that a tier does not have are nan."""
    items = np.concatenate([candidates.items for candidates in found])
    scores = np.concatenate([ranked.score for ranked in fused])
    names = list(dict.fromkeys(name for ranked in fused for name in ranked.signals))
    signals = {
        name: np.concatenate([r.signals.get(name, np.full(len(r.score), np.nan, np.float32)) for r in fused])
        for name in names
    }
    best_first = np.argsort(-scores, kind="stable")
    _, first = np.unique(items[best_first], return_index=True)
    once = best_first[first]
    return items[once], scores[once], {name: values[once] for name, values in signals.items()}


def _visible_event(event: Event, session: Session, scope: Scope) -> bool:
    """The database's word on what the index says (invariant I3 has two gates)."""
    inside = scope.shows(event.session_key, event.seq) is not None
    visible = inside and session.tenant_id == scope.tenant_id and event.audience in scope.audiences
    return visible and not event.redacted


def _memory_shown(memory: Memory, scope: Scope) -> int | None:
    return None if memory.session_key is None else scope.shows_memory(memory.session_key, memory.memory_key)


async def _as_at(tx: UnitOfWork, found: Mapping[int, Memory], scope: Scope, moment: datetime) -> dict[int, Memory]:
    """Visible is what is so today *and* was so then: publishing a new text does not publish the old one."""
    now_visible = [memory for memory in found.values() if shown(memory, scope)]
    then = await tx.versions.as_at(now_visible, moment)
    return {memory.item: memory for memory in then if memory.valid_at(moment)}


def _event_result(
    event: Event, session: Session, score: float, tier: TierName, signals: dict[str, float] | None
) -> RecallResult:
    return RecallResult(
        text=event.content,
        score=score,
        tier=tier,
        kind=EVENT_KIND,
        memory_id=None,
        session_id=session.session_id,
        events=(EventRef(event.event_id, event.seq),),
        agent_id=event.agent_id,
        created_at=event.created_at,
        tokens=event.token_count,
        metadata=event.metadata,
        role=event.role,
        private=event.visibility is EventVisibility.PRIVATE,
        signals=signals,
    )


def _memory_result(
    memory: Memory, session_id: str | None, tokens: int | None, score: float, signals: dict[str, float] | None
) -> RecallResult:
    """`tokens`: of the text, where it is not the current one."""
    return RecallResult(
        text=memory.text,
        score=score,
        tier=TierName.LONGTERM,
        kind=memory.kind,
        memory_id=memory.memory_id,
        session_id=session_id,
        events=(),
        agent_id=memory.agent_id,
        created_at=memory.created_at,
        tokens=memory.token_count if tokens is None else tokens,
        metadata=memory.metadata,
        private=memory.visibility is MemoryVisibility.PRIVATE,
        signals=signals,
    )
