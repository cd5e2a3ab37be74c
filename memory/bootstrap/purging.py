"""What does a purge need? In a service and on the operator's command line, which has neither models nor indexes."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from memory.adapters.clock import SystemClock
from memory.adapters.jobs.recording import RecordingQueue
from memory.adapters.notices import LocalNotices
from memory.adapters.quotas.windows import WindowCounter
from memory.adapters.receipts.ed25519 import Ed25519Notary
from memory.adapters.sql.storage import SqlStorage
from memory.bootstrap import engines, folders
from memory.domain.errors import GeneratorUnavailable
from memory.domain.receipts import ReceiptKind
from memory.ports.jobs import Clock, JobQueue
from memory.ports.notices import Notices
from memory.ports.storage import Storage
from memory.services import steps
from memory.services.erasure import Erasure, Forgetful
from memory.services.forgetting import Forgetting
from memory.services.quotas import Quotas
from memory.services.receipts import Receipts
from memory.services.secrets import TenantSecrets
from memory.services.tenants import Tenants
from memory.settings import Settings


def receipts(storage: Storage, settings: Settings) -> Receipts:
    return Receipts(storage, Ed25519Notary(settings.receipts_dir, settings.receipts.key))


def erasure(
    storage: Storage,
    tiers: Sequence[Forgetful],
    jobs: JobQueue,
    clock: Clock,
    lease: timedelta,
    signed: Receipts,
    notices: Notices,
) -> Erasure:
    return Erasure(
        storage=storage,
        tiers=tiers,
        jobs=jobs,
        clock=clock,
        lease=lease,
        receipts=signed,
        notices=notices,
        steps={ReceiptKind.AGENT: steps.of_agent, ReceiptKind.TENANT: steps.of_tenant},
        ends={ReceiptKind.TENANT: steps.end_of_tenant},
    )


@dataclass(frozen=True, slots=True)
class Operator:
    """What the command line reaches. Running services follow by the change feed and confirm, as for any purge."""

    storage: SqlStorage
    tenants: Tenants
    receipts: Receipts
    forgetting: Forgetting


@asynccontextmanager
async def operator(settings: Settings) -> AsyncIterator[Operator]:
    """Raises StorageUnavailable."""
    async with AsyncExitStack() as stack:
        clock, notices, jobs = SystemClock(), LocalNotices(), RecordingQueue()
        storage = SqlStorage(settings.storage_url, settings.database)
        stack.push_async_callback(storage.close)
        await storage.migrate()
        signed = receipts(storage, settings)
        lease = timedelta(seconds=settings.jobs.lease)
        outside = _Outside(settings, TenantSecrets(storage, clock))
        made = erasure(storage, [outside], jobs, clock, lease, signed, notices)
        counter = WindowCounter(settings.limits.counter_url)
        stack.push_async_callback(counter.close)
        yield Operator(
            storage=storage,
            tenants=Tenants(storage, Quotas(counter, settings.limits)),
            receipts=signed,
            forgetting=Forgetting(storage=storage, erasure=made, jobs=jobs, clock=clock, notices=notices),
        )


class _Outside:
    """Folders that no running process holds, and the KV of a runtime: what no follower of the feed may be there for."""

    def __init__(self, settings: Settings, secrets: TenantSecrets) -> None:
        self._settings = settings
        self._secrets = secrets

    async def forget(self, tenant_id: str, session_keys: Collection[int] = ()) -> dict[str, int]:
        async with AsyncExitStack() as stack:
            salt = engines.salt(await self._secrets.of_database())
            try:
                remote = await engines.connected(stack, self._settings)
            except GeneratorUnavailable:
                remote = None  # the services that ask it tell it, before they confirm
            kv = engines.kv(None, remote, salt)
            return {"kv_blocks": await folders.forgetting(kv, self._settings.data_dir.resolve())(tenant_id)}
