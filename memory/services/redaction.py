"""What was made of one event, in its session and in all forks that share it? All of it goes with its content."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from memory.domain.changes import ChangeKind, NewChange
from memory.domain.events import Event
from memory.domain.memories import Memory
from memory.domain.sessions import Session
from memory.ports.storage import UnitOfWork


async def redact(
    tx: UnitOfWork, event: Event, family: Sequence[Session], tenant_id: str, now: datetime
) -> Counter[str]:
    """In one transaction. Returns what is gone, by kind.

    Clusters and summaries are made anew without it: which of them it took part in is not written down anywhere.
    `family`: all that share its session's log, locked.
    """
    purged: Counter[str] = Counter(events=1)
    for memory in await _derived(tx, event, family, tenant_id):
        purged.update(await tx.memories.purge(memory.memory_key))
        await tx.changes.add(NewChange(ChangeKind.MEMORY, tenant_id, memory_key=memory.memory_key))
    purged.update({kind: count for kind, count in (await tx.codebooks.forget(tenant_id, now)).items() if count})
    await tx.events.redact(event)
    removed = await tx.segments.remove_item(event.item)
    purged.update(segments=removed, vectors=removed)
    await tx.segments.unsee(event.session_key, None)
    await tx.clusters.remove([one.cluster_key for one in await tx.clusters.of_session(event.session_key)])
    await tx.summaries.forget([session.session_key for session in family])
    await tx.sessions.redacted(event.session_key)
    return purged


async def _derived(tx: UnitOfWork, event: Event, family: Sequence[Session], tenant_id: str) -> list[Memory]:
    """Memories that name the event as where they come from."""
    found: dict[int, Memory] = {}
    for session in family:
        if not any(stretch.holds(event.session_key, event.seq) for stretch in session.lineage.stretches):
            continue
        for memory in await tx.memories.derived_from(session.session_key, session.session_id, tenant_id):
            source = memory.source
            if source is not None and source.session_id == session.session_id and event.event_id in source.event_ids:
                found[memory.memory_key] = memory
    return list(found.values())
