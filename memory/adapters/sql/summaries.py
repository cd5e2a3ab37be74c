"""Summaries of the shared log, one per step of the token axis."""

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql.statements import one_of, upsert
from memory.adapters.sql.tables import summaries


class SqlSummaries:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def newest(self, session_key: int, *, up_to: int) -> tuple[int, list[str]]:
        query = (
            sa.select(summaries.c.step, summaries.c.sentences)
            .where(summaries.c.session_key == session_key, summaries.c.step <= up_to)
            .order_by(summaries.c.step.desc())
            .limit(1)
        )
        row = (await self._db.execute(query)).first()
        return (0, []) if row is None else (row.step, row.sentences)

    async def forget(self, session_keys: Collection[int]) -> int:
        statement = summaries.delete().where(one_of(self._db, summaries.c.session_key, session_keys))
        return (await self._db.execute(statement)).rowcount

    async def add(self, session_key: int, steps: Mapping[int, Sequence[str]]) -> None:
        if not steps:
            return
        values = [{"session_key": session_key, "step": step, "sentences": list(s)} for step, s in steps.items()]
        await self._db.execute(upsert(self._db, summaries).on_conflict_do_nothing(), values)
