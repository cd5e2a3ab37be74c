"""One tenant's open index: kept current, searched, tended, saved, erased."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from memory.domain.changes import Position
from memory.domain.ids import is_memory
from memory.domain.segments import SegmentVector
from memory.ports.feed import ItemFacts
from memory.ports.indexes import LexicalDocument, LexicalIndexes, VectorIndexes, VectorSnapshot
from memory.ports.storage import Storage
from memory.tiers.longterm import follower, snapshot
from memory.tiers.longterm.catalogue import Arrays
from memory.tiers.longterm.follower import Followed
from memory.tiers.longterm.locks import ReadWriteLock, in_background, in_thread
from memory.tiers.longterm.policy import Staleness, should_save
from memory.tiers.longterm.settings import LongTermSettings
from memory.tiers.longterm.snapshot import Manifest
from memory.tiers.longterm.tenant_index import Batch, TenantIndex, document

Told = Callable[[int], Awaitable[None]]
"""Told how many items are done; raises when nobody wants the rest."""


async def untold(done: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True, slots=True)
class Home:
    """What a tenant's index is made of, and where it is kept."""

    tenant_id: str
    folder: Path
    storage: Storage
    space: str
    dimensions: int
    vectors: VectorIndexes
    lexical: LexicalIndexes
    settings: LongTermSettings


