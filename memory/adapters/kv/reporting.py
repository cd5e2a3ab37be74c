"""What does a model runtime's report about KV mean to the memory, wherever that runtime is?"""

from abc import ABC, abstractmethod
from datetime import UTC, datetime

from memory.domain.errors import PinBudgetExceeded
from memory.domain.kv import BlockMove, Dropped, KVReport, Prefetched, SessionKV, Suspended, TenantKV
from model_runtime.kv import reports

_OF_ONE = "pin fewer sessions, end a pin (ttl_seconds 0), or raise STRATAMEM_GENERATION__TENANT_SHARE or __PIN_SHARE"
_OF_ALL = "all tenants' pins together leave no room for more: wait for some to end, or raise the lowest tier's size"


class ReportingKVStore(ABC):
    def check(self) -> None:
        return None

    @abstractmethod
    async def _ask(
        self, what: str, tenant_id: str, session_id: str, until: float | None = None
    ) -> reports.Report | None:
        """`what`: one of `reports.QUESTIONS`. Raises GeneratorUnavailable."""

    async def report(self, tenant_id: str, session_id: str) -> KVReport:
        return _report(await self._ask("report", tenant_id, session_id))

    async def usage(self, tenant_id: str) -> TenantKV:
        return (await self.report(tenant_id, "-")).tenant

    async def moves(self, tenant_id: str) -> list[BlockMove]:
        found = await self._ask("moves", tenant_id, "-")
        assert isinstance(found, reports.Moved)
        return [
            BlockMove(datetime.fromtimestamp(m.at, UTC), m.origin, m.target, m.reason, m.blocks, m.bytes)
            for m in found.moves
        ]

    async def pin(self, tenant_id: str, session_id: str, until: datetime | None) -> SessionKV | None:
        found = await self._ask("pin", tenant_id, session_id, None if until is None else until.timestamp())
        if isinstance(found, reports.NotPinned):
            raise PinBudgetExceeded(
                f"{found.wanted} bytes would have to be pinned, and {found.left} may be:"
                f" {_OF_ALL if found.of_all else _OF_ONE}",
                wanted_bytes=found.wanted,
                left_bytes=found.left,
            )
        return None if found is None else _report(found).session

    async def prefetch(self, tenant_id: str, session_id: str) -> Prefetched | None:
        found = await self._ask("prefetch", tenant_id, session_id)
        if found is None:
            return None
        assert isinstance(found, reports.Prefetched)
        return Prefetched(found.brought, found.there, found.left, found.tail_tokens, found.restore_ms)

    async def suspend(self, tenant_id: str, session_id: str) -> Suspended | None:
        found = await self._ask("suspend", tenant_id, session_id)
        if found is None:
            return None
        assert isinstance(found, reports.Suspended)
        return Suspended(found.moved, found.stayed, found.bytes, found.tail_tokens)

    async def drop(self, tenant_id: str, session_id: str) -> Dropped | None:
        found = await self._ask("drop", tenant_id, session_id)
        if found is None:
            return None
        assert isinstance(found, reports.Dropped)
        return Dropped(found.blocks, found.kept, found.bytes)

    async def verify(self) -> list[str]:
        return []


def _report(found: reports.Report | None) -> KVReport:
    assert isinstance(found, reports.Described)
    tenant = found.tenant
    return KVReport(
        None if found.session is None else _session(found.session, found.tail),
        TenantKV(tenant.used, tenant.quota, tenant.pinned, tenant.pin_budget),
    )


def _session(found: reports.SessionKV, tail: str | None) -> SessionKV:
    until = found.pinned_until
    return SessionKV(
        fidelity=found.codec,
        fingerprint=found.last_block,
        tokens=found.tokens,
        tail_tokens=found.tail_tokens,
        tail=tail,
        blocks=found.blocks,
        bytes=found.bytes,
        lost=found.lost,
        pinned_until=None if until is None else datetime.fromtimestamp(until, UTC),
        pinned_blocks=found.pinned_blocks,
        generation=found.generation,
    )
