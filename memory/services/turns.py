"""Whose turn is it in a session? One at a time in all processes of the database, in the order of their coming.

A turn draws a ticket and waits until none is before it. Whoever holds a ticket renews it; that of a process that was
killed lapses, and the next one removes it. A ticket goes in the transaction that keeps its turn (`services/log.py`):
who was taken for dead, and goes on without knowing, adds nothing to a log that went on without him.
"""

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from memory.domain.errors import Retryable, SessionBusy, TooManyTurns, TurnLost
from memory.domain.generation import Ticket
from memory.ports.jobs import Clock
from memory.ports.storage import Storage

_GLANCE = 0.1
"""Seconds between two looks of who is next; those behind look less often, and are told of turns of this process."""
_LONGEST_PAUSE = 1.0
_RENEWALS = 3
"""In the time of a lease: two may fail."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class HeldTurn:
    """`kept`: the ticket went with what the turn added to the log."""

    ticket: Ticket
    lost: bool = False
    kept: bool = False

    def check(self) -> None:
        """Raises TurnLost."""
        if self.lost:
            raise TurnLost(self.ticket.session_id)


class Turns:
    def __init__(
        self,
        storage: Storage,
        clock: Clock,
        *,
        lease: timedelta = timedelta(seconds=30),
        patience: float = 120.0,
        waiting: int = 16,
    ) -> None:
        """`patience`: seconds that a turn waits; `waiting`: how many may, of one session."""
        self._storage = storage
        self._clock = clock
        self._lease = lease
        self._patience = patience
        self._waiting = waiting
        self._ended: weakref.WeakValueDictionary[tuple[str, str], asyncio.Event] = weakref.WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, tenant_id: str, session_id: str) -> AsyncIterator[HeldTurn]:
        """The session is the block's alone. Raises SessionBusy, TooManyTurns, TurnLost, StorageUnavailable."""
        held = HeldTurn(await self._draw(tenant_id, session_id))
        renewing = asyncio.create_task(self._renew(held))
        try:
            if held.ticket.ahead:
                await self._wait(held)
            yield held
        finally:
            renewing.cancel()
            await asyncio.shield(self._end(held, renewing))

    async def _draw(self, tenant_id: str, session_id: str) -> Ticket:
        drawing = asyncio.create_task(self._drawn(tenant_id, session_id))
        try:
            ticket = await asyncio.shield(drawing)
        except asyncio.CancelledError:  # whether there is a ticket is known only when the transaction is over
            await asyncio.wait({drawing})
            if not drawing.cancelled() and drawing.exception() is None and (drawn := drawing.result()) is not None:
                await self._give_back(drawn)
            raise
        if ticket is None:
            raise TooManyTurns(
                f"{self._waiting} turns of '{session_id}' wait already: ask again later, or let a fork of it answer"
            )
        return ticket

    async def _drawn(self, tenant_id: str, session_id: str) -> Ticket | None:
        async with self._storage.write() as tx:
            now, most = self._clock.now(), self._waiting + 1
            return await tx.turns.draw(tenant_id, session_id, self._lease, now, most=most)

    async def _wait(self, held: HeldTurn) -> None:
        name = (held.ticket.tenant_id, held.ticket.session_id)
        try:
            async with asyncio.timeout(self._patience):
                while True:
                    ended = self._ended.setdefault(name, asyncio.Event())
                    ahead = await self._ahead(held)
                    if not ahead:
                        return
                    with suppress(TimeoutError):
                        async with asyncio.timeout(min(ahead * _GLANCE, _LONGEST_PAUSE)):
                            await ended.wait()
        except TimeoutError:
            raise SessionBusy(
                f"'{name[1]}' has been busy with earlier turns for {self._patience:g} seconds:"
                " ask again later, or let a fork of it answer"
            ) from None

    async def _ahead(self, held: HeldTurn) -> int:
        held.check()
        async with self._storage.read() as tx:
            ahead = await tx.turns.ahead(held.ticket, self._clock.now())
        if ahead:
            return ahead
        async with self._storage.write() as tx:
            left = await tx.turns.step_up(held.ticket, self._lease, self._clock.now())
        if left is None:
            raise TurnLost(held.ticket.session_id)
        return left

    async def _renew(self, held: HeldTurn) -> None:
        while not held.lost:
            await asyncio.sleep(self._lease.total_seconds() / _RENEWALS)
            try:
                async with self._storage.write() as tx:
                    there = await tx.turns.renew(held.ticket, self._lease, self._clock.now())
            except Retryable as error:  # the next try may still be in time
                logger.warning("a turn's ticket could not be renewed: %s", error.detail)
            else:
                held.lost = not there

    async def _end(self, held: HeldTurn, renewing: asyncio.Task[None]) -> None:
        await asyncio.wait({renewing})
        if not held.kept:
            await self._give_back(held.ticket)
        if (ended := self._ended.pop((held.ticket.tenant_id, held.ticket.session_id), None)) is not None:
            ended.set()

    async def _give_back(self, ticket: Ticket) -> None:
        try:
            async with self._storage.write() as tx:
                await tx.turns.give_back(ticket)
        except Retryable as error:
            logger.warning("a turn's ticket stays until it lapses: %s", error.detail)
