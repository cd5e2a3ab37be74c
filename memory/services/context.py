"""What should an agent read now? Ready messages within a token budget, beginning with a byte-stable prefix."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from memory.domain.context import (
    MESSAGE_TOKENS,
    Context,
    ContextFormat,
    ContextRequest,
    ContextTokens,
    Message,
    PrefixCache,
)
from memory.domain.errors import BudgetTooSmall, Retryable
from memory.domain.events import Event, Role
from memory.domain.principals import Principal
from memory.domain.recall import MAX_TOP_K, Degraded, RecallRequest, RecallResult
from memory.domain.sessions import Session
from memory.ports.models import Tokenizer
from memory.ports.storage import Storage
from memory.recall import budget, render, window
from memory.services import access
from memory.services.recall import Recall
from memory.services.summaries import Summaries

_MOST_EVENTS = 100_000
_SYSTEM_EVENTS = 16
_LINE_TOKENS = 24
"""Kept free for what stands before a recalled text (when, and who): a passage is cut to what is left, and must fit."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Messages with their tokens."""

    messages: tuple[Message, ...] = ()
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class _System:
    """The system messages at the beginning of the log; `seqs`: their events, ascending."""

    part: _Part
    seqs: tuple[int, ...]

    @property
    def last_seq(self) -> int:
        return self.seqs[-1] if self.seqs else 0


@dataclass(frozen=True, slots=True)
class _Window:
    """`anchor`: where on the token axis it begins; `first_seq`: its first event (the next seq when it is empty)."""

    part: _Part
    anchor: int
    first_seq: int
    redacted: int = 0
    """Events that it would show."""


