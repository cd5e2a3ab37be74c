"""What does a filter need from the database? The values of the fields that the catalogue does not hold."""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np

from memory.domain.ids import ItemId
from memory.domain.recall import field_tests
from memory.tiers.base import Question
from memory.tiers.longterm.catalogue import NO_SESSION
from memory.tiers.longterm.fields import Kept
from memory.tiers.longterm.opened import OpenTenant
from memory.tiers.longterm.search import Given
from memory.tiers.longterm.tenant_index import TenantIndex

_METADATA = "metadata."


async def given_for(tenant: OpenTenant, index: TenantIndex, question: Question) -> Given:
    condition = question.conditions.filter
    fields = {test.field for test in field_tests(condition)} if condition is not None else set()
    values: dict[str, Mapping[ItemId, Any]] = {}
    kept: dict[str, Kept] = {}
    for name in sorted(name for name in fields if name.startswith(_METADATA)):
        found = await _kept(tenant, index, name) if question.scope.logs is None else None
        if found is None:
            values[name] = await _read(tenant, name, question.scope.logs)
        else:
            kept[name] = found
    sessions = await _sessions(tenant, index, question) if "session_id" in fields else None
    return Given(values, kept, sessions)


async def _read(tenant: OpenTenant, name: str, logs: tuple[int, ...] | None) -> dict[ItemId, Any]:
    async with tenant.home.storage.read() as tx:
        return dict(await tx.changes.metadata_values(tenant.tenant_id, logs, _path(name)))


async def _kept(tenant: OpenTenant, index: TenantIndex, name: str) -> Kept | None:
    """The field as the index keeps it, brought up to date; None: it can't be kept, for this question at least."""
    async with tenant.lock.reading():
        lacking = index.fields.lacking(name, index.catalogue)
        catalogue = index.catalogue
    if lacking is None:
        return index.fields.kept(name)
    async with tenant.home.storage.read() as tx:
        if lacking.items is None:
            values = await tx.changes.metadata_values(tenant.tenant_id, None, _path(name))
        else:
            values = await tx.changes.metadata_of(lacking.items, _path(name))
    async with tenant.lock.writing():
        if index.catalogue is not catalogue:  # a compaction came between: its rows have other numbers
            return None
        kept = await asyncio.to_thread(index.fields.put, name, catalogue, lacking, values)
    return index.fields.kept(name) if kept else None


async def _sessions(tenant: OpenTenant, index: TenantIndex, question: Question) -> dict[int, str]:
    """The names of all sessions that something belongs to, or is shown as part of."""
    async with tenant.lock.reading():
        keys = await asyncio.to_thread(lambda: set(np.unique(index.catalogue.column("session")).tolist()))
    keys |= {one.heir for one in question.scope.inherited}
    async with tenant.home.storage.read() as tx:
        named = await tx.sessions.by_keys(keys - {NO_SESSION})
    return {key: session.session_id for key, session in named.items()}


def _path(name: str) -> list[str]:
    return name.split(".")[1:]
