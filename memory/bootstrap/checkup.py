"""Is everything there that the settings ask for, and if not, what is to be done? One finding for each dependency.

Nothing is changed: no table is made, no folder is claimed, no job is sent; only the packaged model's int8 form is made
where it is missing, as the service would.
"""

import asyncio
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from memory.adapters.clock import SystemClock
from memory.adapters.jobs.celery_queue import CeleryQueue
from memory.adapters.models.inprocess import load_models
from memory.adapters.models.runtime_client import RuntimeClient
from memory.adapters.sql.storage import SqlStorage, is_sqlite
from memory.domain.errors import StratamemError
from memory.services.health import HealthState
from memory.services.keys import Keys
from memory.settings import Settings

_LOW_DISK = 2 << 30
_NO_DISK = 200 << 20
_PATIENCE = 120.0
"""Seconds for one check: the int8 form of the model takes ten of a quiet machine."""
OK, DEGRADED, DOWN = HealthState.OK, HealthState.DEGRADED, HealthState.DOWN


@dataclass(frozen=True, slots=True)
class Finding:
    """`remedy` None: there is nothing to do."""

    name: str
    state: HealthState
    detail: str
    remedy: str | None = None


Check = Callable[[Settings], Awaitable[Finding]]


async def checkup(settings: Settings) -> AsyncIterator[Finding]:
    """One after the other, as they are found. Never raises."""
    for name, check in CHECKS.items():
        yield await _found(name, check, settings)


async def _found(name: str, check: Check, settings: Settings) -> Finding:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await check(settings)
    except TimeoutError:
        return Finding(name, DOWN, f"no answer within {_PATIENCE:g} s", "is it reachable from this machine?")
    except StratamemError as error:
        return Finding(name, DOWN, error.detail, "start it, or correct its setting (docs/settings.md)")
    except Exception as error:  # a check-up reports what is broken, whatever it is
        return Finding(name, DOWN, f"{type(error).__name__}: {error}", "see docs/settings.md for its setting")


async def _python(settings: Settings) -> Finding:
    return Finding("python", OK, ".".join(map(str, sys.version_info[:3])))


async def _data_folder(settings: Settings) -> Finding:
    folder = settings.data_dir.resolve()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        remedy = "make it writable, or set STRATAMEM_DATA_DIR"
        return Finding("data folder", DOWN, f"{folder}: {error.strerror}", remedy)
    free = shutil.disk_usage(there).free
    detail = f"{folder}, {free / (1 << 30):.1f} GiB free"
    if free < _LOW_DISK:
        state = DOWN if free < _NO_DISK else DEGRADED
        return Finding("data folder", state, detail, "make room: a purge of SQLite needs its size twice")
    return Finding("data folder", OK, detail)


async def _database(settings: Settings) -> Finding:
    where = "SQLite in the data folder" if settings.database_url is None else _without_secret(settings.storage_url)
    if _fresh(settings):
        return Finding("database", OK, f"{where}, not there yet: `stratamem serve` makes it")
    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        found, newest = await storage.schema()
    finally:
        await storage.close()
    if found is None:
        return Finding("database", OK, f"{where}, empty: `stratamem serve` makes the tables")
    if found != newest:
        remedy = f"it has {found}, this version needs {newest}: make a backup, then `stratamem migrate`"
        return Finding("database", DEGRADED, f"{where}, of another version", remedy)
    return Finding("database", OK, f"{where}, schema {found}")


async def _work(settings: Settings) -> Finding:
    """What waits and what was given up, of all tenants."""
    if _fresh(settings):
        return Finding("background work", OK, "none yet")
    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        found, newest = await storage.schema()
        if found != newest:
            return Finding("background work", OK, "not known before the schema is up to date")
        async with storage.read() as tx:
            counts = await tx.operations.counts()
    finally:
        await storage.close()
    detail = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none"
    if counts.get("failed"):
        return Finding("background work", DEGRADED, detail, "GET /v1/operations?state=failed says why")
    return Finding("background work", OK, detail)


async def _broker(settings: Settings) -> Finding:
    if settings.embedded:
        return Finding("broker", OK, "none: the workers run inside `stratamem serve`")
    with closing(CeleryQueue(settings.broker_url, settings.jobs, settings.data_dir)) as queue:
        await queue.check()
    return Finding("broker", OK, _without_secret(settings.broker_url))


