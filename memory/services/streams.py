"""How do many readers follow a session live, without a gap, without a repeat and without reading the log each?

A reader pulls: it says after which `seq` it goes on, and the log says what comes next. Notices only say when to look.
What is new is read once for all readers who may see the same; who comes late, or is slow, reads older pages by itself.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from memory.domain.agents import AgentRole
from memory.domain.errors import Forbidden, Retryable, SequenceConflict, TooManyStreams
from memory.domain.events import Event
from memory.domain.principals import Principal, Scope
from memory.ports.notices import Notices
from memory.ports.storage import Storage
from memory.services import access

MOST = 1_000
"""Readers in one process; half of them may be of one tenant."""
_PAGE = 64
"""Events; one may have a megabyte."""
_RECENT = 1_024
_RECENT_CHARACTERS = 1_000_000
"""Kept of a log for readers who are a little behind, for each agent that follows it."""
_PIECE_CHARACTERS = 1_000_000
"""Handed to a reader at once, or one event: it is held while the reader takes it."""
_LOOK_EVERY = 1.0
"""Seconds between two looks without a notice."""


@dataclass(slots=True)
class _Feed:
    """The end of one log, as an agent sees it (None: who says no name).

    `recent` holds every visible event after `floor` up to `seen`.
    """

    session_key: int
    agent_id: str | None
    audiences: frozenset[str]
    floor: int
    seen: int
    recent: deque[Event] = field(default_factory=deque)
    characters: int = 0
    readers: set[asyncio.Event] = field(default_factory=set)
    ended: bool = False
    redactions: int = 0
    task: asyncio.Task[None] | None = None

    def add(self, events: list[Event], seen: int) -> None:
        self.recent.extend(events)
        self.characters += sum(len(event.content) for event in events)
        self.seen = seen
        while len(self.recent) > _RECENT or self.characters > _RECENT_CHARACTERS:
            oldest = self.recent.popleft()
            self.characters -= len(oldest.content)
            self.floor = oldest.seq
        if events:
            self.wake()

    def forget(self) -> None:
        """Something of it lost its content: nothing is kept of what was."""
        self.recent.clear()
        self.characters = 0
        self.floor = self.seen

    def after(self, seq: int) -> list[Event]:
        behind = 0
        for event in reversed(self.recent):
            if event.seq <= seq:
                break
            behind += 1
        first = len(self.recent) - behind
        return _piece([self.recent[place] for place in range(first, min(first + _PAGE, len(self.recent)))])

    def end(self) -> None:
        self.ended = True
        self.wake()

    def wake(self) -> None:
        for reader in self.readers:
            reader.set()


class Reader:
    """One who follows a log. `position`: the `seq` up to which it has been told."""

    def __init__(self, streams: "Streams", feed: _Feed, position: int) -> None:
        self._streams = streams
        self._feed = feed
        self._woken = asyncio.Event()
        self.position = position
        feed.readers.add(self._woken)

    async def next(self, patience: float) -> list[Event] | None:
        """The next events, at least one; [] when none came within so many seconds; None: the session was purged or
        closed to this agent, or the process stops. Raises StorageUnavailable."""
        until = asyncio.get_running_loop().time() + patience
        while not self._feed.ended:
            self._woken.clear()
            found = await self._new()
            if found is None:
                return None
            if found:
                self.position = found[-1].seq
                return found
            try:
                async with asyncio.timeout_at(until):
                    await self._woken.wait()
            except TimeoutError:
                return []
        return None

    async def _new(self) -> list[Event] | None:
        while self.position < self._feed.floor:
            page = await self._streams.page(self._feed, self.position)
            if page is None or page.events:
                return None if page is None else _piece(page.events)
            self.position = max(self.position, page.seen)
        return self._feed.after(self.position)

    def leave(self) -> None:
        self._feed.readers.discard(self._woken)


@dataclass(frozen=True, slots=True)
class _Page:
    """`seen`: nothing more is visible up to that `seq`. `redactions`: in the session by then."""

    events: list[Event]
    seen: int
    redactions: int


class Streams:
    def __init__(self, storage: Storage, notices: Notices, most: int = MOST) -> None:
        self._storage = storage
        self._notices = notices
        self._most = most
        self._feeds: dict[tuple[int, str | None], _Feed] = {}
        self._readers = 0
        self._of_tenants: Counter[str] = Counter()
        self._stopped = False

    @property
    def readers(self) -> int:
        return self._readers

    @asynccontextmanager
    async def reader(self, principal: Principal, session_id: str, after_seq: int | None) -> AsyncIterator[Reader]:
        """`after_seq` None: from now on. Raises NotFound, SequenceConflict when the log is shorter, TooManyStreams."""
        of_tenant = self._of_tenants[principal.tenant_id]
        if self._readers >= self._most or of_tenant >= max(1, self._most // 2) or self._stopped:
            raise TooManyStreams(f"{self._readers} streams are open here already: try again later, or read pages")
        self._readers += 1
        self._of_tenants[principal.tenant_id] += 1
        try:
            feed = await self._feed(principal, session_id, after_seq)
            reader = Reader(self, feed, feed.seen if after_seq is None else after_seq)
            try:
                yield reader
            finally:
                reader.leave()
                if not feed.readers:
                    await self._stop(feed)
        finally:
            self._readers -= 1
            self._of_tenants[principal.tenant_id] -= 1
            if not self._of_tenants[principal.tenant_id]:
                del self._of_tenants[principal.tenant_id]

    def end(self) -> None:
        """Every stream ends now, and none begins: the process stops."""
        self._stopped = True
        for feed in self._feeds.values():
            feed.end()

    async def page(self, feed: _Feed, after_seq: int) -> _Page | None:
        """What comes next in the log; None: the session is gone, or closed to this agent."""
        async with self._storage.read() as tx:
            session = (await tx.sessions.by_keys([feed.session_key])).get(feed.session_key)
            if session is None:
                return None
            try:
                await access.check_roles(tx, session, [feed.agent_id], AgentRole.READER)
            except Forbidden:
                return None
            events = await tx.events.page(session.lineage, feed.audiences, after_seq=after_seq, limit=_PAGE)
        seen = events[-1].seq if len(events) == _PAGE else max(session.last_seq, after_seq)
        return _Page(events, seen, session.redactions)

    async def _feed(self, principal: Principal, session_id: str, after_seq: int | None) -> _Feed:
        async with self._storage.read() as tx:
            session = await access.session(tx, principal, session_id)
        if after_seq is not None and after_seq > session.last_seq:
            last = session.last_seq
            raise SequenceConflict(f"the log ends at {last}, before {after_seq}: read it anew", last_seq=last)
        name, last = (session.session_key, principal.agent_id), session.last_seq
        if name not in self._feeds:
            audiences = Scope.of(principal, None).audiences
            feed = _Feed(*name, audiences, floor=last, seen=last, redactions=session.redactions)
            self._feeds[name] = feed
            feed.task = asyncio.create_task(self._keep_reading(feed))
        return self._feeds[name]

    async def _keep_reading(self, feed: _Feed) -> None:
        with self._notices.listening(feed.session_key) as told:
            while not feed.ended:
                told.clear()
                more = await self._read_on(feed)
                if not more:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_EVERY):
                            await told.wait()

    async def _read_on(self, feed: _Feed) -> bool:
        """Whether there may be more at once."""
        try:
            page = await self.page(feed, feed.seen)
        except Retryable:
            return False
        if page is None:
            feed.end()
            return False
        if page.redactions != feed.redactions:
            feed.redactions = page.redactions
            feed.forget()
        feed.add(page.events, page.seen)
        return len(page.events) == _PAGE

    async def _stop(self, feed: _Feed) -> None:
        del self._feeds[feed.session_key, feed.agent_id]
        assert feed.task is not None
        feed.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feed.task


def _piece(events: list[Event]) -> list[Event]:
    """The first of them, as many as are handed over at once."""
    room = _PIECE_CHARACTERS
    for place, event in enumerate(events):
        room -= len(event.content)
        if room < 0:
            return events[: max(1, place)]
    return events
