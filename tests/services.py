"""Databases and brokers for tests: where they are, fixtures that leave them as they were, and rows to put in.

`STRATAMEM_TEST_POSTGRES_URL` and `STRATAMEM_TEST_REDIS_URL` say where. What does not answer is skipped with the
reason; with `REQUIRE_SERVICES=1` it is a failure.
"""

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import asyncpg
import pytest
import redis
import sqlalchemy as sa

from memory.adapters.notices import LocalNotices
from memory.adapters.sql.migrate import upgrade
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import SqlStorage, make_engine
from memory.adapters.sql.tables import metadata
from memory.bootstrap import purging
from memory.domain.events import Event, EventVisibility, Role
from memory.domain.ids import ItemId, new_id
from memory.domain.memories import Memory, MemoryKind, MemoryVisibility
from memory.domain.moves import NewMove, Parts, Reason
from memory.domain.principals import SHARED, TENANT_WIDE
from memory.domain.recall import TierName
from memory.domain.segments import NewSegment, Span
from memory.domain.sessions import NewSession, Session
from memory.ports.jobs import Clock, JobQueue
from memory.ports.notices import Notices
from memory.ports.storage import UnitOfWork
from memory.services.erasure import Erasure
from memory.services.forgetting import Forgetting
from memory.services.receipts import Receipts
from memory.testing import HashNotary

POSTGRES = os.environ.get("STRATAMEM_TEST_POSTGRES_URL", "postgresql://root@127.0.0.1:5432/test")
REDIS = os.environ.get("STRATAMEM_TEST_REDIS_URL", "redis://127.0.0.1:6379/15")

_CLEAR = "; ".join(
    f"DELETE FROM {table.name}" if table.name != "receipts" else "TRUNCATE receipts"  # a trigger refuses deletions
    for table in reversed(metadata.sorted_tables)
)


def missing(reason: str) -> NoReturn:
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def run_sql(url: str, statement: str) -> Any:
    """One statement on PostgreSQL, in autocommit; the value of the first row's first column, if there is one."""

    async def run() -> Any:
        dsn = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        connection = await asyncpg.connect(dsn, timeout=5)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


@dataclass(frozen=True)
class Database:
    """An empty database with the newest schema. `open()` gives one more storage, with an engine of its own."""

    kind: str
    url: str
    open: Callable[..., SqlStorage]

    @property
    def postgresql(self) -> bool:
        return self.kind == "postgresql"

    @property
    def file(self) -> Path:
        name = sa.make_url(self.url).database
        assert not self.postgresql
        assert name is not None
        return Path(name)

    async def rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """What a client of its own sees."""
        engine = make_engine(self.url, DatabaseSettings(pool_size=1))
        try:
            async with engine.begin() as connection:
                result = await connection.execute(sa.text(statement), values)
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            await engine.dispose()


@pytest.fixture(scope="session")
def new_postgres() -> Iterator[Callable[[], str]]:
    """Makes empty databases; they are dropped at the end."""
    try:
        run_sql(POSTGRES, "SELECT 1")
    except (OSError, asyncpg.PostgresError) as error:
        missing(f"no PostgreSQL at {sa.make_url(POSTGRES)!r}: {type(error).__name__}: {error}")
    made: list[str] = []

    def make() -> str:
        name = f"stratamem_test_{os.getpid()}_{uuid.uuid4().hex[:8]}"
        run_sql(POSTGRES, f"CREATE DATABASE {name} TEMPLATE template0")
        made.append(name)
        run_sql(POSTGRES, f"ALTER DATABASE {name} SET synchronous_commit = off")  # nobody pulls this plug
        return sa.make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)

    yield make
    for name in made:
        run_sql(POSTGRES, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def _migrated_postgres(new_postgres: Callable[[], str]) -> str:
    url = new_postgres()
    asyncio.run(migrate(url))
    return url


@pytest.fixture
def postgres_url(_migrated_postgres: str) -> str:
    """A PostgreSQL database with the newest schema and no rows."""
    # Quicker than TRUNCATE, and no key is given out a second time.
    run_sql(_migrated_postgres, f"DO $$ BEGIN {_CLEAR}; END $$")
    return _migrated_postgres


@pytest.fixture(scope="session")
def redis_url() -> str:
    """A Redis that answers. It is shared: name your keys so that nobody else has them, and delete them."""
    try:
        with redis.Redis.from_url(REDIS, socket_connect_timeout=2, socket_timeout=2) as client:
            client.ping()
    except redis.RedisError as error:
        missing(f"no Redis at {REDIS.rsplit('@')[-1]}: {error}")
    return REDIS


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "stratamem.db"
    asyncio.run(migrate(f"sqlite:///{file}"))
    assert not file.with_name("stratamem.db-wal").exists()
    return file


@pytest.fixture
def sqlite_url(tmp_path: Path, _migrated_sqlite: Path) -> str:
    """A SQLite database with the newest schema and no rows, in a folder of its own."""
    folder = tmp_path / "database"
    folder.mkdir()
    shutil.copy(_migrated_sqlite, folder / "stratamem.db")
    return f"sqlite:///{folder / 'stratamem.db'}"


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    async with _opened(sqlite_url) as database:
        yield database


@pytest.fixture
async def postgresql(postgres_url: str) -> AsyncIterator[Database]:
    async with _opened(postgres_url) as database:
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each in turn: what takes it is tested on both databases."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with _opened(database_url) as database:
        yield database


@pytest.fixture
def storage(database: Database) -> SqlStorage:
    return database.open()


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Database]:
    async with AsyncExitStack() as stack:

        def open_one(**settings: Any) -> SqlStorage:
            storage = SqlStorage(url, DatabaseSettings(**settings))
            stack.push_async_callback(storage.close)
            return storage

        yield Database(sa.make_url(url).get_backend_name(), url, open_one)


