"""Append to the log, and read it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from memory.domain.changes import ChangeKind, NewChange
from memory.domain.errors import EventConflict, IdempotencyConflict, InvalidInput, SequenceConflict
from memory.domain.events import Appended, Event, EventVisibility, NewEvent, Role
from memory.domain.ids import new_id
from memory.domain.operations import OperationKind
from memory.domain.principals import Principal, Scope
from memory.domain.sessions import NewSession, Session
from memory.ports.jobs import Clock, JobQueue
from memory.ports.models import Tokenizer
from memory.ports.storage import Storage, UnitOfWork
from memory.services import access
from memory.services.secrets import TenantSecrets, keyed_hash
from memory.services.tasks import CONSOLIDATE, subject_of_session

# Counting goes to a thread above this many characters: 8 KiB take about a millisecond.
_COUNT_INLINE = 8_192


class Events:
    def __init__(
        self, storage: Storage, tokenizer: Tokenizer, jobs: JobQueue, secrets: TenantSecrets, clock: Clock
    ) -> None:
        self._storage = storage
        self._tokenizer = tokenizer
        self._jobs = jobs
        self._secrets = secrets
        self._clock = clock

    async def append(
        self,
        principal: Principal,
        session_id: str,
        new: Sequence[NewEvent],
        *,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
    ) -> Appended:
        """Stores all events or none; makes the session when it is absent.

        Raises EventConflict, SequenceConflict, IdempotencyConflict, Forbidden, InvalidInput.
        """
        access.check_reach(principal, session_id)
        new = [_authored(principal, event) for event in new]
        secret = await self._secrets.of(principal.tenant_id)
        tokens = await self._count([event.content for event in new])
        hashes = _request_hashes(secret, idempotency_key, new, expected_seq)
        async with self._storage.write() as tx:
            session = await self._open(tx, principal, session_id)
            if hashes and (known := await tx.events.recall_answer(session.session_key, hashes[0])):
                return _repeated(known, hashes[1])
            answer, stored = await self._store(tx, session, new, tokens, expected_seq)
            if hashes:
                await tx.events.remember_answer(session.session_key, *hashes, answer, self._clock.now())
            operation = await self._promise(tx, session, stored) if stored else None
        if operation is not None:
            self._jobs.send(CONSOLIDATE, operation)
        return answer

    async def page(
        self, principal: Principal, session_id: str, *, after_seq: int | None, limit: int, descending: bool = False
    ) -> list[Event]:
        """Visible events in `seq` order, at most `limit`. Raises NotFound."""
        async with self._storage.read() as tx:
            session = await access.session(tx, principal, session_id)
            audiences = Scope.of(principal, None).audiences
            return await tx.events.page(
                session.session_key, audiences, after_seq=after_seq, limit=limit, descending=descending
            )

    async def _count(self, texts: list[str]) -> list[int]:
        if sum(map(len, texts)) <= _COUNT_INLINE:
            return self._tokenizer.count(texts)
        return await asyncio.to_thread(self._tokenizer.count, texts)

    async def _open(self, tx: UnitOfWork, principal: Principal, session_id: str) -> Session:
        session = await tx.sessions.locked(principal.tenant_id, session_id)
        if session is None:
            new = NewSession(session_id)
            session = await tx.sessions.create(principal.tenant_id, new, self._clock.now())
        if session is None:  # made by somebody else in between
            session = await tx.sessions.locked(principal.tenant_id, session_id)
        assert session is not None
        return session

    async def _store(
        self,
        tx: UnitOfWork,
        session: Session,
        new: list[NewEvent],
        tokens: list[int],
        expected_seq: int | None,
    ) -> tuple[Appended, list[Event]]:
        named = [event.event_id for event in new if event.event_id is not None]
        found = await tx.events.by_ids(session.session_key, named) if named else []
        acknowledged, added = self._number(session, new, tokens, {event.event_id: event for event in found})
        if added:
            if expected_seq is not None and expected_seq != session.last_seq:
                raise SequenceConflict(
                    f"the last seq is {session.last_seq}, not {expected_seq}", last_seq=session.last_seq
                )
            await tx.events.add(session.session_key, added, self._tokenizer.fingerprint)
            await tx.sessions.advance(session, added, self._clock.now())
        answer = Appended(
            session_id=session.session_id,
            first_seq=min(event.seq for event in acknowledged),
            last_seq=max(event.seq for event in acknowledged),
            event_ids=tuple(event.event_id for event in acknowledged),
            token_count=sum(event.token_count for event in acknowledged),
            repeated=not added,
        )
        return answer, added

    def _number(
        self, session: Session, new: list[NewEvent], tokens: list[int], known: dict[str, Event]
    ) -> tuple[list[Event], list[Event]]:
        """Every event of the request as stored, and those of them that are new."""
        now = self._clock.now()
        seq, place, turn = session.last_seq, session.shared_tokens, session.turns
        acknowledged: list[Event] = []
        added: list[Event] = []
        for event, count in zip(new, tokens, strict=True):
            if event.event_id is not None and event.event_id in known:
                acknowledged.append(_same(known[event.event_id], event))
                continue
            seq += 1
            turn += event.role is Role.USER
            stored = Event(
                event_key=0,  # given by the database
                session_key=session.session_key,
                seq=seq,
                event_id=event.event_id or new_id(),
                agent_id=event.agent_id,
                role=event.role,
                name=event.name,
                content=event.content,
                metadata=event.metadata,
                visibility=event.visibility,
                created_at=event.created_at or now,
                token_count=count,
                token_start=place,
                turn=turn,
            )
            place += count if event.visibility is EventVisibility.SESSION else 0
            known[stored.event_id] = stored
            acknowledged.append(stored)
            added.append(stored)
        return acknowledged, added

    async def _promise(self, tx: UnitOfWork, session: Session, stored: list[Event]) -> str | None:
        """Writes what followers and workers must do; the operation's id when workers don't know of it yet."""
        await tx.changes.add(
            NewChange(ChangeKind.EVENTS, session.tenant_id, session.session_key, stored[0].seq, stored[-1].seq)
        )
        operation_id, is_new = await tx.operations.enqueue(
            session.tenant_id,
            OperationKind.INDEX,
            subject_of_session(session.session_key),
            self._clock.now(),
            session_key=session.session_key,
            session_id=session.session_id,
            total=len(stored),
            unit="events",
        )
        return operation_id if is_new else None


def _authored(principal: Principal, event: NewEvent) -> NewEvent:
    author = event.agent_id or principal.agent_id
    access.act_as(principal, author)
    if event.visibility is EventVisibility.PRIVATE and author is None:
        raise InvalidInput("a private event needs an agent_id: nobody else could ever see it")
    return replace(event, agent_id=author)


def _request_hashes(
    secret: bytes, idempotency_key: str | None, new: list[NewEvent], expected_seq: int | None
) -> tuple[bytes, bytes] | None:
    if idempotency_key is None:
        return None
    request = [[event.event_id, *_content(event), str(event.created_at)] for event in new]
    return keyed_hash(secret, ["key", idempotency_key]), keyed_hash(secret, ["request", request, expected_seq])


def _repeated(known: tuple[bytes, Appended], request_hash: bytes) -> Appended:
    stored_hash, answer = known
    if stored_hash != request_hash:
        raise IdempotencyConflict("this Idempotency-Key was used for another request: use a new one")
    return replace(answer, repeated=True)


def _same(stored: Event, sent: NewEvent) -> Event:
    dated = sent.created_at is None or sent.created_at == stored.created_at
    if _content(stored) != _content(sent) or not dated:
        raise EventConflict(f"the event '{stored.event_id}' is in the log with other content", event_id=stored.event_id)
    return stored


def _content(event: Event | NewEvent) -> list[Any]:
    return [event.agent_id, event.role, event.name, event.content, event.metadata, event.visibility]
