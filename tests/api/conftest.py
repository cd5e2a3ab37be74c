"""A container of fakes behind the real application: what HTTP adds is tested without models and databases."""

import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from api.app import create_app
from memory.adapters.quotas.windows import WindowCounter
from memory.domain.audit import Entry, Search
from memory.domain.events import Appended, Event, EventVisibility, Role
from memory.domain.memories import Memory, MemoryKind, MemoryVisibility
from memory.domain.principals import Key
from memory.domain.sessions import Session, TierCounts
from memory.services.audit import Audit
from memory.services.health import Health
from memory.services.keys import Keys
from memory.services.quotas import Quotas
from memory.services.sessions import SessionView
from memory.services.settings import CodecSettings
from memory.services.traffic import Traffic
from memory.settings import Settings
from tests.e2e.server import models

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)


class Service:
    """Answers what `answers` holds for a method (a value, an error to raise, or a function); remembers its calls."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        async def method(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            answer = self.answers[name]
            if isinstance(answer, BaseException):
                raise answer
            return answer(*args, **options) if callable(answer) else answer

        return method

    @property
    def last(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        return self.calls[-1]


class KeyStore:
    """As much of a Storage as keys need."""

    def __init__(self) -> None:
        self.stored: dict[str, Key] = {}
        self.reads = self.used_writes = 0
        self.tenants = self.keys = self
        self.failure: Exception | None = None

    @asynccontextmanager
    async def read(self) -> AsyncIterator["KeyStore"]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        yield self

    write = read

    async def secret(self, tenant_id: str, now: datetime) -> bytes:
        return b"secret"

    async def of(self, tenant_id: str) -> bytes:
        return b"secret"

    async def add(self, key: Key) -> None:
        self.stored[key.key_id] = key

    async def find(self, key_id: str) -> Key | None:
        return self.stored.get(key_id)

    async def any(self, now: datetime) -> bool:
        return any(key.valid(now) for key in self.stored.values())

    async def page(self, tenant_id: str | None, *, after: Key | None, limit: int) -> list[Key]:
        found = [key for key in reversed(self.stored.values()) if tenant_id in (None, key.tenant_id)]
        return found[0 if after is None else found.index(after) + 1 :][:limit]

    async def revoke(self, key_id: str, now: datetime) -> None:
        self.stored[key_id] = replace(self.stored[key_id], revoked_at=self.stored[key_id].revoked_at or now)

    async def used(self, moments: Mapping[str, datetime]) -> None:
        self.used_writes += 1
        for key_id, moment in moments.items():
            self.stored[key_id] = replace(self.stored[key_id], last_used_at=moment)

    async def ping(self) -> None:
        if self.failure is not None:
            raise self.failure


class AuditStore:
    """As much of a Storage as the audit needs."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.audit = self
        self.failure: Exception | None = None

    @asynccontextmanager
    async def read(self) -> AsyncIterator["AuditStore"]:
        if self.failure is not None:
            raise self.failure
        yield self

    write = read

    async def add(self, entries: Sequence[Entry]) -> None:
        self.entries += [replace(entry, number=n) for n, entry in enumerate(entries, len(self.entries) + 1)]

    async def page(
        self, tenant_id: str, search: Search, *, after: int | None, limit: int, descending: bool
    ) -> list[Entry]:
        found = [
            e
            for e in self.entries
            if e.tenant_id == tenant_id
            and search.session_id in (None, e.session_id)
            and (after is None or (e.number < after if descending else e.number > after))
        ]
        return (found[::-1] if descending else found)[:limit]


def fixed_clock() -> Any:
    return SimpleNamespace(now=lambda: NOON)