async def migrate(url: str, step: Callable[..., Awaitable[None]] = upgrade, *arguments: Any) -> None:
    engine = make_engine(url, DatabaseSettings(pool_size=1))
    try:
        await step(engine, *arguments)
    finally:
        await engine.dispose()


NOW = datetime(2026, 3, 31, 12, 0, 0, 123_456, UTC)
TENANT = "acme"
SPACE = "test-space"
EVERYONE = frozenset({SHARED, TENANT_WIDE})


async def add_session(tx: UnitOfWork, session_id: str = "s", tenant_id: str = TENANT, **values: Any) -> Session:
    await tx.tenants.secret(tenant_id, NOW)
    session = await tx.sessions.create(tenant_id, NewSession(session_id, **values), NOW)
    assert session is not None
    return session


async def add_events(tx: UnitOfWork, session: Session, *contents: str, **values: Any) -> list[Event]:
    """At the end of the log, two tokens each; as they are stored."""
    session = (await tx.sessions.by_keys([session.session_key]))[session.session_key]
    place, added = session.shared_tokens, []
    for number, content in enumerate(contents, session.last_seq + 1):
        added.append(new_event(session, number, content, token_start=place, **values))
        place += 2 if added[-1].visibility is EventVisibility.SESSION else 0
    await tx.events.add(added, "words")
    await tx.sessions.advance([session.grown(added)], NOW)
    return await tx.events.by_ids(session.lineage, [event.event_id for event in added])


def forgetting(
    storage: SqlStorage,
    jobs: JobQueue,
    clock: Clock,
    *,
    lease: timedelta = timedelta(minutes=1),
    notices: Notices | None = None,
) -> tuple[Erasure, Forgetting]:
    """Without indexes; receipts are kept in memory."""
    notices = notices or LocalNotices()
    made = purging.erasure(storage, (), jobs, clock, lease, Receipts(storage, HashNotary()), notices)
    return made, Forgetting(storage=storage, erasure=made, jobs=jobs, clock=clock, notices=notices)


def new_event(session: Session, seq: int, content: str = "hello", **changes: Any) -> Event:
    event = Event(
        event_key=0,
        session_key=session.session_key,
        seq=seq,
        event_id=f"e{seq}",
        agent_id="ann",
        role=Role.USER,
        name=None,
        content=content,
        metadata={},
        visibility=EventVisibility.SESSION,
        created_at=NOW,
        token_count=2,
        token_start=2 * (seq - 1),
        turn=seq,
    )
    return replace(event, **changes)


def new_memory(text: str = "The key is under the pot.", **changes: Any) -> Memory:
    memory = Memory(
        memory_key=0,
        tenant_id=TENANT,
        memory_id=new_id(),
        session_key=None,
        session_id=None,
        agent_id=None,
        kind=MemoryKind.FACT,
        visibility=MemoryVisibility.TENANT,
        text=text,
        metadata={},
        valid_from=None,
        valid_to=None,
        expires_at=None,
        pinned=False,
        source=None,
        version=1,
        token_count=7,
        created_at=NOW,
        updated_at=NOW,
        access_count=0,
        last_accessed_at=None,
    )
    return replace(memory, **changes)


async def add_memory(tx: UnitOfWork, text: str = "The key is under the pot.", **changes: Any) -> Memory:
    memory = new_memory(text, **changes)
    await tx.tenants.secret(memory.tenant_id, NOW)
    stored = await tx.memories.add(memory, memory.memory_id.encode(), "ann")
    assert stored is not None
    return stored


def new_move(session: Session, seq: int = 1, **changes: Any) -> NewMove:
    move = NewMove(
        session_key=session.session_key,
        audience="session",
        origin=TierName.SEMANTIC,
        target=TierName.LONGTERM,
        reason=Reason.LEAST_VALUE,
        first_seq=seq,
        last_seq=seq,
        pieces=1,
        size=512,
        unit="bytes",
        score=-7.85,
        parts=Parts(recency=-0.5, use=0.7, importance=3.2, cost=-11.0, redundancy=-0.25),
        cluster_key=3,
    )
    return replace(move, **changes)


def new_segment(item: ItemId, ordinal: int = 0, **changes: Any) -> NewSegment:
    segment = NewSegment(
        item=item,
        session_key=None,
        seq=0,
        ordinal=ordinal,
        turn=0,
        audience=SHARED,
        span=Span(0, 3),
        content_hash=b"hash",
    )
    return replace(segment, **changes)


def segments_of(*events: Event, **changes: Any) -> list[NewSegment]:
    """One segment each, over the whole content."""
    return [
        new_segment(
            event.item,
            session_key=event.session_key,
            seq=event.seq,
            turn=event.turn,
            audience=event.audience,
            span=Span(0, len(event.content)),
            content_hash=event.content.encode(),
            **changes,
        )
        for event in events
    ]
