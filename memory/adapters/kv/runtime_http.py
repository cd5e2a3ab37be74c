"""The KV of a model runtime in a process of its own."""

from collections.abc import Callable

from memory.adapters.kv.reporting import ReportingKVStore
from memory.adapters.models.runtime_client import RuntimeClient
from memory.adapters.models.runtime_http import RuntimeGenerator
from memory.domain.errors import GeneratorUnavailable, StratamemError
from memory.domain.generation import WHOLE_TENANT, Prompt
from memory.domain.kv import BlockMove, KVReport, TenantKV, by_tier
from model_runtime import wire
from model_runtime.kv.reports import Report

_SECONDS = 60.0
_MOVING_SECONDS = 300.0


class RemoteKVStore(ReportingKVStore):
    """`generator` None: it only embeds for us, and `reason` is why there is no KV to speak of. Purges reach it."""

    def __init__(
        self,
        client: RuntimeClient,
        salt: Callable[[str, str], str],
        generator: RuntimeGenerator | None,
        reason: StratamemError,
    ) -> None:
        self._client = client
        self._salt = salt
        self._generator = generator
        self._reason = reason

    def check(self) -> None:
        if self._generator is None:
            raise self._reason

    async def report(self, tenant_id: str, session_id: str) -> KVReport:
        if self._generator is None:
            return KVReport(None, TenantKV(by_tier(), by_tier(), 0, 0))
        return await super().report(tenant_id, session_id)

    async def moves(self, tenant_id: str) -> list[BlockMove]:
        return [] if self._generator is None else await super().moves(tenant_id)

    async def warm(self, prompt: Prompt) -> int:
        return 0 if self._generator is None else await self._generator.warm(prompt)

    async def forget(self, tenant_id: str) -> int:
        request = wire.ForgetRequest(salts=[self._salt(tenant_id, WHOLE_TENANT)], tenant=tenant_id)
        answer = await self._client.call("/v1/forget", request, GeneratorUnavailable, seconds=_SECONDS)
        return wire.ForgetAnswer.model_validate_json(answer.content).blocks

    async def _ask(self, what: str, tenant_id: str, session_id: str, until: float | None = None) -> Report | None:
        request = wire.KVRequest.model_validate(
            {"what": what, "tenant": tenant_id, "memory_key": session_id, "until": until}
        )
        answer = await self._client.call("/v1/kv", request, GeneratorUnavailable, seconds=_MOVING_SECONDS)
        return wire.KVAnswer.model_validate_json(answer.content).report
