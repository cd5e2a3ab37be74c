"""The KV of a model runtime in a process of its own, as far as the tiers have to do with it."""

from collections.abc import Callable

from memory.adapters.kv.null import NullKVStore
from memory.adapters.models.runtime_client import RuntimeClient
from memory.domain.errors import GeneratorUnavailable
from memory.domain.generation import WHOLE_TENANT
from model_runtime import wire

_SECONDS = 60.0


class RemoteKVStore(NullKVStore):
    """Found by content, as in this process: only forgetting has something to do."""

    def __init__(self, client: RuntimeClient, salt: Callable[[str, str], str]) -> None:
        self._client = client
        self._salt = salt

    async def forget(self, tenant_id: str) -> int:
        request = wire.ForgetRequest(salts=[self._salt(tenant_id, WHOLE_TENANT)])
        answer = await self._client.call("/v1/forget", request, GeneratorUnavailable, seconds=_SECONDS)
        return wire.ForgetAnswer.model_validate_json(answer.content).blocks
