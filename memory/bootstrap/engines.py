"""Which engine writes answers and embeds, and who keeps its KV, by the settings?"""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from memory.adapters.kv.null import NullKVStore
from memory.adapters.kv.runtime import RuntimeKVStore
from memory.adapters.kv.runtime_http import RemoteKVStore
from memory.adapters.models.generation import InProcessGenerator, load_generator
from memory.adapters.models.openai_http import OpenAIGenerator
from memory.adapters.models.runtime_http import RemoteRuntime, RuntimeGenerator, connect
from memory.domain.errors import KVElsewhere, NoModelConfigured
from memory.ports.generation import Generator
from memory.ports.kv import KVStore
from memory.ports.models import Tokenizer
from memory.services.secrets import keyed_hash
from memory.settings import Settings


async def connected(stack: AsyncExitStack, settings: Settings) -> RemoteRuntime | None:
    if settings.runtime_url is None:
        return None
    folder = settings.data_dir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    remote = await connect(settings.runtime_url, settings.runtime_key, folder / f"runtime-{settings.node_name}.json")
    stack.push_async_callback(remote.client.close)
    return remote


def salt(secret: bytes) -> Callable[[str, str], str]:
    """`secret`: of the database, so that all processes of it make the same salts."""
    return lambda tenant_id, share_group: keyed_hash(secret, ["kv", tenant_id, share_group]).hex()


async def generator(
    stack: AsyncExitStack,
    settings: Settings,
    tokenizer: Tokenizer,
    remote: RemoteRuntime | None,
    salt: Callable[[str, str], str],
) -> Generator | None:
    """An engine's URL, then the runtime's model, then one of our own."""
    wanted = settings.generation
    if settings.model is not None and settings.engine_elsewhere:
        engine = OpenAIGenerator(
            settings.model,
            wanted.remote_model,
            wanted.remote_key,
            tokenizer=tokenizer,
            max_tokens=wanted.remote_tokens,
            salt=salt,
            timeout=wanted.remote_timeout,
        )
        stack.push_async_callback(engine.close)
        return engine
    if remote is not None:
        return None if remote.model is None else RuntimeGenerator(remote.client, remote.model, salt)
    if settings.model is None or settings.kv_dir is None:
        return None
    local = await asyncio.to_thread(load_generator, settings.model, settings.kv_dir, wanted, salt)
    stack.push_async_callback(asyncio.to_thread, local.close)
    return local


def kv(engine: Generator | None, remote: RemoteRuntime | None, salt: Callable[[str, str], str]) -> KVStore:
    if isinstance(engine, InProcessGenerator):
        return RuntimeKVStore(engine)
    reason = NoModelConfigured() if engine is None else KVElsewhere()
    if remote is None:
        return NullKVStore(reason)
    return RemoteKVStore(remote.client, salt, engine if isinstance(engine, RuntimeGenerator) else None, reason)
