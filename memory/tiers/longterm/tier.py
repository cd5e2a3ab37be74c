"""Everything that was ever said or written down, found by vector and by word.

Each API process keeps an index of its own and follows the change feed, so an acknowledged event is found by every
process at once (invariant I9): a recall first catches up with what is committed.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

from memory.domain.changes import Change, ChangeKind, Position
from memory.domain.errors import EmbedderUnavailable, GeneratorUnavailable, StratamemError, TierUnavailable
from memory.domain.ids import ItemId
from memory.domain.operations import IndexName
from memory.domain.recall import TierName
from memory.domain.segments import SegmentVector
from memory.ports.indexes import LexicalIndexes, VectorIndexes
from memory.ports.jobs import Clock
from memory.ports.spaces import Spaces
from memory.ports.storage import Storage
from memory.tiers.base import Candidates, Question, TierStats
from memory.tiers.longterm.follower import PAGE, count
from memory.tiers.longterm.given import given_for
from memory.tiers.longterm.locks import in_thread
from memory.tiers.longterm.opened import Home, OpenTenant, Told
from memory.tiers.longterm.opening import Report
from memory.tiers.longterm.rebuilding import rebuild_vectors, verify_vectors, verify_words
from memory.tiers.longterm.settings import LongTermSettings
from memory.tiers.longterm.tenants import Tenants

EmbedItems = Callable[[str, str, list[ItemId]], Awaitable[list[SegmentVector]]]
"""(tenant, space, items) → their vectors in that space"""

Purged = Callable[[str], Awaitable[object]]
"""Told the tenant of which something was purged, before this process says that it has forgotten it."""

_HEARTBEAT = 5.0
_PATIENCE = 2.0
"""Seconds that a purge waits for the files to be clean before it is confirmed later."""
_TRY_AGAIN = 60.0
_GONE = (ChangeKind.TENANT_PURGED, ChangeKind.SESSION_PURGED, ChangeKind.REDACTED)
_REMOVALS = (*_GONE, ChangeKind.MEMORY)


class LongTermTier:
    name: ClassVar = TierName.LONGTERM
    holds: ClassVar = "every event and memory: vectors (FAISS) and words (BM25)"
    bound: ClassVar = "disk; only forget and purge remove anything"

    def __init__(
        self,
        *,
        storage: Storage,
        spaces: Spaces,
        embed_items: EmbedItems,
        vectors: VectorIndexes,
        lexical: LexicalIndexes,
        folder: Path,
        node: str,
        settings: LongTermSettings,
        clock: Clock,
        report: Report,
        purged: Purged,
    ) -> None:
        self._storage = storage
        self._spaces = spaces
        self._embed_items = embed_items
        self._vectors = vectors
        self._lexical = lexical
        self._folder = folder
        self._node = node
        self._settings = settings
        self._clock = clock
        self._purged = purged
        self._tenants = Tenants(self._home, report, most=settings.open_tenants, patience=settings.open_patience)
        self._position = Position()
        self._told: set[Position] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._erasures: set[asyncio.Task[None]] = set()
        self._moving: set[str] = set()
        self.failure: str | None = None

    async def start(self) -> None:
        """Begins to follow the feed. The index folder is this process's alone."""
        async with self._storage.read() as tx:
            self._position = await tx.changes.followed(self._node) or Position()
        try:
            await self._follow()
        except (GeneratorUnavailable, TierUnavailable) as error:
            self.failure = error.detail  # a purge is not confirmed before all caches are clean; all else is served
        await self._acknowledge()
        for keep in (self._keep_following, self._keep_acknowledging, self._keep_tending, self._keep_moving):
            self._tasks.append(asyncio.create_task(keep()))

    async def close(self) -> None:
        for task in (*self._tasks, *self._erasures):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, StratamemError):
                await task
        await self._tenants.close()
        with contextlib.suppress(StratamemError):
            async with self._storage.write() as tx:
                await tx.changes.unfollow(self._node)

    async def absorb(self, tenant_id: str, session_key: int | None = None) -> int:
        async with self._tenants.using(tenant_id) as tenant:
            return await tenant.catch_up()

    async def recall(self, question: Question) -> Candidates:
        async with self._tenants.using(question.scope.tenant_id) as tenant:
            await tenant.catch_up(question.asked)
            index, space = tenant.index, tenant.home.space  # to the end: another may take its place meanwhile
            given = await given_for(tenant, index, question)
            async with tenant.lock.reading():
                prepared = await in_thread(lambda: index.prepare(question, given))
            # A question that was embedded just before the tenant moved to another model is answered by words.
            query = await question.vector() if question.space == space else None
            if query is not None:
                await self._embed_newest(tenant, question)
            async with tenant.lock.reading():
                return await in_thread(lambda: index.search(prepared, query))

    async def evict(self, tenant_id: str, session_key: int | None = None) -> int:
        """Closes the tenants that were idle longest, beyond the number that may stay in memory."""
        return await self._tenants.close_surplus()

    async def forget(self, tenant_id: str, session_keys: Collection[int] = ()) -> dict[str, int]:
        """Brings the index up to date with the purge and rewrites its files without what is gone.

        Of a large tenant that takes longer than anybody waits: it goes on, and is confirmed when it is done.
        """
        erasure = asyncio.create_task(self._erased(tenant_id))
        self._erasures.add(erasure)
        erasure.add_done_callback(self._erasures.discard)
        done, _ = await asyncio.wait({erasure}, timeout=_PATIENCE)
        for task in done:
            task.result()
        return {}

    async def rebuild(self, tenant_id: str, index: IndexName, told: Told) -> None:
        """Makes one of the indexes of this process anew from the database, while the old one serves."""
        async with self._tenants.using(tenant_id) as tenant:
            await (rebuild_vectors(tenant, told) if index is IndexName.VECTORS else tenant.rewrite_words(told))
            await tenant.save()

    async def compare(self, tenant_id: str, index: IndexName, told: Told) -> list[str]:
        """What of an index of this process differs from the database, in words; everything is looked at."""
        async with self._tenants.using(tenant_id) as tenant:
            return await (verify_vectors if index is IndexName.VECTORS else verify_words)(tenant, told)

    async def steps(self, tenant_id: str, index: IndexName) -> int:
        """Of a rebuild or a comparison, as they are told: of the vectors, items are read before their vectors are."""
        return (2 if index is IndexName.VECTORS else 1) * await count(self._storage, tenant_id)

    async def stats(self, tenant_id: str) -> TierStats:
        async with self._tenants.using(tenant_id) as tenant:
            await tenant.catch_up()
            counts = tenant.index.catalogue.column("vectors")[tenant.index.catalogue.column("alive")]
            size = await asyncio.to_thread(_bytes, tenant.home.folder)
            return TierStats(
                items=tenant.index.catalogue.live,
                bytes=size,
                pending=int((counts == 0).sum()),
                details={
                    "vectors": int(counts.sum()),
                    "words_uncommitted": tenant.index.lexical.uncommitted,
                    "unsaved": tenant.index.unsaved,
                    **tenant.index.vectors.details(),
                },
            )

    async def verify(self, tenant_id: str) -> list[str]:
        problems = []
        async with self._tenants.using(tenant_id) as tenant:
            await tenant.catch_up()
            stored = await count(self._storage, tenant_id)
            async with tenant.lock.reading():
                held, words = tenant.index.catalogue.live, len(tenant.index.lexical)
        if held != stored:
            problems.append(f"the catalogue holds {held} items, the database {stored}")
        if words != stored:
            problems.append(f"the word index holds {words} items, the database {stored}")
        return problems

    async def save(self) -> None:
        for tenant in self._tenants.opened():
            await tenant.save()

    async def _embed_newest(self, tenant: OpenTenant, question: Question) -> None:
        if not tenant.index.pending:
            return
        async with tenant.lock.reading():
            items = await in_thread(lambda: tenant.index.without_vectors(question, self._settings.embed_on_recall))
        if items:
            edits = tenant.index.edits
            space = tenant.home.space
            vectors = await self._embed_items(tenant.tenant_id, space, items)
            await tenant.add_vectors(vectors if tenant.home.space == space else [], edits)

    async def _erased(self, tenant_id: str) -> None:
        async with self._storage.read() as tx:
            found = await tx.tenants.get(tenant_id)
        if found is not None and found.purging is None:  # of one that is going as a whole nothing is opened
            async with self._tenants.using(tenant_id) as tenant:
                await tenant.catch_up()
                await tenant.upkeep()
        await self._follow()
        await self._acknowledge()

    async def _keep_following(self) -> None:
        while True:
            await asyncio.sleep(self._settings.follow_seconds)
            try:
                if await self._follow():
                    await self._acknowledge()
                for tenant in self._tenants.opened():
                    async with self._tenants.holding(tenant):
                        await tenant.upkeep()
                await self.evict("")
                self.failure = None
            except (StratamemError, OSError) as error:  # seen in `ready`; the next round tries again
                self.failure = str(error)

    async def _keep_acknowledging(self) -> None:
        """Beside the following: a process that rewrites files for a minute is alive, and purges wait for it."""
        while True:
            await asyncio.sleep(_HEARTBEAT)
            with contextlib.suppress(StratamemError):  # `ready` tells of the database
                await self._acknowledge()

    async def _keep_tending(self) -> None:
        """One thing at a time: each takes one core for up to minutes."""
        while True:
            await asyncio.sleep(self._settings.follow_seconds)
            for tenant in self._tenants.opened():
                try:
                    async with self._tenants.holding(tenant):
                        while await tenant.tend():
                            pass
                except (StratamemError, OSError, MemoryError) as error:
                    # The old form serves on. Not at once again: it would fail at once again, and take a core for that.
                    self.failure = f"an index can't be improved: {error}"
                    await asyncio.sleep(_TRY_AGAIN)

    async def _keep_moving(self) -> None:
        """Tenants that were moved to another embedding model: their new vectors are read while the old ones serve."""
        while True:
            await asyncio.sleep(self._settings.follow_seconds)
            for tenant_id in sorted(self._moving):
                try:
                    await self._move(tenant_id)
                    self._moving.discard(tenant_id)
                except EmbedderUnavailable as error:  # nothing loads a model but a new start
                    self._spaces.leave_to_words(tenant_id, error.detail)
                    self._moving.discard(tenant_id)
                except (StratamemError, OSError, MemoryError) as error:
                    self.failure = f"the vectors of another embedding model can't be read: {error}"
                    await asyncio.sleep(_TRY_AGAIN)

    async def _move(self, tenant_id: str) -> None:
        """Raises EmbedderUnavailable where the new model is not loaded: the old vectors serve on, with no new ones."""
        async with self._storage.read() as tx:
            space = await tx.spaces.of(tenant_id)
        embedder = None if space is None else self._spaces.embedder(space)
        if space is None or embedder is None:
            raise EmbedderUnavailable(
                f"the texts were embedded anew, in the space {space}, whose model is not loaded here: what is new is"
                " found by its words until this process starts with the STRATAMEM_EMBEDDER of the others"
            )
        if space == self._spaces.of(tenant_id).space:
            self._spaces.serve(tenant_id, space)
            return
        async with self._tenants.using(tenant_id) as tenant:
            home = replace(tenant.home, space=space, dimensions=embedder.dimensions)
            await rebuild_vectors(tenant, home=home, exchanged=lambda: self._spaces.serve(tenant_id, space))

    async def _follow(self) -> bool:
        """Brings every open tenant up to date, and drops the files of closed ones that something was purged from.

        True: something was removed.
        """
        removed = False
        while True:
            async with self._storage.read() as tx:
                changes = await tx.changes.after(self._position, limit=PAGE)
            self._moving |= {change.tenant_id for change in changes if change.kind is ChangeKind.SPACE}
            for tenant_id in {change.tenant_id for change in changes}:
                of_it = [change for change in changes if change.tenant_id == tenant_id]
                if any(c.kind is ChangeKind.TENANT_PURGED and c.position not in self._told for c in of_it):
                    await self._tenants.drop(tenant_id)
                    self._moving.discard(tenant_id)
                if any(change.kind in _REMOVALS for change in of_it):
                    removed = True
                    await self._tenants.clear_closed(tenant_id)
                if self._tenants.is_open(tenant_id):
                    async with self._tenants.using(tenant_id) as tenant:
                        await tenant.catch_up()
                        await tenant.upkeep()
            for tenant_id in await self._with_purges([c for c in changes if c.position not in self._told]):
                await self._purged(tenant_id)
            # What is not settled comes again: once is enough, since each time costs the tenant its KV.
            self._told = {change.position for change in changes if not change.settled}
            settled = [change.position for change in changes if change.settled]
            if settled:
                self._position = settled[-1]
            if not settled or len(changes) < PAGE:
                return removed

    async def _acknowledge(self) -> None:
        """Says that this process lives, and what it has followed."""
        async with self._storage.write() as tx:
            await tx.changes.follow(self._node, self._position, self._clock.now())

    async def _with_purges(self, changes: list[Change]) -> set[str]:
        """The tenants of which something is gone; a memory that was only edited is still there."""
        found = {change.tenant_id for change in changes if change.kind in _GONE}
        edited = [change for change in changes if change.kind is ChangeKind.MEMORY and change.tenant_id not in found]
        async with self._storage.read() as tx:
            for change in edited:
                if change.memory_key is not None and await tx.changes.memory_facts(change.memory_key) is None:
                    found.add(change.tenant_id)
        return found

    def _home(self, tenant_id: str) -> Home:
        embedder = self._spaces.of(tenant_id)
        # Not the name itself: "." and ".." are tenants like any other.
        folder = self._folder / hashlib.blake2b(tenant_id.encode(), digest_size=16).hexdigest()
        return Home(
            tenant_id=tenant_id,
            folder=folder,
            storage=self._storage,
            space=embedder.space,
            dimensions=embedder.dimensions,
            vectors=self._vectors,
            lexical=self._lexical,
            settings=self._settings,
        )


def live_since(clock: Clock) -> datetime:
    """A follower that was heard of since then is live."""
    return clock.now() - timedelta(seconds=6 * _HEARTBEAT)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