class OpenTenant:
    """One event loop only. `followed`: what is searched, and how far it has followed the feed."""

    def __init__(self, home: Home, followed: Followed, vectors_folder: Path) -> None:
        self.home = home
        self.followed = followed
        self.lock = ReadWriteLock()
        self.following = asyncio.Lock()
        """Held by whoever brings the index up to date."""
        self.last_used = time.monotonic()
        self.users = 0
        self.unused = asyncio.Event()
        self.unused.set()
        self.rebuilding = asyncio.Lock()
        """Held by whoever builds another index, which is to take the place of this one."""
        self.spared: Path | None = None
        """Where that is built."""
        self._vectors_folder = vectors_folder
        self._caught_up = -math.inf
        self._saved_at = time.monotonic()
        self._unerased = False
        self._erasing = asyncio.Lock()
        self._words = asyncio.Lock()
        """Held by whoever writes files of the words."""
        self._saving = asyncio.Lock()
        self._dropped = False

    @property
    def tenant_id(self) -> str:
        return self.home.tenant_id

    @property
    def index(self) -> TenantIndex:
        return self.followed.index

    async def catch_up(self, asked: float = math.inf) -> int:
        """Applies all that is committed; the number of changes that were new.

        `asked`: monotonic seconds; a catching up that began after it will do.
        """
        async with self.following:
            if self._caught_up > asked:
                return 0
            return await self._follow_on()

    async def add_vectors(self, vectors: list[SegmentVector], edits: int) -> None:
        """`edits`: those of the index before the texts were read. An edited memory would get its old text's vector."""
        async with self.lock.writing():
            current = [v for v in vectors if not is_memory(v.item) or self.index.edits == edits]
            await in_thread(lambda: self.index.apply(Batch(vectors=current)))

    async def exchange(self, made: Followed, vectors_folder: Path, home: Home, exchanged: Callable[[], None]) -> None:
        """Another index takes the place of this one, in one step, with `exchanged`.

        Both are brought up to date first, and both tell the words, which are one index for the two: what only one of
        them had followed would be missing there. What was purged meanwhile is still to be blanked in the other.
        """
        removed = False

        async def apply(batch: Batch) -> None:
            nonlocal removed
            removed = removed or bool(batch.gone)
            async with self.lock.writing():
                await in_thread(lambda: made.index.apply(batch))

        async with self.following:
            await self._follow_on()
            await follower.follow(home.storage, home.tenant_id, home.space, made, apply)
            async with self.lock.writing():
                self.followed, self._vectors_folder, self.home = made, vectors_folder, home
                self._unerased = self._unerased or removed
                exchanged()

    async def upkeep(self) -> None:
        """Writes to disk what has waited long enough, and erases what was purged."""
        if self._dropped:
            return
        async with self._erasing:  # who comes while another erases leaves when that is done
            if self._unerased:
                await self.erase()
                return
        if self.index.lexical.uncommitted >= self.home.settings.commit_after and not self._words.locked():
            await self._save_words()
        seconds = time.monotonic() - self._saved_at
        stale = Staleness(len(self.index.vectors), self.index.unsaved, seconds)
        if should_save(stale, self.home.settings.snapshot_seconds) and not self._words.locked():
            await self.save()

    async def tend(self) -> bool:
        """Does one thing that keeps the index fast at its size, while it serves. False: there is nothing to do."""
        if self._dropped:
            return False
        async with self.lock.reading():
            index = self.index
            work = await in_thread(index.upkeep)
        if work is None:
            return False
        await in_background(work.prepare)
        async with self.lock.writing():
            done = await in_thread(work.finish)
            index.unsaved += done
        if done and work.costly:
            await self.save()
        return True

    async def save(self) -> None:
        """Everything that is in memory is on disk when this returns."""
        if self.index.unsaved and not self._dropped:
            await self._save_words()
            await self.save_vectors()

    async def erase(self) -> None:
        """No file holds a word or a vector of what is gone (invariant I5)."""
        async with self.rebuilding:  # what is being built may have read it before it was gone
            self._unerased = False  # what goes from now on needs another round
            try:
                await self.rewrite_words()
                await self.catch_up()
                async with self.lock.writing():
                    await in_thread(self.index.blank)
                await self._save_words()
                await self.save_vectors()
            except BaseException:
                self._unerased = True
                raise

    async def rewrite_words(self, told: Told = untold) -> None:
        """The word index is written anew, from the texts in the database, while the old one serves."""
        done = 0
        async with self._words:
            rewriting = await in_thread(self.index.lexical.rewriting)
            try:
                async for page in follower.all_facts(self.home.storage, self.tenant_id):
                    documents = await self._known(page)
                    await in_thread(partial(rewriting.add, documents))
                    done += len(page)
                    await told(done)
                await in_thread(rewriting.finish)
            finally:
                await in_thread(rewriting.cancel)
        self.index.unsaved += 1

    async def drop(self) -> None:
        """Nobody uses it any more, and its files are about to go: nothing is written from now on."""
        self._dropped = True
        async with self.lock.writing():
            self.index.lexical.close()

    async def close(self) -> None:
        await self.save()
        async with self.lock.writing():
            self.index.lexical.close()

    async def save_vectors(self) -> None:
        """Vectors and catalogue. Readers and the writer wait only while the snapshot is taken."""
        async with self._saving:
            async with self.lock.reading():
                position, index, folder = self.followed.position, self.index, self._vectors_folder
                unsaved = index.unsaved
                taken, arrays = await in_thread(lambda: (index.vectors.snapshot(), index.catalogue.dump()))
            await in_thread(lambda: self._write(position, folder, taken, arrays))
            index.unsaved -= unsaved
            self._saved_at = time.monotonic()

    async def _follow_on(self) -> int:
        """The caller holds `following`."""
        begun = time.monotonic()
        home = self.home
        applied = await follower.follow(home.storage, home.tenant_id, home.space, self.followed, self._apply)
        self._caught_up = begun
        return applied

    async def _apply(self, batch: Batch) -> None:
        async with self.lock.writing():
            await in_thread(lambda: self.index.apply(batch))
        self._unerased = self._unerased or bool(batch.gone)

    async def _known(self, page: list[ItemFacts]) -> list[LexicalDocument]:
        """Only what the catalogue knows: what came after it may be purged before the feed tells of it."""
        async with self.lock.reading():
            return [document(facts) for facts in page if self.index.catalogue.row(facts.item) is not None]

    async def _save_words(self) -> None:
        async with self._words:
            position = self.followed.position
            await in_thread(self.index.lexical.commit)
            manifest = Manifest(self.home.space, position)
            await in_thread(lambda: snapshot.write_manifest(self.home.folder, snapshot.LEXICAL, manifest))

    def _write(self, position: Position, folder: Path, taken: VectorSnapshot, arrays: Arrays) -> None:
        """In this order: whatever ends the process, a manifest names files that are complete."""
        files = taken.write(folder)
        catalogue, digest = snapshot.save_catalogue(self.home.folder, arrays)
        manifest = Manifest(self.home.space, position, folder.name, files, catalogue, digest)
        snapshot.write_manifest(self.home.folder, snapshot.VECTORS, manifest)
        remove_unnamed(self.home, manifest, self.spared)


def remove_unnamed(home: Home, manifest: Manifest, spared: Path | None = None) -> None:
    """Files of earlier saves, and of what was begun and never finished; `spared`: is being made."""
    for folder in snapshot.vectors_folders(home.folder):
        if folder != spared:
            home.vectors.discard(folder, manifest.files if folder.name == manifest.folder else ())
    snapshot.remove_others(home.folder, manifest, spared)
