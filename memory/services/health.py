"""Can this process serve, and if not wholly, what is missing?

Only an unreachable database stops everything. Without the broker appends still succeed and the sweep catches up;
without the embedder words are still found; a tier that can't answer is named in `degraded` of each recall.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from memory.domain.errors import EmbedderUnavailable, StratamemError
from memory.ports.generation import Generator
from memory.ports.jobs import JobQueue
from memory.ports.models import Embedder
from memory.ports.storage import Storage

NO_MODEL = "no model configured: generation is off; set STRATAMEM_MODEL"
_TIMEOUT = 1.8


class HealthState(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class HealthEntry:
    state: HealthState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class HealthReport:
    database: HealthEntry
    broker: HealthEntry
    tiers: HealthEntry
    embedder: HealthEntry
    runtime: HealthEntry

    @property
    def state(self) -> HealthState:
        """The worst of all entries."""
        states = {self.database.state, self.broker.state, self.tiers.state, self.embedder.state, self.runtime.state}
        return next(state for state in (HealthState.DOWN, HealthState.DEGRADED, HealthState.OK) if state in states)

    @property
    def serving(self) -> bool:
        return self.state is not HealthState.DOWN


class Follower(Protocol):
    @property
    def failure(self) -> str | None:
        """Why the last round of following the change feed failed; None when it went well."""


class Health:
    """`generator`: None where no model is configured. `words_only`: tenants that are not wholly served by vectors.

    Each check has `timeout` seconds; they run beside each other.
    """

    def __init__(
        self,
        storage: Storage,
        jobs: JobQueue,
        embedder: Embedder,
        longterm: Follower,
        generator: Generator | None = None,
        *,
        words_only: Callable[[], int] = lambda: 0,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._storage = storage
        self._jobs = jobs
        self._embedder = embedder
        self._longterm = longterm
        self._generator = generator
        self._words_only = words_only
        self._timeout = timeout

    async def check(self) -> HealthReport:
        """Never raises, and answers within the time-out."""
        database, broker, embedder, runtime = await asyncio.gather(
            self._entry(self._storage.ping, HealthState.DOWN, "nothing can be stored or read"),
            self._entry(self._jobs.check, HealthState.DEGRADED, "appends are stored, background work waits"),
            self._entry(self._embed, HealthState.DEGRADED, "recall finds words, not meaning"),
            self._runtime(),
        )
        return HealthReport(database, broker, self._tiers(), embedder, runtime)

    async def _runtime(self) -> HealthEntry:
        if self._generator is None:
            return HealthEntry(HealthState.OK, NO_MODEL)
        return await self._entry(self._generator.check, HealthState.DEGRADED, "memory serves, nothing generates")

    def _tiers(self) -> HealthEntry:
        failure = self._longterm.failure
        if failure is None:
            return HealthEntry(HealthState.OK)
        return HealthEntry(
            HealthState.DEGRADED, f"longterm: {failure}: recall names it in `degraded` if it can't answer"
        )

    async def _embed(self) -> None:
        await self._embedder.embed(["ready?"])
        if self._words_only():
            raise EmbedderUnavailable("texts of another embedding model are not embedded anew, or not read, yet")

    async def _entry(self, check: Callable[[], Awaitable[None]], failed: HealthState, consequence: str) -> HealthEntry:
        try:
            async with asyncio.timeout(self._timeout):
                await check()
        except TimeoutError:
            return HealthEntry(failed, f"no answer within {self._timeout:g} s: {consequence}")
        except StratamemError as error:
            return HealthEntry(failed, f"{error.detail}: {consequence}")
        except Exception as error:  # a probe reports what is broken, whatever it is
            return HealthEntry(failed, f"{type(error).__name__}: {consequence}")
        return HealthEntry(HealthState.OK)
