"""How is all that can't be made again saved in one file, while the service runs, and how does it come back?

That is the database, and the receipts of purges where they lie in the data folder. Indexes and KV are caches: they are
not saved, and what is there of them when another database comes is removed, since it tells of another history.
"""

import asyncio
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from memory.adapters import archive
from memory.adapters.archive import BackupRefused, Manifest, Told
from memory.adapters.files import sync
from memory.adapters.node_folders import KINDS, FolderInUse, clear, held
from memory.adapters.sql import copies
from memory.adapters.sql.storage import SqlStorage, is_sqlite
from memory.settings import Settings

Made = TypeVar("Made")

DATABASE = "stratamem.db"
DUMP = "stratamem.dump"
RECEIPTS = "receipts"

_CACHES = (*KINDS, "models")
_NO_CONTENT = ".alive"


async def back_up(settings: Settings, file: Path, version: str, told: Told, *, replace: bool = False) -> Manifest:
    """Raises BackupRefused, StratamemError, OSError. Needs room for the database beside the file, for a while."""
    file = await asyncio.to_thread(_free_name, file, replace)
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=file.parent) as folder:
        created_at = datetime.now(UTC)
        sources = await (_copied if is_sqlite(settings.storage_url) else _dumped)(settings, Path(folder), told)
        sources |= await asyncio.to_thread(_receipts, settings, Path(folder))
        manifest = Manifest(
            version=version,
            database="sqlite" if is_sqlite(settings.storage_url) else "postgresql",
            revision=await _revision(settings, Path(folder)),
            created_at=created_at,
        )
        return await _told_of(partial(archive.pack, file, manifest, sources), told)


async def restore(settings: Settings, file: Path, told: Told, *, replace: bool = False) -> Manifest:
    """Raises BackupRefused, StratamemError, OSError; then everything is as it was, but that caches may be empty.

    `replace`: a database in the data folder gives way. One of PostgreSQL never does: it has to be empty.
    """
    data = settings.data_dir.resolve()
    sqlite = is_sqlite(settings.storage_url)
    if not replace and (found := _content(settings)):
        raise BackupRefused(f"there is {found} already: name another folder with --data-dir, or --force")
    if not sqlite and await copies.has_tables(settings.storage_url):
        raise BackupRefused("the database has tables: make an empty one, and name that in STRATAMEM_DATABASE_URL")
    place = copies.file_of(settings.storage_url).parent if sqlite else data
    for folder in (data, place):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(settings) as folders, tempfile.TemporaryDirectory(prefix=".restore-", dir=place) as staging:
        manifest = await _told_of(partial(archive.unpack, file, Path(staging)), told)
        _check(manifest, sqlite)
        await (_take_file if sqlite else _take_dump)(settings, Path(staging), folders, told)
        await asyncio.to_thread(_add_receipts, Path(staging) / RECEIPTS, _receipts_of(settings))
    return manifest


def _free_name(file: Path, replace: bool) -> Path:
    """The whole path. Raises BackupRefused."""
    file = file.resolve()
    if file.exists() and not replace:
        raise BackupRefused(f"{file} is there already: name another file, or --force")
    if not file.parent.is_dir():
        raise BackupRefused(f"there is no folder {file.parent}: make it first")
    return file


async def _copied(settings: Settings, folder: Path, told: Told) -> dict[str, Path]:
    source, copy = copies.file_of(settings.storage_url), folder / DATABASE
    if not source.exists():
        raise BackupRefused(f"there is no database {source}: name its folder with --data-dir")
    try:
        await _told_of(partial(copies.copy_sqlite, source, copy), told)
    except sqlite3.Error as error:
        raise BackupRefused(f"the database {source} can't be copied: {error}") from error
    return {DATABASE: copy}


async def _dumped(settings: Settings, folder: Path, told: Told) -> dict[str, Path]:
    dump = folder / DUMP
    await _told_of(partial(copies.dump_postgres, settings.storage_url, dump), told)
    return {DUMP: dump}


async def _told_of(work: Callable[[Told], Made], told: Told) -> Made:
    """What long work in a thread gives. It is given up, and has ended, when the caller is cancelled."""
    given_up = threading.Event()

    def tell(what: str, done: int, total: int | None) -> None:
        if given_up.is_set():
            raise BackupRefused("given up")
        told(what, done, total)

    working = asyncio.ensure_future(asyncio.to_thread(work, tell))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        given_up.set()
        await asyncio.gather(working, return_exceptions=True)
        raise


