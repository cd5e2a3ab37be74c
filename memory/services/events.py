"""Append to the log, and read it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from memory.domain.agents import AgentRole
from memory.domain.errors import InvalidInput
from memory.domain.events import Appended, Event, EventVisibility, NewEvent
from memory.domain.generation import Ticket
from memory.domain.principals import Principal, Scope
from memory.domain.sessions import Session
from memory.ports.models import Tokenizer
from memory.ports.storage import Storage
from memory.services import access
from memory.services.log import Log, Request, content_of
from memory.services.secrets import TenantSecrets, keyed_hash

# Counting goes to a thread above this many characters: 8 KiB take about a millisecond.
_COUNT_INLINE = 8_192


class Events:
    def __init__(self, storage: Storage, log: Log, tokenizer: Tokenizer, secrets: TenantSecrets) -> None:
        self._storage = storage
        self._log = log
        self._tokenizer = tokenizer
        self._secrets = secrets

    async def append(
        self,
        principal: Principal,
        session_id: str,
        new: Sequence[NewEvent],
        *,
        expected_seq: int | None = None,
        idempotency_key: str | None = None,
        session_key: int | None = None,
        ticket: Ticket | None = None,
    ) -> Appended:
        """Stores all events or none; makes the session when it is absent, unless it is one that was there before.

        `session_key`: which one was there (decision 3). `ticket`: of the turn that ends with this, and is given back
        with it. Raises EventConflict, SequenceConflict, IdempotencyConflict, Forbidden, InvalidInput, NotFound when
        that session was purged, and TurnLost when the ticket has lapsed and another turn went on.
        """
        access.check_reach(principal, session_id)
        new = [_authored(principal, event) for event in new]
        secret = await self._secrets.of(principal.tenant_id)
        tokens = await self._count([event.content for event in new])
        hashes = _request_hashes(secret, idempotency_key, new)
        authors = frozenset(event.agent_id for event in new)
        request = Request(
            principal.tenant_id, session_id, new, tokens, expected_seq, hashes, authors, session_key, ticket
        )
        return await self._log.append(request)

    async def session(self, principal: Principal, session_id: str, needed: AgentRole) -> Session | None:
        """The one that goes by this name now; None: it is yet to be made. Raises Forbidden."""
        access.check_reach(principal, session_id)
        async with self._storage.read() as tx:
            found = await tx.sessions.get(principal.tenant_id, session_id)
            if found is not None:
                await access.check_roles(tx, found, [principal.agent_id], needed)
            return found

    async def page(
        self,
        principal: Principal,
        session_id: str,
        *,
        after_seq: int | None = None,
        before_seq: int | None = None,
        limit: int,
        descending: bool = False,
    ) -> list[Event]:
        """Visible events between the two, both exclusive, in `seq` order or against it. Raises NotFound."""
        async with self._storage.read() as tx:
            session = await access.session(tx, principal, session_id)
            audiences = Scope.of(principal, None).audiences
            return await tx.events.page(
                session.lineage,
                audiences,
                after_seq=after_seq,
                before_seq=before_seq,
                limit=limit,
                descending=descending,
            )

    async def _count(self, texts: list[str]) -> list[int]:
        if sum(map(len, texts)) <= _COUNT_INLINE:
            return self._tokenizer.count(texts)
        return await asyncio.to_thread(self._tokenizer.count, texts)


def _authored(principal: Principal, event: NewEvent) -> NewEvent:
    author = event.agent_id or principal.agent_id
    access.check_author(principal, author)
    if event.visibility is EventVisibility.PRIVATE and author is None:
        raise InvalidInput("a private event needs an agent_id: nobody else could ever see it")
    return event if author == event.agent_id else replace(event, agent_id=author)


def _request_hashes(secret: bytes, idempotency_key: str | None, new: Sequence[NewEvent]) -> tuple[bytes, bytes] | None:
    if idempotency_key is None:
        return None
    request = [[event.event_id, *content_of(event), str(event.created_at)] for event in new]
    return keyed_hash(secret, ["key", idempotency_key]), keyed_hash(secret, ["request", request])
