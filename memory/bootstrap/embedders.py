"""Which embedding models are loaded: the configured one, and those that tenants are still served by?"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AsyncExitStack

from memory.adapters.models.inprocess import load_models
from memory.adapters.models.settings import Precision
from memory.domain.errors import EmbedderUnavailable
from memory.ports.jobs import Clock
from memory.ports.models import Models
from memory.ports.storage import Storage
from memory.services.traffic import Traffic
from memory.settings import Settings

logger = logging.getLogger(__name__)


async def configured(
    stack: AsyncExitStack, settings: Settings, traffic: Traffic, storage: Storage, clock: Clock
) -> Models:
    """Raises EmbedderUnavailable. Its name is noted, for the day when another one is configured."""
    loaded = await asyncio.to_thread(
        load_models,
        settings.embedder,
        traffic.give_way,
        precision=settings.embedder_precision,
        exports=settings.exports_dir,
    )
    stack.callback(loaded.embedder.close)
    async with storage.write() as tx:
        await tx.spaces.note(loaded.embedder.space, settings.embedder, clock.now())
    return loaded


async def former(
    stack: AsyncExitStack, settings: Settings, traffic: Traffic, storage: Storage, current: Models
) -> dict[str, Models]:
    """By space; what can't be loaded is left out."""
    async with storage.read() as tx:
        wanted = {space for space in (await tx.spaces.all()).values() if space is not None}
        names = await tx.spaces.embedders()
    found: dict[str, Models] = {}
    for space in sorted(wanted - {current.embedder.space}):
        models = await _of_space(stack, settings, traffic, space, names)
        if models is not None:
            found[space] = models
    return found


async def _of_space(
    stack: AsyncExitStack, settings: Settings, traffic: Traffic, space: str, names: Mapping[str, str]
) -> Models | None:
    """The model under the name that was noted (else the configured one), in either precision, if that is its space."""
    name = names.get(space, settings.embedder)
    for precision in (Precision.FLOAT32, Precision.INT8):
        try:
            models = await asyncio.to_thread(
                load_models, name, traffic.give_way, precision=precision, exports=settings.exports_dir
            )
        except EmbedderUnavailable as error:
            logger.warning("the former embedder %s can't be loaded: %s", name, error.detail)
            continue
        if models.embedder.space == space:
            stack.callback(models.embedder.close)
            logger.info("the embedder of the space %s serves until its tenants are embedded anew", space)
            return models
        models.embedder.close()
    return None
