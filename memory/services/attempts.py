"""How is an operation worked at, so that whoever is stopped, or fails, leaves it to the next?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from memory.domain.errors import Retryable
from memory.domain.operations import Operation, OperationState
from memory.ports.jobs import Clock
from memory.ports.storage import Storage

MOST = 8
"""After so many failures an operation is given up and says why."""


@asynccontextmanager
async def attempt(
    storage: Storage, clock: Clock, lease: timedelta, operation_id: str, *, most: int | None = MOST
) -> AsyncIterator[Operation | None]:
    """The operation, claimed for the block; None: another is at it, or it is over.

    The block itself says how it ended. Where it raises, the operation is queued again for the sweep with the reason, or
    given up when it has failed `most` times (None: never) and trying again can't help. Raises what the block raises.
    """
    async with storage.write() as tx:
        operation = await tx.operations.claim(operation_id, lease, clock.now())
    if operation is None:
        yield None
        return
    try:
        yield operation
    except asyncio.CancelledError:  # the process stops: whoever comes next need not wait for the lease
        await asyncio.shield(_leave(storage, clock, operation, "the worker was stopped", give_up=False))
        raise
    except Exception as error:
        hopeless = most is not None and operation.attempts >= most and not isinstance(error, Retryable)
        await _leave(storage, clock, operation, f"{type(error).__name__}: {error}", give_up=hopeless)
        raise


async def _leave(storage: Storage, clock: Clock, operation: Operation, reason: str, *, give_up: bool) -> None:
    async with storage.write() as tx:
        if give_up:
            await tx.operations.finish(operation.operation_id, OperationState.FAILED, clock.now(), error=reason)
        else:
            await tx.operations.release(operation.operation_id, reason)
