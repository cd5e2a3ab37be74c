"""Receipts of purges: added in a chain, and never changed or removed."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql.statements import is_postgresql
from memory.adapters.sql.tables import receipts
from memory.domain.receipts import SignedReceipt

_LOCK = sa.text("SELECT pg_advisory_xact_lock(hashtext('stratamem receipts'))")


class SqlReceipts:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def last(self) -> SignedReceipt | None:
        if is_postgresql(self._db):  # SQLite has one writer anyway
            await self._db.execute(_LOCK)
        return await self._one(sa.select(receipts).order_by(receipts.c.number.desc()).limit(1))

    async def add(self, receipt: SignedReceipt) -> None:
        await self._db.execute(receipts.insert(), {column.name: getattr(receipt, column.name) for column in receipts.c})

    async def get(self, receipt_id: str) -> SignedReceipt | None:
        return await self._one(sa.select(receipts).where(receipts.c.receipt_id == receipt_id))

    async def page(self, tenant_id: str | None, *, after: int, limit: int) -> list[SignedReceipt]:
        query = sa.select(receipts).where(receipts.c.number > after).order_by(receipts.c.number).limit(limit)
        if tenant_id is not None:
            query = query.where(receipts.c.tenant_id == tenant_id)
        return [SignedReceipt(**row._mapping) for row in await self._db.execute(query)]

    async def _one(self, query: sa.Select[tuple[object, ...]]) -> SignedReceipt | None:
        row = (await self._db.execute(query)).one_or_none()
        return None if row is None else SignedReceipt(**row._mapping)