async def _embedder(settings: Settings) -> Finding:
    if settings.runtime_url is not None:
        return Finding("embedder", OK, "the model runtime embeds")
    loaded = await asyncio.to_thread(
        load_models,
        settings.embedder,
        lambda: None,
        precision=settings.embedder_precision,
        exports=settings.exports_dir,
    )
    try:
        await loaded.embedder.embed(["warm-up"])
        started = time.perf_counter()
        await loaded.embedder.embed(["How long does a question take?"])
        took = 1_000 * (time.perf_counter() - started)
    finally:
        loaded.embedder.close()
    detail = f"{loaded.embedder.space.partition(':')[0]}, a question takes {took:.1f} ms"
    moving = await _served_in_another(settings, loaded.embedder.space)
    if moving:
        remedy = "`stratamem serve` embeds their texts anew, GET /v1/admin/embedder says what is left"
        return Finding("embedder", DEGRADED, f"{detail}; another one still serves {moving} tenant(s)", remedy)
    return Finding("embedder", OK, detail)


async def _model(settings: Settings) -> Finding:
    if settings.model is None and settings.runtime_url is None:
        return Finding("model", OK, "none: memory works, nothing generates (STRATAMEM_MODEL sets one)")
    if settings.runtime_url is not None:
        client = RuntimeClient(settings.runtime_url, settings.runtime_key)
        try:
            await client.check()
        finally:
            await client.close()
        return Finding("model", OK, f"the runtime at {settings.runtime_url} answers")
    assert settings.model is not None
    if settings.engine_elsewhere:
        return Finding("model", OK, f"an engine at {_without_secret(settings.model)}; /health/ready asks it")
    if _is_no_checkpoint(Path(settings.model)):
        return Finding("model", DOWN, f"{settings.model} has no config.json", "name the folder of a whole checkpoint")
    return Finding("model", OK, f"{settings.model}, loaded by `stratamem serve`")


async def _keys(settings: Settings) -> Finding:
    if not settings.keys_needed:
        return Finding("keys", OK, f"not needed on {settings.host}")
    if _fresh(settings) or not await _any_key(settings):
        if settings.oidc.issuer is not None:
            return Finding("keys", OK, f"none; tokens of {settings.oidc.issuer} are let in")
        return Finding("keys", DOWN, "needed, and there is no valid one", "make one with `stratamem keys create`")
    return Finding("keys", OK, "there is a valid one")


async def _port(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return Finding("port", DOWN, f"{where}: {error.strerror}", "correct STRATAMEM_HOST")
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            remedy = "Stratamem may be running already; else set STRATAMEM_PORT"
            return Finding("port", DEGRADED, f"{where}: {error.strerror}", remedy)
    return Finding("port", OK, f"{where} is free")


CHECKS: dict[str, Check] = {
    "python": _python,
    "data folder": _data_folder,
    "database": _database,
    "background work": _work,
    "broker": _broker,
    "embedder": _embedder,
    "model": _model,
    "keys": _keys,
    "port": _port,
}


async def _served_in_another(settings: Settings, space: str) -> int:
    """Tenants whose vectors are of another embedding model."""
    if _fresh(settings):
        return 0
    storage = SqlStorage(settings.storage_url, settings.database)
    try:
        found, newest = await storage.schema()
        if found != newest:
            return 0
        async with storage.read() as tx:
            return sum(served not in (None, space) for served in (await tx.spaces.all()).values())
    finally:
        await storage.close()


async def _any_key(settings: Settings) -> bool:
    storage, clock = SqlStorage(settings.storage_url, settings.database), SystemClock()
    try:
        found, newest = await storage.schema()
        return found == newest and await Keys(storage, clock).any()
    finally:
        await storage.close()


def _fresh(settings: Settings) -> bool:
    """SQLite without a file: opening it would make one."""
    file = settings.data_dir.resolve() / "stratamem.db"
    return settings.database_url is None and is_sqlite(settings.storage_url) and not file.exists()


def _is_no_checkpoint(folder: Path) -> bool:
    return folder.is_dir() and not (folder / "config.json").exists()


def _without_secret(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
