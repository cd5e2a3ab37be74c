"""A container of the real classes over SQLite, with a quick model, on an event loop of its own."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from memory.bootstrap import Container, build
from memory.domain.events import EventVisibility, NewEvent, Role
from memory.domain.operations import UNFINISHED, OperationKind
from memory.domain.principals import Principal
from memory.domain.recall import RecallRequest, RecallResult
from memory.settings import Settings
from tests.invariants.fakes import FakeModels

T = TypeVar("T")


def settings_in(folder: Path, **changes: Any) -> Settings:
    return Settings(_env_file=None, data_dir=folder, **changes)


class World:
    """The container and the loop that it lives on."""

    def __init__(self, runner: asyncio.Runner, container: Container, models: FakeModels) -> None:
        self._runner = runner
        self.container = container
        self.models = models

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def index(self, tenant_id: str) -> None:
        """What the workers would do."""
        principal = Principal(tenant_id)
        while waiting := await self.container.operations.page(principal, states=UNFINISHED, after_id=None, limit=100):
            waiting = [operation for operation in waiting if operation.kind is OperationKind.INDEX]
            if not waiting:
                return
            for operation in waiting:
                await self.container.consolidation.consolidate(operation.operation_id)
                await self.container.consolidation.embed(operation.operation_id)
                await self.container.consolidation.evict(operation.operation_id)

    async def say(self, principal: Principal, session_id: str, *contents: str, **fields: Any) -> None:
        events = [NewEvent(role=Role.USER, content=content, **fields) for content in contents]
        await self.container.events.append(principal, session_id, events)

    async def find(self, principal: Principal, query: str, **fields: Any) -> Sequence[RecallResult]:
        found = await self.container.recall.recall(principal, RecallRequest(query=query, **fields))
        assert not found.degraded, found.degraded
        return found.results


PRIVATE = EventVisibility.PRIVATE


@contextmanager
def world(folder: Path, **changes: Any) -> Iterator[World]:
    models = FakeModels()
    with asyncio.Runner() as runner:
        opened = build(settings_in(folder, **changes), models)  # type: ignore[arg-type]
        container = runner.run(opened.__aenter__())
        try:
            yield World(runner, container, models)
        finally:
            runner.run(opened.__aexit__(None, None, None))
