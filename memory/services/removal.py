"""What becomes of a session's rows when it goes? What forks still see of it becomes the heir's, the rest is deleted.

The heir is the fork that sees most of it; what the others see lies within that, and they see it as the heir's from then
on. So every row has a session, and what nobody sees any more goes with the last one that did.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from memory.domain.changes import ChangeKind, NewChange, Position
from memory.domain.lineage import Lineage, Stretch, heir_of
from memory.domain.memories import Memory, MemorySource
from memory.domain.operations import OperationKind
from memory.domain.sessions import Session
from memory.ports.storage import UnitOfWork
from memory.services.tasks import subject_of_session

_FEED_PAGE = 1_000
"""Events that one change names: as many as an append has at most."""


@dataclass(slots=True)
class Removal:
    """Of one session or several, in one transaction. `survivors`: the rest of the family, as it is by then.

    `kept_for`: the session_ids that still see some of it. `operations`: of the heirs, to be sent after the commit.
    """

    tx: UnitOfWork
    now: datetime
    survivors: list[Session]
    position: Position = field(default_factory=Position)
    purged: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    kept_for: set[str] = field(default_factory=set)
    operations: list[str] = field(default_factory=list)

    async def remove(self, session: Session) -> None:
        key, tx = session.session_key, self.tx
        found = heir_of(key, [survivor.lineage for survivor in self.survivors])
        staying = await self._remove_memories(session, None if found is None else found[1])
        moved = [] if found is None else await self._hand_over(session, *found, staying)
        self.purged.update(await tx.sessions.purge(key))
        gone = NewChange(ChangeKind.SESSION_PURGED, session.tenant_id, key)
        self.position = await tx.changes.add(gone, *moved)
        await self._adopt(session, None if found is None else found[0].session_key)

    async def _remove_memories(self, session: Session, share: Stretch | None) -> list[Memory]:
        """Those that are the session's or were derived from it go; what stays is answered."""
        derived = await self.tx.memories.derived_from(session.session_key, session.session_id, session.tenant_id)
        own = Lineage(session.session_key)
        named = {event_id for memory in derived if memory.source is not None for event_id in memory.source.event_ids}
        there = {event.event_id: event.seq for event in await self.tx.events.by_ids(own, sorted(named))}
        staying = []
        for memory in derived:
            if share is not None and _stays(memory, session, share, there):
                staying.append(memory)
                continue
            self.purged.update(await self.tx.memories.purge(memory.memory_key))
            gone = NewChange(ChangeKind.MEMORY, session.tenant_id, memory_key=memory.memory_key)
            self.position = await self.tx.changes.add(gone)
        return staying

    async def _hand_over(
        self, session: Session, lineage: Lineage, share: Stretch, memories: Sequence[Memory]
    ) -> list[NewChange]:
        """What followers have to read again as the heir's."""
        key, heir, tenant_id = session.session_key, lineage.session_key, session.tenant_id
        by_key = {survivor.session_key: survivor for survivor in self.survivors}
        for memory in memories:
            if memory.source is not None and memory.source.session_id == session.session_id:
                source = MemorySource(by_key[heir].session_id, memory.source.event_ids)
                await self.tx.memories.set_source(memory.memory_key, source)
        self.kept.update(await self.tx.sessions.hand_over(session, heir, share))
        self.kept_for |= {s.session_id for s in self.survivors if s.lineage.share_of(key) is not None}
        operation_id, is_new = await self.tx.operations.enqueue(
            tenant_id,
            OperationKind.INDEX,
            subject_of_session(heir),
            self.now,
            session_key=heir,
            session_id=by_key[heir].session_id,
            unit="events",
        )
        self.operations += [operation_id] if is_new else []
        moved = [m.memory_key for m in memories if m.session_key == key]
        return [*_events(session, heir, share), *(NewChange(ChangeKind.MEMORY, tenant_id, memory_key=m) for m in moved)]

    async def _adopt(self, session: Session, heir: int | None) -> None:
        """The survivors forget the session; those that were forked from it are its parent's from now on."""
        for at, before in enumerate(self.survivors):
            parent = session.parent_key if before.parent_key == session.session_key else before.parent_key
            inherited = before.inherited
            if heir is not None:
                inherited = before.lineage.handed_over(session.session_key, heir).inherited
            after = replace(before, parent_key=parent, inherited=inherited)
            if after != before:
                await self.tx.sessions.set_descent(after)
                self.survivors[at] = after


def descendants(session: Session, family: Sequence[Session]) -> list[Session]:
    """The forks of a session and theirs."""
    found = [fork for fork in family if fork.parent_key == session.session_key]
    return [*found, *(further for fork in found for further in descendants(fork, family))]


def _stays(memory: Memory, session: Session, share: Stretch, there: dict[str, int]) -> bool:
    """Whether a survivor sees the memory, and all that it was derived from."""
    if memory.session_key == session.session_key and memory.memory_key > share.last_memory:
        return False
    if memory.source is None or memory.source.session_id != session.session_id:
        return True
    seqs = [there.get(event_id, 0) for event_id in memory.source.event_ids]
    return bool(seqs) and max(seqs) <= share.last_seq


def _events(session: Session, heir: int, share: Stretch) -> list[NewChange]:
    changes = []
    for stretch in session.lineage.stretches:
        if stretch.session_key == session.session_key:
            end = min(stretch.last_seq, share.last_seq)
            for first in range(stretch.first_seq, end + 1, _FEED_PAGE):
                page = (session.tenant_id, heir, first, min(first + _FEED_PAGE - 1, end))
                changes += [NewChange(ChangeKind.EVENTS, *page), NewChange(ChangeKind.VECTORS, *page)]
    return changes
