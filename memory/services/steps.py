"""Which rows go next, when a purge has more of them than one transaction should hold?"""

from collections import Counter
from datetime import datetime
from itertools import pairwise

from memory.domain.changes import ChangeKind, NewChange, Position
from memory.domain.events import Event
from memory.domain.operations import Operation
from memory.domain.principals import DEFAULT_TENANT
from memory.domain.tenants import Highest
from memory.ports.storage import UnitOfWork
from memory.services.erasure import Step
from memory.services.redaction import made_anew, redact

_ROWS = 5_000
_PART = 500


async def of_tenant(tx: UnitOfWork, operation: Operation, now: datetime) -> Step:
    """The feed tells followers when all is gone: they drop the tenant's index whole."""
    gone = Counter(await tx.tenants.erase_some(operation.tenant_id, _ROWS))
    if gone.total():
        return Step(gone)
    return Step(position=await _tell(tx, operation.tenant_id), done=True)


async def end_of_tenant(tx: UnitOfWork, operation: Operation, now: datetime) -> Position | None:
    """Its own row goes with the receipt, unless something was added by who came in before."""
    if sum((await tx.tenants.erase_some(operation.tenant_id, _ROWS)).values()):
        return await _tell(tx, operation.tenant_id)
    # The secret of this one is the database's: it keys the salts of all KV.
    await tx.tenants.remove(operation.tenant_id, now, keep_secret=operation.tenant_id == DEFAULT_TENANT)
    return None


async def of_agent(tx: UnitOfWork, operation: Operation, now: datetime) -> Step:
    """Events lose their content as by a redaction, memories go; what was written since the purge began stays."""
    what = (operation.result or {})["what"]
    agent_id, upto = what["agent_id"], Highest(**what["upto"])
    session_key = await tx.private.session(operation.tenant_id, agent_id, upto)
    if session_key is not None:
        return await _redact_some(tx, operation.tenant_id, session_key, agent_id, upto, now)
    keys = await tx.private.memories(operation.tenant_id, agent_id, upto, _PART)
    if keys:
        purged = Counter(await tx.memories.purge(*keys))
        gone = [NewChange(ChangeKind.MEMORY, operation.tenant_id, memory_key=key) for key in keys]
        return Step(purged, await tx.changes.add(*gone))
    return Step(Counter(await tx.private.forget_rest(operation.tenant_id, agent_id, upto)), done=True)


async def _redact_some(
    tx: UnitOfWork, tenant_id: str, session_key: int, agent_id: str, upto: Highest, now: datetime
) -> Step:
    session = (await tx.sessions.by_keys([session_key])).get(session_key)
    family = [] if session is None else await tx.sessions.family_locked(session)
    owner = next((one for one in family if one.session_key == session_key), None)
    events = [] if owner is None else await tx.private.events(session_key, agent_id, upto, _PART)
    if owner is None or not events:  # purged, or redacted, while we waited
        return Step()
    purged = await redact(tx, events, family, tenant_id, now)
    gone = [NewChange(ChangeKind.REDACTED, tenant_id, session_key, first, last) for first, last in _ranges(events)]
    position = await tx.changes.add(*gone)
    again = await made_anew(tx, owner, now)
    return Step(
        purged, position, promised=[] if again is None else [again], changed=[one.session_key for one in family]
    )


async def _tell(tx: UnitOfWork, tenant_id: str) -> Position:
    return await tx.changes.add(NewChange(ChangeKind.TENANT_PURGED, tenant_id))


def _ranges(events: list[Event]) -> list[tuple[int, int]]:
    """The seqs in stretches without a gap."""
    seqs = [event.seq for event in events]
    ends = [before for before, after in pairwise(seqs) if after != before + 1]
    begins = [after for before, after in pairwise(seqs) if after != before + 1]
    return list(zip([seqs[0], *begins], [*ends, seqs[-1]], strict=True))
