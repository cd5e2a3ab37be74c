"""Operations, which are also the outbox."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.agents import readable
from memory.adapters.sql.statements import is_postgresql, one_of
from memory.adapters.sql.tables import operations, sessions
from memory.domain.ids import new_id
from memory.domain.operations import UNFINISHED, NewOperation, Operation, OperationKind, OperationState
from memory.domain.principals import Reach

_UNFINISHED = operations.c.state.in_(UNFINISHED)


def _enqueue(insert: Any) -> Any:
    return insert.on_conflict_do_update(
        index_elements=["tenant_id", "kind", "subject"],
        index_where=sa.text("state IN ('queued', 'running')"),
        set_={"total": operations.c.total + insert.excluded.total},
    ).returning(operations.c.operation_id)


# Made once: building a statement costs more than running it, and every append runs one of these.
_ENQUEUE_POSTGRESQL = _enqueue(postgresql.insert(operations))
_ENQUEUE_SQLITE = _enqueue(sqlite.insert(operations))
_INSERT = operations.insert()
# Locked: what ends meanwhile must be begun anew, not added to.
_UNFINISHED_OF = (
    sa.select(operations.c.operation_id, operations.c.tenant_id, operations.c.kind, operations.c.subject)
    .where(
        sa.tuple_(operations.c.kind, operations.c.subject).in_(sa.bindparam("subjects", expanding=True)), _UNFINISHED
    )
    .order_by(operations.c.operation_id)
    .with_for_update()
)
_ADD_TO_TOTAL = (
    operations.update()
    .where(operations.c.operation_id == sa.bindparam("known"))
    .values(total=operations.c.total + sa.bindparam("more"))
)


class SqlOperations:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def enqueue(
        self,
        tenant_id: str,
        kind: OperationKind,
        subject: str,
        now: datetime,
        *,
        session_key: int | None = None,
        session_id: str | None = None,
        total: int = 0,
        unit: str,
    ) -> tuple[str, bool]:
        proposed = new_id()
        values = {
            "operation_id": proposed,
            "tenant_id": tenant_id,
            "kind": kind,
            "subject": subject,
            "session_key": session_key,
            "session_id": session_id,
            "state": OperationState.QUEUED,
            "total": total,
            "unit": unit,
            "created_at": now,
        }
        statement = _ENQUEUE_POSTGRESQL if is_postgresql(self._db) else _ENQUEUE_SQLITE
        operation_id: str = (await self._db.execute(statement, values)).scalar_one()
        return operation_id, operation_id == proposed

    async def enqueue_all(self, wanted: Sequence[NewOperation], now: datetime) -> list[str]:
        subjects = [(new.kind, new.subject) for new in wanted]
        found = await self._db.execute(_UNFINISHED_OF, {"subjects": subjects})
        known = {(row.tenant_id, row.kind, row.subject): row.operation_id for row in found}
        more = [
            {"known": known[new.tenant_id, new.kind, new.subject], "more": new.total}
            for new in wanted
            if (new.tenant_id, new.kind, new.subject) in known
        ]
        fresh = [
            asdict(new) | {"operation_id": new_id(), "state": OperationState.QUEUED, "created_at": now}
            for new in wanted
            if (new.tenant_id, new.kind, new.subject) not in known
        ]
        if more:
            await self._db.execute(_ADD_TO_TOTAL, more)
        if fresh:
            await self._db.execute(_INSERT, fresh)
        return [values["operation_id"] for values in fresh]

    async def get(self, tenant_id: str, operation_id: str) -> Operation | None:
        found = await self.by_id(operation_id)
        return found if found is not None and found.tenant_id == tenant_id else None

    async def by_id(self, operation_id: str, *, locked: bool = False) -> Operation | None:
        query = sa.select(operations).where(operations.c.operation_id == operation_id)
        if locked:
            query = query.with_for_update()
        row = (await self._db.execute(query)).one_or_none()
        return None if row is None else rows.operation(row)

    async def claim(self, operation_id: str, lease: timedelta, now: datetime) -> Operation | None:
        free = sa.or_(operations.c.lease_until.is_(None), operations.c.lease_until < now)
        statement = (
            operations.update()
            .where(operations.c.operation_id == operation_id, _UNFINISHED, free)
            .values(
                state=OperationState.RUNNING,
                attempts=operations.c.attempts + 1,
                lease_until=now + lease,
                started_at=sa.func.coalesce(
                    operations.c.started_at, sa.bindparam("now", now, operations.c.started_at.type)
                ),
            )
            .returning(operations)
        )
        row = (await self._db.execute(statement)).one_or_none()
        return None if row is None else rows.operation(row)

    async def progress(self, operation_id: str, done: int, lease: timedelta, now: datetime) -> bool:
        statement = operations.update().where(operations.c.operation_id == operation_id, _UNFINISHED)
        # A part of an item may be counted twice, when its segments lie on two pages: never more than there is.
        counted = operations.c.done + done
        counted = sa.case((counted > operations.c.total, operations.c.total), else_=counted)
        updated = await self._db.execute(statement.values(done=counted, lease_until=now + lease))
        return updated.rowcount == 1

    async def finish(
        self,
        operation_id: str,
        state: OperationState,
        now: datetime,
        *,
        error: str | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        statement = operations.update().where(operations.c.operation_id == operation_id, _UNFINISHED)
        values: dict[str, Any] = {"state": state, "finished_at": now, "lease_until": None, "error": error}
        if state is OperationState.SUCCEEDED:
            values["done"] = operations.c.total
        if state is not OperationState.FAILED:
            values["result"] = None if result is None else dict(result)
        await self._db.execute(statement.values(values))

    async def note(self, operation_id: str, result: Mapping[str, Any]) -> None:
        statement = operations.update().where(operations.c.operation_id == operation_id, _UNFINISHED)
        await self._db.execute(statement.values(result=dict(result)))

    async def release(self, operation_id: str, error: str | None, *, afresh: bool = False) -> None:
        statement = operations.update().where(operations.c.operation_id == operation_id, _UNFINISHED)
        values = {"state": OperationState.QUEUED, "lease_until": None, "error": error}
        await self._db.execute(statement.values(**values, **({"attempts": 0} if afresh else {})))

    async def retry(self, operation_id: str) -> bool:
        other = operations.alias()
        same = (other.c.tenant_id == operations.c.tenant_id, other.c.kind == operations.c.kind)
        busy = sa.exists().where(*same, other.c.subject == operations.c.subject, other.c.state.in_(UNFINISHED))
        failed = operations.c.state == OperationState.FAILED
        statement = operations.update().where(operations.c.operation_id == operation_id, failed, ~busy)
        values = {"state": OperationState.QUEUED, "attempts": 0, "error": None, "finished_at": None}
        return (await self._db.execute(statement.values(values))).rowcount == 1

    async def unfinished(self, tenant_id: str, kind: OperationKind, subject: str) -> Operation | None:
        query = sa.select(operations).where(
            operations.c.tenant_id == tenant_id,
            operations.c.kind == kind,
            operations.c.subject == subject,
            _UNFINISHED,
        )
        row = (await self._db.execute(query)).one_or_none()
        return None if row is None else rows.operation(row)

    async def abandoned(
        self, now: datetime, idle: timedelta, limit: int, *, kinds: Sequence[OperationKind] | None = None
    ) -> list[Operation]:
        waiting = sa.and_(operations.c.lease_until.is_(None), operations.c.created_at < now - idle)
        query = sa.select(operations).where(_UNFINISHED, sa.or_(waiting, operations.c.lease_until < now))
        if kinds is not None:
            query = query.where(operations.c.kind.in_(kinds))
        query = query.order_by(operations.c.created_at).limit(limit)
        return [rows.operation(row) for row in await self._db.execute(query)]

    async def page(
        self,
        tenant_id: str,
        *,
        states: Sequence[OperationState] | None,
        after_id: str | None,
        limit: int,
        reach: Reach | None = None,
    ) -> list[Operation]:
        query = sa.select(operations).where(operations.c.tenant_id == tenant_id)
        if states is not None:
            query = query.where(operations.c.state.in_(states))
        if after_id is not None:
            query = query.where(operations.c.operation_id < after_id)
        if reach is not None:
            joined = sa.outerjoin(operations, sessions, sessions.c.session_key == operations.c.session_key)
            query = query.select_from(joined).where(readable(reach.agent_id))
            if reach.session_ids is not None:
                query = query.where(one_of(self._db, operations.c.session_id, reach.session_ids))
        query = query.order_by(operations.c.operation_id.desc()).limit(limit)
        return [rows.operation(row) for row in await self._db.execute(query)]

    async def counts(self, tenant_id: str | None = None) -> dict[str, int]:
        query = sa.select(operations.c.state, sa.func.count()).group_by(operations.c.state)
        if tenant_id is not None:
            query = query.where(operations.c.tenant_id == tenant_id)
        counts = {row[0]: row[1] for row in await self._db.execute(query)}
        return {state.value: counts.get(state.value, 0) for state in OperationState}

    async def forget(self, finished_before: datetime) -> int:
        statement = operations.delete().where(operations.c.finished_at < finished_before)
        return (await self._db.execute(statement)).rowcount

    async def remove(self, operation_id: str) -> None:
        await self._db.execute(operations.delete().where(operations.c.operation_id == operation_id))
