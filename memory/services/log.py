"""How do many small appends become few transactions?

Appends that come while one is being written wait for the next transaction and share it: one statement of each kind
for all of them, one flush to disk. Each is checked in the order of its coming and answered by itself, after the
commit; what one of them is refused for does not touch the others.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from memory.domain.agents import AgentRole
from memory.domain.changes import ChangeKind, NewChange
from memory.domain.errors import (
    EventConflict,
    IdempotencyConflict,
    NotFound,
    Retryable,
    SequenceConflict,
    StratamemError,
    TurnLost,
)
from memory.domain.events import Appended, Event, EventVisibility, NewEvent, Role
from memory.domain.generation import Ticket
from memory.domain.ids import new_id
from memory.domain.operations import NewOperation, OperationKind
from memory.domain.sessions import NewSession, Session
from memory.ports.jobs import Clock, JobQueue
from memory.ports.notices import Notices
from memory.ports.storage import Storage, UnitOfWork
from memory.services import access
from memory.services.activity import Activity
from memory.services.quotas import NO_QUOTA, SessionQuota
from memory.services.tasks import CONSOLIDATE, subject_of_session

_MOST_REQUESTS = 64
_MOST_EVENTS = 2_000
_NOT_MADE = 0


@dataclass(frozen=True, slots=True)
class Request:
    """`tokens`: one count an event. `hashes`: of the Idempotency-Key and of the whole request.

    `session_key`: the session that is meant, not another one of its name; None: whichever there is, or a new one.
    `ticket`: of the turn that ends with this.
    """

    tenant_id: str
    session_id: str
    new: Sequence[NewEvent]
    tokens: Sequence[int]
    expected_seq: int | None
    hashes: tuple[bytes, bytes] | None
    authors: frozenset[str | None]
    session_key: int | None = None
    ticket: Ticket | None = None


_Batch = list[tuple[Request, asyncio.Future[Appended]]]


class _MadeElsewhere(Exception):
    """A session that was absent is there now."""


@dataclass(slots=True)
class _Growing:
    """A session's log within one transaction: what was added to it, and the answers that are to be remembered."""

    session: Session
    added: list[Event] = field(default_factory=list)
    answers: dict[bytes, tuple[bytes, Appended]] = field(default_factory=dict)


