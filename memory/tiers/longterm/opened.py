"""One tenant's index and its folder: opened or rebuilt, kept current, saved, erased."""

import asyncio
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from memory.domain.changes import Position
from memory.domain.errors import IndexDamaged
from memory.domain.ids import is_memory
from memory.domain.segments import SegmentVector
from memory.ports.indexes import LexicalIndexes, VectorIndexes
from memory.ports.storage import Storage
from memory.tiers.longterm import follower, snapshot
from memory.tiers.longterm.catalogue import Catalogue
from memory.tiers.longterm.locks import ReadWriteLock, in_thread
from memory.tiers.longterm.policy import Staleness, should_save
from memory.tiers.longterm.settings import LongTermSettings
from memory.tiers.longterm.tenant_index import Batch, TenantIndex, document

Report = Callable[[str, str], None]
"""Told the tenant and the reason when an index has to be rebuilt."""


class OpenTenant:
    """`position`: everything in the feed up to it is in the index. One event loop only."""

    def __init__(
        self,
        tenant_id: str,
        folder: Path,
        index: TenantIndex,
        position: Position,
        *,
        storage: Storage,
        space: str,
        settings: LongTermSettings,
    ) -> None:
        self.tenant_id = tenant_id
        self.index = index
        self.position = position
        self.lock = ReadWriteLock()
        self.last_used = time.monotonic()
        self.users = 0
        self._folder = folder
        self._storage = storage
        self._space = space
        self._settings = settings
        self._ahead: set[Position] = set()
        self._following = asyncio.Lock()
        self._caught_up = -math.inf
        self._saved_at = time.monotonic()
        self._unerased = False
        self._erasing = asyncio.Lock()

    async def catch_up(self, asked: float = math.inf) -> int:
        """Applies all that is committed; the number of changes that were new.

        `asked`: monotonic seconds; a catching up that began after it will do.
        """
        applied = 0
        async with self._following:
            if self._caught_up > asked:
                return 0
            begun = time.monotonic()
            # A place of its own: while a transaction somewhere stays open, `position` stands still, for pages.
            place = self.position
            while True:
                changes, batch = await follower.read_changes(
                    self._storage, self.tenant_id, place, self._ahead, self._space, self.index
                )
                new = [change for change in changes if change.position not in self._ahead]
                if new:
                    async with self.lock.writing():
                        await in_thread(lambda batch=batch: self.index.apply(batch))  # type: ignore[misc]
                    self._unerased = self._unerased or bool(batch.gone)
                    applied += len(new)
                self._ahead |= {change.position for change in new}
                for change in changes:
                    if not change.settled or self.position < place:
                        break
                    self.position = place = change.position
                self._ahead = {position for position in self._ahead if position > self.position}
                if len(changes) < follower.PAGE:
                    self._caught_up = begun
                    return applied
                place = changes[-1].position

    async def add_vectors(self, vectors: list[SegmentVector], edits: int) -> None:
        """`edits`: those of the index before the texts were read. An edited memory would get its old text's vector."""
        async with self.lock.writing():
            current = [v for v in vectors if not is_memory(v.item) or self.index.edits == edits]
            await in_thread(lambda: self.index.apply(Batch(vectors=current)))

    async def upkeep(self) -> None:
        """Writes to disk what has waited long enough, and erases what was purged."""
        async with self._erasing:  # who comes while another erases leaves when that is done
            if self._unerased:
                await self.erase()
                return
        if self.index.lexical.uncommitted >= self._settings.commit_after:
            await self._save_lexical()
        seconds = time.monotonic() - self._saved_at
        stale = Staleness(len(self.index.vectors), self.index.unsaved, seconds)
        if should_save(stale, self._settings.snapshot_seconds):
            await self.save()

    async def save(self) -> None:
        """Everything that is in memory is on disk when this returns."""
        if self.index.unsaved:
            await self._save_lexical()
            await self._save_vectors()

    async def erase(self) -> None:
        """No file holds a word or a vector of what is gone (invariant I5)."""
        self._unerased = False  # what goes from now on needs another round
        try:
            async with self._following:
                texts = await follower.read_texts(self._storage, self.tenant_id)
                # Only what the catalogue knows: what came after it may be purged before the feed tells of it.
                documents = [document(facts) for facts in texts if self.index.catalogue.row(facts.item) is not None]
                async with self.lock.writing():
                    await in_thread(lambda: self.index.lexical.rewrite(documents))
            await self.catch_up()
            await self._save_lexical()
            await self._save_vectors()
        except BaseException:
            self._unerased = True
            raise

    async def close(self) -> None:
        await self.save()
        async with self.lock.writing():
            self.index.lexical.close()

    async def _save_lexical(self) -> None:
        async with self._following:
            position = self.position
            async with self.lock.writing():
                await in_thread(self.index.lexical.commit)
            await in_thread(lambda: self._manifest(snapshot.LEXICAL, position, []))

    async def _save_vectors(self) -> None:
        async with self._following:
            async with self.lock.writing():
                if self.index.wasted:
                    await in_thread(self.index.compact)
            async with self.lock.reading():
                await in_thread(self._write_vectors)
            self.index.unsaved = 0
            self._saved_at = time.monotonic()

    def _write_vectors(self) -> None:
        vectors, catalogue = _files(self._folder)
        self.index.vectors.save(vectors)
        snapshot.save_arrays(catalogue, self.index.catalogue.dump())
        self._manifest(snapshot.VECTORS, self.position, [vectors, catalogue])

    def _manifest(self, part: str, position: Position, files: list[Path]) -> None:
        snapshot.write_manifest(self._folder, part, self._space, position, files)