class FakeContainer:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = NOON
        self.clock = fixed_clock()
        self.store = KeyStore()
        self.keys = Keys(self.store, fixed_clock())  # type: ignore[arg-type]
        self.tokens = None
        self.quotas = Quotas(WindowCounter(None), settings.limits)
        self.trail = AuditStore()
        self.audit = Audit(self.trail, fixed_clock())  # type: ignore[arg-type]
        self.jobs, self.embedder = Service(), Service()
        self.jobs.answers["check"] = None
        self.embedder.answers["embed"] = [[1.0]]
        self.longterm = SimpleNamespace(failure=None)
        self.traffic = Traffic()
        self.generation = SimpleNamespace(stats=lambda: None, model=None)
        self.health = Health(self.store, self.jobs, self.embedder, self.longterm, timeout=0.2)  # type: ignore[arg-type]
        self.sessions, self.events, self.recall, self.context = Service(), Service(), Service(), Service()
        self.memories, self.forgetting, self.operations, self.admin = Service(), Service(), Service(), Service()
        self.abstracts = Service()
        self.kv, self.history, self.indexes, self.policies = Service(), Service(), Service(), Service()
        self.reembedding = Service()
        self.evictions = Service()
        self.tenants, self.receipts = Service(), Service()
        self.tenants.answers["check"] = None


def make_session(key: int = 1, **changes: Any) -> Session:
    values: dict[str, Any] = {
        "session_key": key,
        "tenant_id": "default",
        "session_id": f"s{key}",
        "title": None,
        "metadata": {},
        "window_tokens": 131_072,
        "semantic_turns": 100,
        "created_at": NOON,
        "updated_at": NOON,
        "last_seq": 0,
        "event_count": 0,
        "token_count": 0,
        "shared_tokens": 0,
        "turns": 0,
        "version": 1,
        "segmented_seq": 0,
        "semantic_version": 0,
    }
    return Session(**{**values, **changes})


def make_view(key: int = 1, **changes: Any) -> SessionView:
    return SessionView(make_session(key, **changes), TierCounts(10, 1, 4, 2, 3))


def make_event(seq: int = 1) -> Event:
    return Event(
        event_key=seq,
        session_key=1,
        seq=seq,
        event_id=f"e{seq}",
        agent_id="a",
        role=Role.USER,
        name=None,
        content=f"said {seq}",
        metadata={"topic": "keys"},
        visibility=EventVisibility.SESSION,
        created_at=NOON,
        token_count=2,
        token_start=0,
        turn=1,
    )


def make_memory(key: int = 1, **changes: Any) -> Memory:
    values: dict[str, Any] = {
        "memory_key": key,
        "tenant_id": "default",
        "memory_id": f"m{key}",
        "session_key": None,
        "session_id": None,
        "agent_id": None,
        "kind": MemoryKind.FACT,
        "visibility": MemoryVisibility.TENANT,
        "text": "The key is under the pot.",
        "metadata": {},
        "valid_from": None,
        "valid_to": None,
        "expires_at": None,
        "pinned": False,
        "source": None,
        "version": 1,
        "token_count": 7,
        "created_at": NOON,
        "updated_at": NOON,
        "access_count": 0,
        "last_accessed_at": None,
    }
    return Memory(**{**values, **changes})


APPENDED = Appended("s1", 1, 1, ("e1",), 2)


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    return Settings(data_dir=tmp_path, _env_file=None)


@pytest.fixture
def container(settings: Settings) -> FakeContainer:
    made = FakeContainer(settings)
    made.sessions.answers = {"create": make_view(), "get": make_view(), "update": make_view(version=2), "page": []}
    made.events.answers = {"append": APPENDED, "page": []}
    made.memories.answers = {"get": make_memory(), "update": make_memory(version=2), "page": []}
    made.operations.answers = {"page": []}
    made.admin.answers = {"overview": {"sessions": 1}}
    return made


@pytest.fixture
def client(container: FakeContainer) -> Iterator[TestClient]:
    with TestClient(create_app(container), base_url="http://127.0.0.1") as made:  # type: ignore[arg-type]
        yield made


@pytest.fixture
def make() -> SimpleNamespace:
    """Domain values for fakes to answer with."""
    return SimpleNamespace(
        session=make_session,
        view=make_view,
        event=make_event,
        memory=make_memory,
        container=FakeContainer,
        store=KeyStore,
        clock=fixed_clock,
        noon=NOON,
        appended=APPENDED,
        repeated=replace(APPENDED, repeated=True),
    )


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the real thing: the container over SQLite, behind uvicorn on a free port."""
    data, codecs = tmp_path_factory.mktemp("data"), CodecSettings(enabled=True)
    settings = Settings(data_dir=data, models_dir=models(), port=0, model="fixture", codecs=codecs, _env_file=None)
    config = uvicorn.Config(create_app(settings), port=0, ws="none", access_log=False, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