class Log:
    def __init__(
        self,
        storage: Storage,
        jobs: JobQueue,
        clock: Clock,
        tokenizer: str,
        activity: Activity,
        notices: Notices,
        quota: SessionQuota = NO_QUOTA,
    ) -> None:
        self._storage = storage
        self._notices = notices
        self._quota = quota
        self._jobs = jobs
        self._clock = clock
        self._tokenizer = tokenizer
        self._activity = activity
        self._waiting: list[tuple[Request, asyncio.Future[Appended]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def append(self, request: Request) -> Appended:
        """Answered when it is on disk.

        Raises EventConflict, SequenceConflict, IdempotencyConflict, NotFound, TurnLost, QuotaExceeded,
        StorageUnavailable.
        """
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return await answer

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._write(self._next)
        finally:
            self._writing = None

    def _next(self) -> _Batch:
        """As many as share a transaction, in the order of their coming."""
        count, events = 0, 0
        for request, _ in self._waiting[:_MOST_REQUESTS]:
            events += len(request.new)
            if count and events > _MOST_EVENTS:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    async def _write(self, take: Callable[[], _Batch]) -> None:
        batch: _Batch = []
        try:
            async with self._storage.write() as tx:
                batch = take()  # now, not before: with those that came while the transaction was opened
                outcomes, operations, grown = await self._store(tx, [request for request, _ in batch])
        except _MadeElsewhere:
            await self._write(lambda: batch)
            return
        except Exception as error:
            batch = batch or take()
            if len(batch) > 1 and not isinstance(error, Retryable):
                for one in batch:  # so that only the one that is to blame fails
                    await self._write(lambda one=one: [one])  # type: ignore[misc]
                return
            outcomes, operations, grown = [error] * len(batch), [], []
        self._notices.changed(grown)
        for operation in operations:
            self._jobs.send(CONSOLIDATE, operation)
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            if answer.done():  # its client went away
                continue
            if isinstance(outcome, Appended):
                self._activity.note("events", len(outcome.event_ids))
                answer.set_result(outcome)
            else:
                answer.set_exception(outcome)

    async def _store(
        self, tx: UnitOfWork, requests: Sequence[Request]
    ) -> tuple[list[Appended | Exception], list[str], list[int]]:
        """What becomes of each request, the operations that are new, and the logs that have grown."""
        logs = await self._open(tx, requests)
        outcomes: list[Appended | Exception] = []
        for request in requests:
            try:
                outcomes.append(await self._append(tx, logs[request.tenant_id, request.session_id], request))
            except StratamemError as refused:
                outcomes.append(refused)
        grown = [log for log in logs.values() if log.added]
        now = self._clock.now()
        for log in grown:
            if log.session.session_key == _NOT_MADE:
                await self._make(tx, log, now)
        if grown:
            await self._write_grown(tx, grown, now)
        for log in logs.values():
            for key_hash, (request_hash, answer) in log.answers.items():
                await tx.events.remember_answer(log.session.session_key, key_hash, request_hash, answer, now)
        operations = await tx.operations.enqueue_all([_operation(log) for log in grown], now) if grown else []
        return outcomes, operations, [log.session.session_key for log in grown]

    async def _write_grown(self, tx: UnitOfWork, grown: Sequence[_Growing], now: datetime) -> None:
        await tx.events.add([event for log in grown for event in log.added], self._tokenizer)
        await tx.sessions.advance([log.session for log in grown], now)
        await tx.changes.add(*(_change(log) for log in grown))

    async def _open(self, tx: UnitOfWork, requests: Sequence[Request]) -> dict[tuple[str, str], _Growing]:
        """The logs that are written to, locked; those that are absent are made when something is added to them."""
        names = list(dict.fromkeys((request.tenant_id, request.session_id) for request in requests))
        found = {(s.tenant_id, s.session_id): s for s in await tx.sessions.all_locked(names)}
        return {name: _Growing(found.get(name) or self._absent(*name)) for name in names}

    def _absent(self, tenant_id: str, session_id: str) -> Session:
        new, now = NewSession(session_id), self._clock.now()
        return Session(
            session_key=_NOT_MADE,
            tenant_id=tenant_id,
            session_id=session_id,
            title=new.title,
            metadata=new.metadata,
            window_tokens=new.window_tokens,
            semantic_turns=new.semantic_turns,
            created_at=now,
            updated_at=now,
            last_seq=0,
            event_count=0,
            token_count=0,
            shared_tokens=0,
            turns=0,
            version=1,
            segmented_seq=0,
            semantic_version=0,
        )

    async def _make(self, tx: UnitOfWork, log: _Growing, now: datetime) -> None:
        """Raises _MadeElsewhere when another process was quicker: the batch is then judged anew."""
        await tx.tenants.secret(log.session.tenant_id, now)  # refused while the tenant is being purged
        made = await tx.sessions.create(log.session.tenant_id, NewSession(log.session.session_id), now)
        if made is None:
            raise _MadeElsewhere
        log.added = [replace(event, session_key=made.session_key) for event in log.added]
        log.session = made.grown(log.added)

    async def _append(self, tx: UnitOfWork, log: _Growing, request: Request) -> Appended:
        if request.session_key not in (None, log.session.session_key):
            raise NotFound(f"the session '{request.session_id}' was purged meanwhile: nothing is added to it")
        await access.check_roles(tx, log.session, request.authors, AgentRole.WRITER)
        if request.ticket is not None and not await tx.turns.give_back(request.ticket):
            raise TurnLost(request.session_id)
        if request.hashes is not None:
            known = log.answers.get(request.hashes[0])
            known = known or await tx.events.recall_answer(log.session.lineage, request.hashes[0])
            if known is not None:
                return _repeated(known, request.hashes[1])
        acknowledged, added = self._numbered(log.session, request, await _known_events(tx, log, request))
        if added and request.expected_seq not in (None, log.session.last_seq):
            last = log.session.last_seq
            raise SequenceConflict(f"the last seq is {last}, not {request.expected_seq}", last_seq=last)
        if added and log.session.session_key == _NOT_MADE and not log.added:
            await self._quota.check(tx, request.tenant_id)
        answer = Appended(
            session_id=log.session.session_id,
            first_seq=min(event.seq for event in acknowledged),
            last_seq=max(event.seq for event in acknowledged),
            event_ids=tuple(event.event_id for event in acknowledged),
            token_count=sum(event.token_count for event in {event.seq: event for event in acknowledged}.values()),
            repeated=not added,
        )
        log.session = log.session.grown(added)
        log.added += added
        if request.hashes is not None:
            log.answers[request.hashes[0]] = (request.hashes[1], answer)
        return answer

    def _numbered(self, session: Session, request: Request, known: dict[str, Event]) -> tuple[list[Event], list[Event]]:
        """Every event of the request as it is stored, and those of them that are new. Raises EventConflict."""
        now = self._clock.now()
        seq, place, turn = session.last_seq, session.shared_tokens, session.turns
        acknowledged: list[Event] = []
        added: list[Event] = []
        for event, count in zip(request.new, request.tokens, strict=True):
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


async def _known_events(tx: UnitOfWork, log: _Growing, request: Request) -> dict[str, Event]:
    """Those of the request's event_ids that the log has, in the database or since."""
    named = [event.event_id for event in request.new if event.event_id is not None]
    if not named:
        return {}
    stored = await tx.events.by_ids(log.session.lineage, named)
    return {event.event_id: event for event in (*stored, *log.added)}


def _change(log: _Growing) -> NewChange:
    session = log.session
    return NewChange(ChangeKind.EVENTS, session.tenant_id, session.session_key, log.added[0].seq, log.added[-1].seq)


def _operation(log: _Growing) -> NewOperation:
    return NewOperation(
        log.session.tenant_id,
        OperationKind.INDEX,
        subject_of_session(log.session.session_key),
        total=len(log.added),
        unit="events",
        session_key=log.session.session_key,
        session_id=log.session.session_id,
    )


def _repeated(known: tuple[bytes, Appended], request_hash: bytes) -> Appended:
    stored_hash, answer = known
    if stored_hash != request_hash:
        raise IdempotencyConflict("this Idempotency-Key was used for another request: use a new one")
    return replace(answer, repeated=True)


def _same(stored: Event, sent: NewEvent) -> Event:
    dated = sent.created_at is None or sent.created_at == stored.created_at
    if content_of(stored) != content_of(sent) or not dated:
        raise EventConflict(f"the event '{stored.event_id}' is in the log with other content", event_id=stored.event_id)
    return stored


def content_of(event: Event | NewEvent) -> list[Any]:
    """What makes two events the same, but for their id and time."""
    return [event.agent_id, event.role, event.name, event.content, event.metadata, event.visibility]
