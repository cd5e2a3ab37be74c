"""How does a tenant's index come into memory? From what is on disk and sound, else from the database."""

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from memory.domain.changes import ChangeKind, Position
from memory.domain.errors import IndexDamaged
from memory.ports.indexes import LexicalDocument, LexicalIndex
from memory.tiers.longterm import follower, snapshot
from memory.tiers.longterm.catalogue import Catalogue
from memory.tiers.longterm.follower import Followed
from memory.tiers.longterm.opened import Home, OpenTenant, Told, remove_unnamed, untold
from memory.tiers.longterm.tenant_index import Batch, TenantIndex, document

Report = Callable[[str, str], None]
"""Told the tenant and the reason when an index has to be rebuilt."""

_MAP_EVERY = 131_072
"""Vectors read from the database after which the full chunks are written and mapped: 100 MB at d=384."""


@dataclass(slots=True)
class Building:
    """How far the index of a tenant is that is built from the database. total: None as long as it is loaded."""

    done: int = 0
    total: int | None = None

    def __str__(self) -> str:
        if self.total is None:
            return "it is being loaded"
        return f"it is being built from the database: {self.done:,} of {self.total:,} steps"


async def open_tenant(home: Home, report: Report, building: Building) -> OpenTenant:
    """Loads what is on disk and sound, rebuilds the rest from the database, and catches up with the feed."""
    await asyncio.to_thread(home.folder.mkdir, 0o700, True, True)
    try:
        tenant = await asyncio.to_thread(_load, home)
        await _check_history(home, tenant.followed.position)
    except IndexDamaged as damage:
        if await asyncio.to_thread(lambda: any(home.folder.iterdir())):  # an empty folder is that of a new tenant
            report(home.tenant_id, damage.detail)
        await asyncio.to_thread(clear, home)
        tenant = await _build(home, building)
    await tenant.catch_up()
    return tenant


async def build_index(
    home: Home, folder: Path, words: LexicalIndex, put: Callable[[list[LexicalDocument]], object], told: Told = untold
) -> Followed:
    """A new index of a tenant from the database, without embedding.

    Its vectors go to `folder` when there are many. `put`: takes the texts for the word index.
    """
    index = TenantIndex(Catalogue(), home.vectors.create(folder, home.dimensions), words, home.settings)
    followed = Followed(index, await follower.head(home.storage))
    done = 0
    async for facts in follower.all_facts(home.storage, home.tenant_id):
        await follower.apply_beside(index, Batch(facts=facts))
        await asyncio.to_thread(put, [document(one) for one in facts])
        await told(done := done + len(facts))
    mapped = 0
    async for vectors in follower.vector_pages(home.storage, home.tenant_id, home.space):
        await follower.apply_beside(index, Batch(vectors=vectors))
        if len(index.vectors) - mapped >= _MAP_EVERY:
            mapped = len(index.vectors)
            await asyncio.to_thread(index.vectors.snapshot().write, folder)
        await told(done := done + len({vector.item for vector in vectors}))
    return followed


def clear(home: Home) -> None:
    """Nothing of the tenant is left on disk."""
    for folder in snapshot.vectors_folders(home.folder):
        home.vectors.discard(folder, ())
    with suppress(FileNotFoundError):
        shutil.rmtree(home.folder)
    home.folder.mkdir(mode=0o700, parents=True)


async def _check_history(home: Home, position: Position) -> None:
    """Whether what was followed up to there is in this database. Raises IndexDamaged after a restore from a backup.

    A restored feed begins with a mark; where it was restored into another server its places may all be before ours.
    """
    async with home.storage.read() as tx:
        following = await tx.changes.after(position, tenant_id=home.tenant_id, limit=1)
        head = await tx.changes.head()
    if position > head or any(change.kind is ChangeKind.RESTORED for change in following):
        raise IndexDamaged("the database was restored from a backup since the index was saved")


async def _build(home: Home, building: Building) -> OpenTenant:
    async def told(done: int) -> None:
        building.done = done

    items = await follower.count(home.storage, home.tenant_id)
    building.total = 2 * items  # every item is read, then its vectors
    words = await asyncio.to_thread(home.lexical.open, home.folder / snapshot.LEXICAL)
    folder = await asyncio.to_thread(snapshot.new_vectors_folder, home.folder)
    if items <= home.settings.commit_after:
        return OpenTenant(home, await build_index(home, folder, words, words.put, told), folder)
    rewriting = await asyncio.to_thread(words.rewriting)
    try:
        followed = await build_index(home, folder, words, rewriting.add, told)
        await asyncio.to_thread(rewriting.finish)
    finally:
        await asyncio.to_thread(rewriting.cancel)
    return OpenTenant(home, followed, folder)


def _load(home: Home) -> OpenTenant:
    """Raises IndexDamaged."""
    manifest = snapshot.read_manifest(home.folder, snapshot.VECTORS, home.space)
    position = min(manifest.position, snapshot.read_manifest(home.folder, snapshot.LEXICAL, home.space).position)
    index = _loaded(home, manifest)
    remove_unnamed(home, manifest)
    return OpenTenant(home, Followed(index, position), home.folder / manifest.folder)


def _loaded(home: Home, manifest: snapshot.Manifest) -> TenantIndex:
    arrays = snapshot.load_catalogue(home.folder, manifest)
    try:
        catalogue = Catalogue.restore(arrays)
    except (KeyError, ValueError) as error:
        raise IndexDamaged(f"{manifest.catalogue} is of another format: {error}") from error
    vectors = home.vectors.load(home.folder / manifest.folder, manifest.files, home.dimensions)
    words = home.lexical.open(home.folder / snapshot.LEXICAL)
    return TenantIndex(catalogue, vectors, words, home.settings)
