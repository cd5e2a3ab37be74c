"""What was made of some events, in their session and in all forks that share it? All of it goes with their content."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from memory.domain.changes import ChangeKind, NewChange
from memory.domain.events import Event
from memory.domain.memories import Memory
from memory.domain.operations import OperationKind
from memory.domain.sessions import Session
from memory.ports.storage import UnitOfWork
from memory.services.tasks import subject_of_session


async def redact(
    tx: UnitOfWork, events: Sequence[Event], family: Sequence[Session], tenant_id: str, now: datetime
) -> Counter[str]:
    """In one transaction, of one session's log. Returns what is gone, by kind.

    Clusters and summaries are made anew without it: which of them it took part in is not written down anywhere.
    `family`: all that share the log, locked.
    """
    purged: Counter[str] = Counter(events=len(events))
    session_key = events[0].session_key
    for memory in await _derived(tx, events, family, tenant_id):
        purged.update(await tx.memories.purge(memory.memory_key))
        await tx.changes.add(NewChange(ChangeKind.MEMORY, tenant_id, memory_key=memory.memory_key))
    purged.update({kind: count for kind, count in (await tx.codebooks.forget(tenant_id, now)).items() if count})
    await tx.events.redact(*events)
    removed = await tx.segments.remove_items(*(event.item for event in events))
    purged.update(segments=removed, vectors=removed)
    await tx.segments.unsee(session_key, None)
    await tx.clusters.remove([one.cluster_key for one in await tx.clusters.of_session(session_key)])
    await tx.summaries.forget([session.session_key for session in family])
    await tx.sessions.redacted(session_key, len(events))
    return purged


async def made_anew(tx: UnitOfWork, session: Session, now: datetime) -> str | None:
    """The operation that clusters the session again, to be sent after the commit; None: one is under way."""
    operation_id, is_new = await tx.operations.enqueue(
        session.tenant_id,
        OperationKind.INDEX,
        subject_of_session(session.session_key),
        now,
        session_key=session.session_key,
        session_id=session.session_id,
        unit="events",
    )
    return operation_id if is_new else None


async def _derived(tx: UnitOfWork, events: Sequence[Event], family: Sequence[Session], tenant_id: str) -> list[Memory]:
    """Memories that name one of the events as where they come from."""
    found: dict[int, Memory] = {}
    for session in family:
        stretches = session.lineage.stretches
        seen = {e.event_id for e in events if any(stretch.holds(e.session_key, e.seq) for stretch in stretches)}
        for memory in (
            await tx.memories.derived_from(session.session_key, session.session_id, tenant_id) if seen else ()
        ):
            source = memory.source
            if source is not None and source.session_id == session.session_id and seen & set(source.event_ids):
                found[memory.memory_key] = memory
    return list(found.values())
