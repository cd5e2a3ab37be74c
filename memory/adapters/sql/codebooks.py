"""Codebooks, and the codes that were made with them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.statements import one_of
from memory.adapters.sql.tables import codebooks, coded_segments, codes, operations, segments
from memory.domain.codecs import Code, Codebook, ColdSegment, NewCodebook, Retention
from memory.domain.operations import UNFINISHED, OperationKind, OperationState
from memory.domain.segments import Span

_PURGED = "a purge came in between: what was learned from may be gone"
_COLUMNS = [column for column in codebooks.c if column.name != "body"]
_COLD = sa.and_(segments.c.semantic.is_(False), segments.c.vector.is_not(None), segments.c.item % 2 == 0)
_UNCODED = sa.and_(_COLD, ~sa.exists(sa.select(1).where(coded_segments.c.segment_key == segments.c.segment_key)))
_SEGMENT = (
    segments.c.segment_key,
    segments.c.item,
    segments.c.session_key,
    segments.c.audience,
    segments.c.char_start,
    segments.c.char_end,
    segments.c.vector,
)


class SqlCodebooks:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def publish(self, tenant_id: str, space: str, new: Sequence[NewCodebook], now: datetime) -> None:
        query = sa.select(codebooks.c.codec, sa.func.max(codebooks.c.version)).where(
            codebooks.c.tenant_id == tenant_id, codebooks.c.space == space
        )
        last = {row[0]: row[1] for row in await self._db.execute(query.group_by(codebooks.c.codec))}
        values = [
            {
                "tenant_id": tenant_id,
                "space": space,
                "codec": codebook.codec,
                "version": last.get(codebook.codec, 0) + 1,
                "body": codebook.body,
                "recall": codebook.retention.recall,
                "asked": codebook.retention.asked,
                "bytes_per_segment": codebook.retention.bytes_per_segment,
                "trained_on": codebook.trained_on,
                "created_at": now,
            }
            for codebook in new
        ]
        if values:
            await self._db.execute(codebooks.insert(), values)

    async def all(self, tenant_id: str, space: str) -> list[Codebook]:
        made = sa.select(sa.func.count()).where(codes.c.codebook_key == codebooks.c.codebook_key).scalar_subquery()
        adopted = codebooks.c.body.is_not(None).label("adopted")
        query = sa.select(*_COLUMNS, adopted, made.label("codes")).where(
            codebooks.c.tenant_id == tenant_id, codebooks.c.space == space
        )
        return [_codebook(row) for row in await self._db.execute(query.order_by(codebooks.c.codebook_key.desc()))]

    async def body(self, codebook_key: int) -> bytes | None:
        query = sa.select(codebooks.c.body).where(codebooks.c.codebook_key == codebook_key)
        return (await self._db.execute(query)).scalar_one_or_none()

    async def forget(self, tenant_id: str, now: datetime) -> dict[str, int]:
        # First: whoever is about to publish holds this row, and finds its work ended afterwards.
        work = sa.and_(operations.c.tenant_id == tenant_id, operations.c.kind == OperationKind.CODEC)
        ended = {"state": OperationState.CANCELLED, "lease_until": None, "error": _PURGED, "finished_at": now}
        statement = operations.update().where(work, operations.c.state.in_(UNFINISHED))
        await self._db.execute(statement.values(**ended))
        made = await self._remove_codes(codes.c.tenant_id == tenant_id)
        dropped = await self._db.execute(codebooks.delete().where(codebooks.c.tenant_id == tenant_id))
        return {"codes": made, "codebooks": dropped.rowcount}

    async def remove(self, codebook_key: int) -> int:
        made = await self._remove_codes(codes.c.codebook_key == codebook_key)
        await self._db.execute(codebooks.delete().where(codebooks.c.codebook_key == codebook_key))
        return made

    async def remove_superseded(self, tenant_id: str, space: str) -> None:
        later = codebooks.alias()
        newer = sa.exists().where(
            later.c.tenant_id == codebooks.c.tenant_id,
            later.c.space == codebooks.c.space,
            later.c.codec == codebooks.c.codec,
            later.c.version > codebooks.c.version,
        )
        unused = ~sa.exists().where(codes.c.codebook_key == codebooks.c.codebook_key)
        of_tenant = sa.and_(codebooks.c.tenant_id == tenant_id, codebooks.c.space == space)
        await self._db.execute(codebooks.delete().where(of_tenant, newer, unused))

    async def sample(self, tenant_id: str, space: str, audience: str, after_key: int, limit: int) -> list[ColdSegment]:
        return await self._segments(
            segments.c.tenant_id == tenant_id,
            segments.c.space == space,
            segments.c.audience == audience,
            segments.c.vector.is_not(None),
            segments.c.item % 2 == 0,
            segments.c.segment_key > after_key,
            limit=limit,
        )

    async def uncoded(self, session_key: int, space: str, limit: int) -> list[ColdSegment]:
        return await self._segments(
            segments.c.session_key == session_key, segments.c.space == space, _UNCODED, limit=limit
        )

    async def sessions_with_uncoded(self, tenant_id: str, space: str, after_key: int, limit: int) -> list[int]:
        query = sa.select(segments.c.session_key).distinct()
        query = query.where(
            segments.c.tenant_id == tenant_id,
            segments.c.space == space,
            segments.c.session_key > after_key,
            _UNCODED,
        )
        return list((await self._db.execute(query.order_by(segments.c.session_key).limit(limit))).scalars())

    async def add_codes(self, tenant_id: str, new: Sequence[Code]) -> None:
        keys = [key for code in new for key in code.segment_keys]
        query = sa.select(coded_segments.c.segment_key).where(one_of(self._db, coded_segments.c.segment_key, keys))
        known = set((await self._db.execute(query)).scalars())
        for code in new:
            if known.isdisjoint(code.segment_keys):
                await self._add(tenant_id, code)

    async def codes(self, session_key: int) -> list[Code]:
        query = (
            sa.select(codes, coded_segments.c.segment_key)
            .join(coded_segments, coded_segments.c.code_key == codes.c.code_key)
            .where(codes.c.session_key == session_key)
            .order_by(codes.c.code_key, coded_segments.c.segment_key)
        )
        found: dict[int, list[rows.Row]] = {}
        for row in await self._db.execute(query):
            found.setdefault(row.code_key, []).append(row)
        return [
            Code(r[0].codebook_key, session_key, r[0].audience, tuple(row.segment_key for row in r), r[0].code)
            for r in found.values()
        ]

    async def cold(self, tenant_id: str, space: str) -> dict[str, int]:
        of_space = sa.and_(segments.c.tenant_id == tenant_id, segments.c.space == space)
        cold = await self._number(sa.select(sa.func.count()).where(of_space, _COLD))
        left = await self._number(sa.select(sa.func.count()).where(of_space, _UNCODED))
        size = sa.select(sa.func.coalesce(sa.func.sum(sa.func.length(codes.c.code)), 0))
        size = size.join(codebooks, codebooks.c.codebook_key == codes.c.codebook_key)
        size = size.where(codes.c.tenant_id == tenant_id, codebooks.c.space == space)
        return {"segments": cold, "coded": cold - left, "code_bytes": await self._number(size)}

    async def _add(self, tenant_id: str, code: Code) -> None:
        values = {
            "tenant_id": tenant_id,
            "codebook_key": code.codebook_key,
            "session_key": code.session_key,
            "audience": code.audience,
            "code": code.code,
        }
        made = await self._db.execute(codes.insert().returning(codes.c.code_key), values)
        key = made.scalar_one()
        held = [{"segment_key": segment_key, "code_key": key} for segment_key in code.segment_keys]
        await self._db.execute(coded_segments.insert(), held)

    async def _remove_codes(self, condition: sa.ColumnElement[bool]) -> int:
        keys = sa.select(codes.c.code_key).where(condition)
        await self._db.execute(coded_segments.delete().where(coded_segments.c.code_key.in_(keys)))
        return (await self._db.execute(codes.delete().where(condition))).rowcount

    async def _segments(self, *conditions: sa.ColumnElement[bool], limit: int) -> list[ColdSegment]:
        query = sa.select(*_SEGMENT).where(*conditions).order_by(segments.c.segment_key).limit(limit)
        return [
            ColdSegment(
                row.segment_key,
                row.item,
                row.session_key,
                row.audience,
                Span(row.char_start, row.char_end),
                row.vector,
            )
            for row in await self._db.execute(query)
        ]

    async def _number(self, query: Any) -> int:
        return int((await self._db.execute(query)).scalar_one())


def _codebook(row: rows.Row) -> Codebook:
    return Codebook(
        codebook_key=row.codebook_key,
        tenant_id=row.tenant_id,
        space=row.space,
        codec=row.codec,
        version=row.version,
        adopted=row.adopted,
        retention=Retention(row.recall, row.asked, row.bytes_per_segment),
        trained_on=row.trained_on,
        created_at=row.created_at,
        codes=row.codes,
    )
