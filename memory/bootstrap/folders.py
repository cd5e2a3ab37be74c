"""Which folders are this process's alone, and what is done about those that nobody has any more?"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from memory.adapters.node_folders import FolderInUse, clear_abandoned, held
from memory.domain.errors import TierUnavailable
from memory.ports.kv import KVStore
from memory.settings import Settings

logger = logging.getLogger(__name__)


async def take(stack: AsyncExitStack, settings: Settings) -> None:
    """Those of this process are its alone from now on; those that nobody has are cleared. Raises TierUnavailable.

    A runtime that we ask may only be starting; it hears of every purge, so its folder can wait.
    """
    for folder in (settings.index_dir, settings.kv_dir):
        if folder is None:
            continue
        try:
            await asyncio.to_thread(stack.enter_context, held(folder))
        except FolderInUse as error:
            raise TierUnavailable(
                f"another process uses the caches in {folder}: give each its own STRATAMEM_NODE"
            ) from error
    spare = () if settings.runtime_url is None else (settings.runtime_kv_dir,)
    try:
        await asyncio.to_thread(clear_abandoned, settings.data_dir.resolve(), spare=spare)
    except OSError as error:  # no purge is confirmed until it can be
        logger.warning("what another process left behind can't be removed: %s", error)


def forgetting(
    kv: KVStore, data_dir: Path, also: Callable[[str], Awaitable[object]] | None = None
) -> Callable[[str], Awaitable[int]]:
    """What a process does before it confirms a purge, beside cleaning its own index; the number of blocks of KV."""

    async def forget(tenant_id: str) -> int:
        try:
            await asyncio.to_thread(clear_abandoned, data_dir)
        except OSError as error:
            raise TierUnavailable(f"what another process left behind can't be removed: {error}") from error
        if also is not None:
            await also(tenant_id)
        return await kv.forget(tenant_id)

    return forget
