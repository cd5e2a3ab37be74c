"""Centroids of the semantic tier."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from memory.adapters.sql import rows
from memory.adapters.sql.statements import one_of
from memory.adapters.sql.tables import clusters, sessions
from memory.domain.segments import Cluster


class SqlClusters:
    def __init__(self, connection: AsyncConnection) -> None:
        self._db = connection

    async def of_session(self, session_key: int) -> list[Cluster]:
        query = sa.select(clusters).where(clusters.c.session_key == session_key)
        return [rows.cluster(row) for row in await self._db.execute(query.order_by(clusters.c.cluster_key))]

    async def add(self, session_key: int, audience: str, centroid: bytes, size: int) -> int:
        statement = clusters.insert().values(session_key=session_key, audience=audience, centroid=centroid, size=size)
        cluster_key: int = (await self._db.execute(statement.returning(clusters.c.cluster_key))).scalar_one()
        return cluster_key

    async def set(self, centroids: Mapping[int, tuple[bytes, int]]) -> None:
        if not centroids:
            return
        statement = (
            clusters.update()
            .where(clusters.c.cluster_key == sa.bindparam("key"))
            .values(centroid=sa.bindparam("new_centroid"), size=sa.bindparam("new_size"))
        )
        values = [{"key": k, "new_centroid": c, "new_size": n} for k, (c, n) in centroids.items()]
        await self._db.execute(statement, values)

    async def remove(self, cluster_keys: Sequence[int]) -> None:
        await self._db.execute(clusters.delete().where(one_of(self._db, clusters.c.cluster_key, cluster_keys)))

    async def count(self, tenant_id: str) -> int:
        query = (
            sa.select(sa.func.count())
            .select_from(clusters.join(sessions, sessions.c.session_key == clusters.c.session_key))
            .where(sessions.c.tenant_id == tenant_id)
        )
        return (await self._db.execute(query)).scalar_one()
