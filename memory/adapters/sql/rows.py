"""How does a row become a value of the domain?"""

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from memory.domain.changes import Change, ChangeKind, Position
from memory.domain.events import Event, EventVisibility, Role
from memory.domain.forgetting import Outline
from memory.domain.lineage import Stretch
from memory.domain.memories import Memory, MemoryKind, MemorySource, MemoryVersion, MemoryVisibility
from memory.domain.moves import Move, NewMove, Parts, Reason
from memory.domain.operations import Operation, OperationKind, OperationState, Progress
from memory.domain.principals import Key, KeyScope
from memory.domain.recall import TierName
from memory.domain.segments import Cluster, TierSegment
from memory.domain.sessions import Session

Row = sa.Row[*tuple[Any, ...]]


def session(row: Row) -> Session:
    values = dict(row._mapping)
    values["inherited"] = stretches(values["inherited"])
    return Session(**values)


def stretches(stored: list[list[int]] | None) -> tuple[Stretch, ...]:
    return tuple(Stretch(*numbers) for numbers in stored or ())


def event(row: Row) -> Event:
    values = dict(row._mapping)
    del values["tokenizer"]
    values["role"] = Role(values["role"])
    values["visibility"] = EventVisibility(values["visibility"])
    return Event(**values)


def memory(row: Row) -> Memory:
    """A row of `memories`, with `session_id` where it was joined."""
    values: dict[str, Any] = {"session_id": None, **row._mapping}
    for name in ("segmented_version", "scope_hash", "session_seq", "compared", "reworded", "visibility_now"):
        values.pop(name, None)
    values["kind"] = MemoryKind(values["kind"])
    values["visibility"] = MemoryVisibility(values["visibility"])
    source = values["source"]
    values["source"] = source and MemorySource(source["session_id"], tuple(source["event_ids"]))
    return Memory(**values)


def memory_version(row: Row) -> MemoryVersion:
    values = dict(row._mapping)
    del values["memory_key"]
    return MemoryVersion(**values | {"visibility": MemoryVisibility(values["visibility"])})


def outline(row: Row) -> Outline:
    moments = (row.created_at, row.updated_at, row.last_accessed_at)
    return Outline(
        memory_key=row.memory_key,
        memory_id=row.memory_id,
        kind=row.kind,
        session_id=row.session_id,
        agent_id=row.agent_id,
        created_at=row.created_at,
        last_used=max(moment for moment in moments if moment is not None),
        uses=row.access_count,
        pinned=row.pinned,
        valid_to=row.valid_to,
        repeats=row.near_duplicate_of,
        metadata=row._mapping.get("metadata", {}),
    )


def operation(row: Row) -> Operation:
    return Operation(
        operation_id=row.operation_id,
        tenant_id=row.tenant_id,
        kind=OperationKind(row.kind),
        session_key=row.session_key,
        session_id=row.session_id,
        state=OperationState(row.state),
        progress=Progress(row.done, row.total, row.unit),
        attempts=row.attempts,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=row.error,
        result=row.result,
    )


def key(row: Row) -> Key:
    return Key(
        key_id=row.key_id,
        tenant_id=row.tenant_id,
        secret_hash=row.secret_hash,
        scopes=frozenset(KeyScope(scope) for scope in row.scopes),
        agent_id=row.agent_id,
        session_ids=None if row.session_ids is None else frozenset(row.session_ids),
        name=row.name,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )


def change(row: Row, oldest_running: int | None) -> Change:
    return Change(
        position=Position(row.xid, row.number),
        settled=oldest_running is None or row.xid < oldest_running,
        kind=ChangeKind(row.kind),
        tenant_id=row.tenant_id,
        session_key=row.session_key,
        first_seq=row.first_seq,
        last_seq=row.last_seq,
        memory_key=row.memory_key,
    )


def tier_segment(row: Row) -> TierSegment:
    return TierSegment(**{**row._mapping, "last_use": seconds(row.last_use)})


def move(row: Row) -> Move:
    """A row of `moves` joined with its session's id."""
    values = dict(row._mapping)
    move_key, session_id, at = values.pop("move_key"), values.pop("session_id"), values.pop("at")
    del values["tenant_id"]
    values |= {"origin": TierName(row.origin), "target": TierName(row.target), "reason": Reason(row.reason)}
    values["parts"] = row.parts and Parts(**row.parts)
    return Move(move_key, session_id, at, NewMove(**values))


def cluster(row: Row) -> Cluster:
    return Cluster(**row._mapping)


def seconds(moment: datetime) -> float:
    return moment.timestamp()