async def open_tenant(
    tenant_id: str,
    folder: Path,
    *,
    storage: Storage,
    space: str,
    dimensions: int,
    vectors: VectorIndexes,
    lexical: LexicalIndexes,
    settings: LongTermSettings,
    report: Report,
) -> OpenTenant:
    """Loads what is on disk and sound, rebuilds the rest from the database, and catches up with the feed."""
    await asyncio.to_thread(folder.mkdir, 0o700, True, True)

    def opened(index: TenantIndex, position: Position) -> OpenTenant:
        return OpenTenant(tenant_id, folder, index, position, storage=storage, space=space, settings=settings)

    try:
        index, position = await asyncio.to_thread(_load, folder, space, dimensions, vectors, lexical, settings)
        tenant = opened(index, position)
    except IndexDamaged as damage:
        if await asyncio.to_thread(lambda: any(folder.iterdir())):  # an empty folder is that of a new tenant
            report(tenant_id, damage.detail)
        await asyncio.to_thread(_clear, folder)
        words = await asyncio.to_thread(lexical.open, folder / snapshot.LEXICAL)
        index = TenantIndex(Catalogue(), vectors.create(dimensions), words, settings)
        tenant = opened(index, await follower.read_everything(storage, tenant_id, space, index))
    await tenant.catch_up()
    return tenant


def _load(
    folder: Path,
    space: str,
    dimensions: int,
    vectors: VectorIndexes,
    lexical: LexicalIndexes,
    settings: LongTermSettings,
) -> tuple[TenantIndex, Position]:
    """Raises IndexDamaged."""
    saved = [snapshot.read_manifest(folder, part, space) for part in (snapshot.VECTORS, snapshot.LEXICAL)]
    vectors_file, catalogue_file = _files(folder)
    try:
        catalogue = Catalogue.restore(snapshot.load_arrays(catalogue_file))
    except (KeyError, ValueError) as error:
        raise IndexDamaged(f"{catalogue_file.name} is of another format: {error}") from error
    index = TenantIndex(
        catalogue, vectors.load(vectors_file, dimensions), lexical.open(folder / snapshot.LEXICAL), settings
    )
    return index, min(manifest.position for manifest in saved)


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "vectors.index", folder / "catalogue.npz"


def _clear(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