class Contexts:
    def __init__(self, storage: Storage, recall: Recall, summaries: Summaries, tokenizer: Tokenizer) -> None:
        self._storage = storage
        self._recall = recall
        self._summaries = summaries
        self._tokenizer = tokenizer
        self._count_name = lru_cache(1024)(lambda name: tokenizer.count([name])[0])

    async def build(self, principal: Principal, session_id: str, request: ContextRequest) -> Context:
        """Never above `max_tokens`. Raises NotFound, and BudgetTooSmall when the query alone does not fit."""
        query = self._query(request)
        async with self._storage.read() as tx:
            session = await access.session(tx, principal, session_id)
            head = await tx.events.shared_from(session.lineage, 0, limit=_SYSTEM_EVENTS)
        opening = self._system(head, request.max_tokens - query.tokens)
        system = opening.part
        shown = await self._window(session, request, opening, query.tokens)
        summary = await self._summary(session, request, shown.anchor)
        used = system.tokens + summary.tokens + shown.part.tokens + query.tokens
        private_room = request.max_tokens - used
        if request.query is not None and request.include.recall:
            beside = request.max_tokens - system.tokens - summary.tokens - query.tokens
            private_room -= int(beside * window.RECALL_SHARE)
        private, private_seqs = await self._private(principal, session, request, shown.first_seq, private_room)
        room = request.max_tokens - used - private.tokens
        there = private_seqs | frozenset(opening.seqs)
        shown_again = system.tokens + private.tokens  # may be found as well, and is then left out
        recalled, sources, degraded = await self._recalled(
            principal, session, request, there, shown.first_seq, room, shown_again
        )
        prefix = (*system.messages, *summary.messages, *shown.part.messages)
        messages = (*prefix, *private.messages, *recalled.messages, *query.messages)
        as_text = request.format is ContextFormat.TEXT
        base = [[m.role, m.content, m.name] for m in (*system.messages, *summary.messages)]
        return Context(
            messages=() if as_text else messages,
            text=render.as_text(messages) if as_text else None,
            sources=sources,
            tokens=ContextTokens(
                total=used + private.tokens + recalled.tokens,
                window=shown.part.tokens + private.tokens,
                summary=summary.tokens,
                recall=recalled.tokens,
            ),
            cache=PrefixCache(
                prefix_tokens=system.tokens + summary.tokens + shown.part.tokens,
                prefix_fingerprint=render.fingerprint(session.session_key, shown.anchor, base, shown.redacted),
            ),
            private=bool(private.messages) or any(result.private for result in sources),
            degraded=degraded,
        )

    def _query(self, request: ContextRequest) -> _Part:
        if request.query is None:
            return _Part()
        part = self._part([Message(Role.USER, request.query)])
        if part.tokens > request.max_tokens:
            raise BudgetTooSmall(f"the query alone takes {part.tokens} of max_tokens {request.max_tokens}: raise it")
        return part

    def _system(self, head: Sequence[Event], room: int) -> _System:
        """The system events at the beginning of the log, as many as fit into half of the room."""
        messages: list[Message] = []
        head = [event for event in head if not event.redacted]
        for event in head:
            longer = [*messages, render.event_message(event)]
            if event.role is not Role.SYSTEM or self._part(longer).tokens > room // 2:
                break
            messages = longer
        return _System(self._part(messages), tuple(event.seq for event in head[: len(messages)]))

    async def _window(self, session: Session, request: ContextRequest, opening: _System, query: int) -> _Window:
        if not request.include.window:
            return _Window(_Part(), session.shared_tokens, session.last_seq + 1)
        recall, system = request.include.recall, opening.part.tokens
        room = window.window_room(request.max_tokens, system, recall=recall)
        # A summary may take its share.
        beside = window.room_beside(request.max_tokens, system, int(request.max_tokens * window.SUMMARY_SHARE), query)
        room = min(room, beside)
        anchor = window.first_anchor(session.shared_tokens, room)
        async with self._storage.read() as tx:
            events = await tx.events.shared_from(session.lineage, anchor, limit=_MOST_EVENTS)
        found = [event for event in events if event.seq > opening.last_seq]
        events = [event for event in found if not event.redacted]
        redacted = len(found) - len(events)
        rendered = [self._event_tokens(event) for event in events]
        anchor, first = window.anchor_that_fits([event.token_start for event in events], rendered, anchor, room)
        events = events[first:]
        part = _Part(tuple(render.event_message(event) for event in events), sum(rendered[first:]))
        if not anchor:  # nothing was left out: the window begins where the log does
            return _Window(part, anchor, opening.last_seq + 1, redacted)
        return _Window(part, anchor, events[0].seq if events else session.last_seq + 1, redacted)

    async def _summary(self, session: Session, request: ContextRequest, anchor: int) -> _Part:
        """The key sentences that say most within the summary's share."""
        if not request.include.summary or not anchor:
            return _Part()
        lines = await self._summaries.before(session, anchor)
        room = int(request.max_tokens * window.SUMMARY_SHARE)
        words = room
        while lines:
            part = self._part([render.summary_message(lines)])
            if part.tokens <= room:
                return part
            words = min(words - 1, words * room // part.tokens)
            lines = await asyncio.to_thread(self._summaries.shortened, lines, words)
        return _Part()

    async def _private(
        self, principal: Principal, session: Session, request: ContextRequest, first_seq: int, room: int
    ) -> tuple[_Part, frozenset[int]]:
        """The agent's own private events of the time of the window, the newest that fit, and their seqs."""
        if principal.agent_id is None or not request.include.window:
            return _Part(), frozenset()
        async with self._storage.read() as tx:
            found = await tx.events.private_from(session.lineage, principal.agent_id, first_seq, limit=1_000)
        events = [event for event in found if not event.redacted]
        room = min(room, int(request.max_tokens * window.PRIVATE_SHARE))
        kept: list[Event] = []
        for event in reversed(events):
            room -= self._event_tokens(event)
            if room < 0:
                break
            kept.insert(0, event)
        part = _Part(tuple(render.event_message(event) for event in kept), sum(map(self._event_tokens, kept)))
        return part, frozenset(event.seq for event in kept)

    async def _recalled(
        self,
        principal: Principal,
        session: Session,
        request: ContextRequest,
        there: frozenset[int],
        first_seq: int,
        room: int,
        shown_again: int,
    ) -> tuple[_Part, tuple[RecallResult, ...], tuple[Degraded, ...]]:
        """What the context does not show already; one message at the tail, where it changes no cached prefix.

        `there`: seqs of system and private events that are shown.
        """
        texts = room - self._part([render.recall_message([])]).tokens - _LINE_TOKENS
        if request.query is None or not request.include.recall or texts <= 0:
            return _Part(), (), ()
        wanted = RecallRequest(
            query=request.query,
            session_ids=(session.session_id,),
            top_k=min(request.top_k + len(there), MAX_TOP_K),
            max_tokens=texts + shown_again,
        )
        try:
            found = await self._recall.recall(principal, wanted, outside=first_seq)
        except Retryable as error:
            return _Part(), (), (Degraded("recall", error.detail),)
        shown = [r for r in found.results if not any(event.seq in there for event in r.events)][: request.top_k]
        lines = [render.recall_line(result) for result in shown]
        fitting = budget.within(self._tokenizer.count(lines) if lines else [], texts + _LINE_TOKENS)
        while fitting:
            part = self._part([render.recall_message([lines[at] for at in fitting])])
            if part.tokens <= room:
                return part, tuple(shown[at] for at in fitting), found.degraded
            fitting.pop()  # a tokenizer that makes more of the whole than of its lines
        return _Part(), (), found.degraded

    def _part(self, messages: Sequence[Message]) -> _Part:
        counts = self._tokenizer.count([message.content for message in messages]) if messages else []
        names = sum(self._count_name(message.name) for message in messages if message.name)
        return _Part(tuple(messages), sum(counts) + names + MESSAGE_TOKENS * len(messages))

    def _event_tokens(self, event: Event) -> int:
        name = event.name or event.agent_id
        return event.token_count + MESSAGE_TOKENS + (self._count_name(name) if name else 0)