def _receipts_of(settings: Settings) -> Path:
    return settings.data_dir.resolve() / RECEIPTS


def _receipts(settings: Settings, folder: Path) -> dict[str, Path]:
    """Copies, since a running service may add to them."""
    kept = _receipts_of(settings)
    found = {}
    for path in sorted(kept.rglob("*")):
        if path.is_file() and not path.is_symlink():
            name = f"{RECEIPTS}/{path.relative_to(kept).as_posix()}"
            found[name] = folder / name
            found[name].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(path, found[name])
    return found


async def _revision(settings: Settings, folder: Path) -> str:
    """Of the schema: of the copy, where there is one. Raises BackupRefused for a database that has none."""
    copy = folder / DATABASE
    url = f"sqlite:///{copy}" if copy.exists() else settings.storage_url
    storage = SqlStorage(url, settings.database)
    try:
        revision, _ = await storage.schema()
    finally:
        await storage.close()
    if revision is None:
        raise BackupRefused("the database is empty: there is nothing to save")
    return revision


def _check(manifest: Manifest, sqlite: bool) -> None:
    if (manifest.database == "sqlite") is not sqlite:
        where = "unset it" if manifest.database == "sqlite" else "name an empty database there"
        raise BackupRefused(f"the backup is of {manifest.database}, STRATAMEM_DATABASE_URL says otherwise: {where}")
    if not copies.knows(manifest.revision):
        raise BackupRefused(
            f"the backup's schema {manifest.revision} is not known here: it was made by version {manifest.version},"
            " use that or a newer one"
        )


async def _take_file(settings: Settings, staging: Path, folders: list[Path], told: Told) -> None:
    """Everything that may fail happens beside the old database; then the new one takes its place in one step."""
    new, old = staging / DATABASE, copies.file_of(settings.storage_url)
    await asyncio.to_thread(copies.check_sqlite, new)
    await _brought_up_to_date(f"sqlite:///{new}", settings)
    await asyncio.to_thread(copies.release_sqlite, new)
    if old.exists():
        await asyncio.to_thread(copies.release_sqlite, old)
    await asyncio.to_thread(_clear, folders)
    await asyncio.to_thread(_exchange, new, old)


async def _take_dump(settings: Settings, staging: Path, folders: list[Path], told: Told) -> None:
    await _told_of(partial(copies.restore_postgres, settings.storage_url, staging / DUMP), told)
    await _brought_up_to_date(settings.storage_url, settings)
    await asyncio.to_thread(_clear, folders)


async def _brought_up_to_date(url: str, settings: Settings) -> None:
    storage = SqlStorage(url, settings.database)
    try:
        await storage.migrate()
    finally:
        await storage.close()
    await copies.begin_anew(url)


def _exchange(new: Path, old: Path) -> None:
    sync(new)
    os.replace(new, old)
    sync(old.parent)


@contextmanager
def _alone(settings: Settings) -> Iterator[list[Path]]:
    """Inside the block no service runs on the data folder; gives the folders of its caches. Raises BackupRefused."""
    data = settings.data_dir.resolve()
    if is_sqlite(settings.storage_url) and (file := copies.file_of(settings.storage_url)).exists():
        copies.release_sqlite(file)
    folders = {settings.index_dir, *(path for kind in KINDS for path in (data / kind).glob("*") if path.is_dir())}
    with ExitStack() as stack:
        for folder in sorted(folders):
            try:
                stack.enter_context(held(folder, patience=0.0))
            except FolderInUse as error:
                raise BackupRefused(f"a service runs on {data} (it has {folder}): stop it first") from error
        yield sorted(folders)


def _clear(folders: list[Path]) -> None:
    for folder in folders:
        clear(folder)


def _content(settings: Settings) -> Path | None:
    """Something that is neither a cache nor a sign of life: the database, wherever it is, or in the data folder."""
    data, url = settings.data_dir.resolve(), settings.storage_url
    if is_sqlite(url) and copies.file_of(url).exists():
        return copies.file_of(url)
    if not data.is_dir():
        return None
    found = [path for path in data.iterdir() if path.name not in _CACHES and path.suffix != _NO_CONTENT]
    return min(found, default=None)


def _add_receipts(saved: Path, kept: Path) -> None:
    """Those that are there already stay as they are: what was purged since the backup is told by them alone."""
    for path in saved.rglob("*"):
        target = kept / path.relative_to(saved)
        if path.is_file() and not target.exists():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.move(path, target)
