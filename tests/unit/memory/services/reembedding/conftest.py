"""A tenant whose events and memories were embedded by another model than the one that is configured now."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from memory.bootstrap import build
from memory.domain.memories import MemoryKind, MemoryVisibility, NewMemory
from memory.domain.operations import UNFINISHED, OperationKind
from memory.domain.recall import RecallRequest
from memory.settings import Settings
from memory.testing import WordHashEmbedder, WordTokenizer
from tests.unit.memory.services.conftest import ME, Models, say, work

OLD, NEW = "word-hash-64", "word-hash-96"
TENANT = "default"


def models(dimensions):
    return Models(WordHashEmbedder(dimensions), WordTokenizer())


class Service:
    """Starts containers on one database, each with the embedder that is configured by then."""

    def __init__(self, stack, folder, url):
        self.stack, self.folder, self.url, self.started = stack, folder, url, 0

    async def start(self, dimensions, *former, node=None, serving=True):
        settings = Settings(_env_file=None, data_dir=self.folder, database_url=self.url, node=node)
        loaded = {f"word-hash-{d}": models(d) for d in former}
        stack = AsyncExitStack()
        built = build(settings, models(dimensions), former=loaded, serving=serving)
        container = await stack.enter_async_context(built)
        self.stack.push_async_exit(stack)
        return container, stack

    async def once(self, dimensions, *former, **options):
        container, _ = await self.start(dimensions, *former, **options)
        return container


@pytest.fixture
async def service(tmp_path, database_url):
    async with AsyncExitStack() as stack:
        yield Service(stack, tmp_path, database_url)


@pytest.fixture
async def filled(service):
    """Thirty events and ten memories, embedded with the old model; the process has stopped."""
    container, stack = await service.start(64)
    await say(container, "s", *[f"remark number {n} about thing{n % 7}" for n in range(30)])
    new = [NewMemory(f"note {n} about plan{n % 5}", MemoryKind.NOTE, MemoryVisibility.TENANT) for n in range(10)]
    await container.memories.add(ME, new)
    await work(container)
    await stack.aclose()
    return service


async def operations(container, *states):
    found = await container.operations.page(ME, states=states or None, after_id=None, limit=99)
    return [one for one in found if one.kind is OperationKind.REEMBED]


def worker_of(container):
    """What would run beside it, with the same models."""
    own = Models(container.embedder, container.tokenizer)
    return build(container.settings, own, former=container.former, serving=False)


async def finish(container):
    (operation,) = await operations(container, *UNFINISHED)
    async with worker_of(container) as worker:
        await worker.reembedding.reembed(operation.operation_id)
    return await container.operations.get(ME, operation.operation_id)


async def index(container):
    """Only what the INDEX operations have to do."""
    async with worker_of(container) as worker:
        for operation in await container.operations.page(ME, states=UNFINISHED, after_id=None, limit=9):
            if operation.kind is OperationKind.INDEX:
                for step in ("consolidate", "embed", "evict"):
                    await getattr(worker.consolidation, step)(operation.operation_id)


async def followed(container, space=NEW):
    """The process has noticed the move."""
    async with asyncio.timeout(20):
        while container.longterm._spaces.of(TENANT).space != space or container.longterm._moving:
            await asyncio.sleep(0.02)


async def texts(container, query="thing3 remark", **options):
    recalled = await container.recall.recall(ME, RecallRequest(query, **options))
    assert not recalled.degraded
    return [result.text for result in recalled.results]


async def vectors_in(tx, space):
    return await tx.changes.vectors_of(space, await tx.changes.items(TENANT))


async def dense(container, query="thing3 remark"):
    """How many of forty results were compared by their vectors."""
    recalled = await container.recall.recall(ME, RecallRequest(query, top_k=200, explain=True))
    return sum("dense" in result.signals for result in recalled.results)


async def spaces(container):
    async with container.storage.read() as tx:
        served = await tx.spaces.of(TENANT)
        missing = await tx.spaces.count_unfilled(TENANT, NEW)
        return served, missing, await tx.spaces.others(TENANT, served)
