"""I5, store by store: what was planted is found in all of them before a purge, and in none after its receipt."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from memory.adapters.jobs.recording import RecordingQueue
from memory.adapters.models.inprocess import load_models
from memory.adapters.models.settings import Precision
from memory.adapters.models.tokens import ids_within
from memory.adapters.sql.settings import DatabaseSettings
from memory.adapters.sql.storage import SqlStorage
from memory.adapters.traces import files, forms
from memory.bootstrap import inspecting
from memory.domain.audit import Entry
from memory.domain.traces import Look, Marks
from memory.settings import Settings
from memory.testing import SettableClock
from tests.e2e.server import (
    COMMAND,
    MODELS,
    Process,
    Server,
    append,
    context,
    environment,
    indexed,
    keys_create,
    ok,
    recall,
    said,
    texts,
    until,
)
from tests.services import NOW, forgetting, missing, run_sql

MODEL = "stratamem-fixture-handwired-recall"
QUICK = {"LONGTERM__SNAPSHOT_SECONDS": 0.3, "LONGTERM__COMMIT_AFTER": 1, "GENERATION__THREADS": 1}
PLANTED = {
    "event": "The Quetzalkoatl figure stands behind the door.",
    "memory": "A Xylofonist lives upstairs, says the landlord.",
    "session": "Brzeszczyk paid for the whole wedding.",
    "agent": "The Tangerinovich file is under the carpet.",
    "tenant": "An Axolotlius swims in the bath on Sundays.",
}
"""Each with a word that no other text has."""


@pytest.fixture(scope="module")
def marks() -> dict[str, Marks]:
    """Each text in all forms that this test's server may keep it in."""
    loaded = load_models("minilm", precision=Precision.AUTO, exports=MODELS)
    try:
        return {
            kind: forms.marks(text, asyncio.run(loaded.embedder.embed([text])), ids_within("fixture", text))
            for kind, text in PLANTED.items()
        }
    finally:
        loaded.embedder.close()


@dataclass(frozen=True)
class Scan:
    """`stratamem verify-purge --marker …`, without starting a process for each look."""

    data: Path
    url: str

    def looks(self, wanted: Sequence[Marks]) -> list[Look]:
        async def of_tables() -> list[Look]:
            storage = SqlStorage(self.url, DatabaseSettings(pool_size=1))
            try:
                return await storage.traces(wanted)
            finally:
                await storage.close()

        return asyncio.run(of_tables()) + files.looks(self.data, wanted)

    def traces(self, wanted: Marks) -> list[str]:
        return [trace for look in self.looks([wanted]) for trace in look.found]

    def stores(self, wanted: Marks) -> set[str]:
        """Tables and kinds of files, without the names of folders."""
        found = {look.store for look in self.looks([wanted]) if look.found}
        return {"words" if store.startswith("words of") else store for store in found}


def test_every_kind_of_purge_leaves_no_store_with_a_trace(tmp_path: Path, marks: dict[str, Marks]) -> None:
    with Server(tmp_path / "data", MODEL="fixture", **QUICK) as server:
        scan = Scan(server.data, f"sqlite:///{server.data}/stratamem.db")
        plant(server)
        purges: dict[str, Callable[[], Any]] = {
            "event": lambda: server.http.delete("/v1/sessions/log/events/e1"),
            "memory": lambda: server.http.delete("/v1/memories/m1"),
            "agent": lambda: server.http.delete("/v1/agents/ann/data"),
            "session": lambda: server.http.delete("/v1/sessions/gone"),
            "tenant": lambda: server.http.delete("/v1/admin/tenants/default?confirm=default"),
        }
        for kind, purge in purges.items():
            answer_a_question(server, marks[kind], scan)
            assert not stores_of(kind) - scan.stores(marks[kind]), kind
            receipt = ok(purge(), 200)
            assert receipt["verified"], kind
            assert scan.traces(marks[kind]) == [], kind
            assert proven(server, receipt["receipt_id"]), kind
        assert server.http.delete("/v1/admin/tenants/default").status_code == 422
        append(server.http, "log", "A fresh start.")
        assert texts(recall(server.http, "Quetzalkoatl Axolotlius")) == ["A fresh start."]
        assert [o["kind"] for o in ok(server.http.get("/v1/operations"))["items"]] == ["index"]
        code, said_so = stratamem(server, "verify-purge", receipt["receipt_id"], "--marker", "fresh", "--no-models")
        assert (code, said_so["clean"]) == (1, False)
        code, receipt = stratamem(server, "tenants", "purge", "default", "--yes")  # beside the running server
        assert (code, receipt["verified"], receipt["purged"]["events"]) == (0, True, 1)
        assert scan.traces(forms.marks("A fresh start.")) == []
        assert recall(server.http, "fresh") == []
        assert server.stop() == 0
        for mark in marks.values():
            assert scan.traces(mark) == []


def plant(server: Server) -> None:
    http = server.http
    append(http, "log", said(PLANTED["event"], event_id="e1"), PLANTED["tenant"], "An ordinary remark.")
    append(http, "log", said(PLANTED["agent"], agent_id="ann", visibility="private"))
    filler = " ".join(f"{PLANTED['session']} So it was on day {n}." for n in range(400))  # enough for a summary
    append(http, "gone", PLANTED["session"], filler, "The end of that.")
    memory = {"memory_id": "m1", "text": PLANTED["memory"], "kind": "fact"}
    ok(http.post("/v1/memories", json={"memories": [memory]}))
    ok(http.patch("/v1/memories/m1", json={"text": "Nobody lives there."}))
    ok(http.patch("/v1/memories/m1", json={"text": PLANTED["memory"]}))
    indexed(http)
    context(http, "gone", 300, query="day")


def answer_a_question(server: Server, mark: Marks, scan: Scan) -> None:
    """Each purge drops the tenant's KV, so for each there is some anew; then all is on disk."""
    for session in ("log", "gone"):
        if server.http.get(f"/v1/sessions/{session}").status_code == 404:
            continue
        body = {"model": MODEL, "memory_key": session, "max_tokens": 2, "temperature": 0, "agent_id": "ann"}
        body |= {"messages": [{"role": "user", "content": "Who lives upstairs?"}], "memory": {"store": False}}
        ok(server.http.post("/v1/chat/completions", json=body))
        ok(server.http.post(f"/v1/sessions/{session}/kv/suspend"))
    recall(server.http, mark.text)
    indexed(server.http)
    wanted = {"index: vectors", "words", "KV"}
    until(lambda: wanted <= scan.stores(mark), 60, what=f"all is on disk of {mark.text!r}")


def stores_of(kind: str) -> set[str]:
    tables = {
        "memory": {"table memories", "table memory_versions"},
        "session": {"table events", "table summaries"},
    }.get(kind, {"table events"})
    return tables | {"table segments", "index: vectors", "words", "KV"}


def proven(server: Server, receipt_id: str) -> bool:
    """By the keys that it names: rows, catalogues, folders, manifests; and by its signature."""
    settings = Settings(data_dir=server.data, _env_file=None)  # type: ignore[call-arg]
    looks = asyncio.run(inspecting.of_receipt(settings, receipt_id))
    assert {"signature", "chain"} <= {look.store for look in looks}
    assert [look for look in looks if look.found] == []
    signed = server.http.get(f"/v1/receipts/{receipt_id}")
    return bool(ok(signed)["content"]["what"])


def stratamem(server: Server, *arguments: str) -> tuple[int, Any]:
    done = subprocess.run(
        [COMMAND, *arguments, "--json"],
        env=environment(server.data, server.settings),
        cwd=server.data,
        capture_output=True,
        timeout=120,
    )
    assert done.stdout, done.stderr.decode()[-500:]
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def separate(
    tmp_path_factory: pytest.TempPathFactory, new_postgres: Callable[[], str], broker: dict[str, str]
) -> Iterator[tuple[Server, Process, str]]:
    url, folder = new_postgres(), tmp_path_factory.mktemp("purges")
    shared = {"DATABASE_URL": url, **broker, "JOBS__LEASE": 3, "JOBS__SWEEP_EVERY": 1, "JOBS__SWEEP_IDLE": 1}
    worker = Process(folder / "worker", "worker", **shared)
    with Server(folder / "api", AUTH="required", **shared, **QUICK) as server:
        worker.spawn()
        yield server, worker, url
        worker.kill()


def test_every_kind_of_purge_leaves_no_trace_in_postgresql(
    separate: tuple[Server, Process, str], marks: dict[str, Marks]
) -> None:
    server, _, url = separate
    scan = Scan(server.data, url)
    http = server.client(
        keys_create(server.data, "--tenant", "kinds", "--scopes", "read,write,admin", DATABASE_URL=url)
    )
    append(http, "log", said(PLANTED["event"], event_id="e1"), "An ordinary remark.")
    append(http, "log", said(PLANTED["agent"], agent_id="ann", visibility="private"))
    append(http, "gone", PLANTED["session"])
    memory = {"memory_id": "m1", "text": PLANTED["memory"], "kind": "fact"}
    ok(http.post("/v1/memories", json={"memories": [memory]}))
    indexed(http)
    paths = {
        "event": "/v1/sessions/log/events/e1",
        "memory": "/v1/memories/m1",
        "agent": "/v1/agents/ann/data",
        "session": "/v1/sessions/gone",
    }
    for kind, path in paths.items():
        recall(http, PLANTED[kind])
        table = "table memories" if kind == "memory" else "table events"
        wanted = {table, "table segments", "index: vectors", "words"}
        until(lambda kind=kind, wanted=wanted: wanted <= scan.stores(marks[kind]), 60, what=kind)  # type: ignore[misc]
        outcome = ok(http.delete(path), 200, 202)
        receipt_id = outcome.get("receipt_id") or outcome["operation_id"]
        until(lambda name=receipt_id: http.get(f"/v1/receipts/{name}").status_code == 200, 60, what=kind)  # type: ignore[misc]
        assert scan.traces(marks[kind]) == [], kind


def test_a_worker_that_is_killed_while_it_purges_a_tenant_is_followed_by_another(
    separate: tuple[Server, Process, str], marks: dict[str, Marks]
) -> None:
    server, worker, url = separate
    scan = Scan(server.data, url)
    mark = marks["tenant"]
    options = ("--tenant", "acme", "--scopes", "read,write,admin")
    acme = server.client(keys_create(server.data, *options, DATABASE_URL=url))
    other = server.client(keys_create(server.data, "--tenant", "other", DATABASE_URL=url))
    append(acme, "s", PLANTED["tenant"], "An ordinary remark.")
    append(other, "s", "Somebody else's remark.")
    indexed(acme)
    recall(acme, mark.text)
    until(lambda: {"index: vectors", "words"} <= scan.stores(mark), 60, what="all is on disk")
    assert {"table events", "table segments"} <= scan.stores(mark)
    assert {"UTF-8", "vector, float16"} <= in_dump(url, mark)
    with held_changes(url):
        operation = asyncio.run(begin(url))
        until(lambda: 0 < run_sql(url, COUNT) < MANY, 60, what="the worker is in the middle of it")
        until(lambda: acme.get("/v1/sessions").status_code == 401, 5, what="the key is known to be gone, in a second")
        worker.kill()
        written = f"SELECT count(*) FROM receipts WHERE receipt_id = '{operation}'"
        assert run_sql(url, written) == 0
        assert acme.post("/v1/sessions/new/events", json={"events": [said("x")]}).status_code == 401
    worker.spawn()
    until(lambda: run_sql(url, written), 90, what="the next one ends it")
    run_sql(url, "VACUUM")
    assert scan.traces(mark) == []
    assert in_dump(url, mark) == set()
    assert run_sql(url, "SELECT count(*) FROM tenants WHERE tenant_id = 'acme'") == 0
    assert acme.get("/v1/sessions").status_code == 401
    assert texts(recall(other, "remark")) == ["Somebody else's remark."]
    settings = Settings(data_dir=server.data, database_url=url, _env_file=None)  # type: ignore[call-arg]
    looks = asyncio.run(inspecting.of_receipt(settings, operation))
    assert [look for look in looks if look.found] == []


MANY = 6_000
"""Rows of the audit: more than one step takes."""
COUNT = "SELECT count(*) FROM audit WHERE tenant_id = 'acme'"


def in_dump(url: str, mark: Marks) -> set[str]:
    """The forms that are in what `pg_dump` writes, where bytes are hexadecimal."""
    if shutil.which("pg_dump") is None:
        missing("pg_dump is not installed")
    dsn = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    dump = subprocess.run(["pg_dump", dsn], capture_output=True, check=True, timeout=60).stdout.lower()
    forms = {name: pattern for name, pattern in mark.words.items() if pattern in dump}
    return {*forms, *(name for name, pattern in mark.numbers.items() if pattern.hex().encode() in dump)}


@contextmanager
def held_changes(url: str) -> Iterator[None]:
    """Somebody else has rows of the feed: who purges the tenant waits for them, with many of its rows gone."""
    dsn = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    loop = asyncio.new_event_loop()
    holding = loop.run_until_complete(asyncpg.connect(dsn))
    try:
        loop.run_until_complete(holding.execute("BEGIN; SELECT * FROM changes WHERE tenant_id = 'acme' FOR UPDATE"))
        yield
    finally:
        loop.run_until_complete(holding.close())
        loop.close()


async def begin(url: str) -> str:
    """The purge is promised, as by a request whose process ended right then."""
    storage = SqlStorage(url, DatabaseSettings(pool_size=1))
    try:
        async with storage.write() as tx:
            await tx.audit.add([Entry(0, "acme", NOW, None, None, "x", None, None, 200, None)] * MANY)
        made, service = forgetting(storage, RecordingQueue(), SettableClock(NOW))

        async def ended(tenant_id: str, session_keys: object, operation_id: str, *, in_steps: bool) -> Any:
            return operation_id

        made.erase = ended  # type: ignore[method-assign,assignment]
        return str(await service.purge_tenant("acme"))
    finally:
        await storage.close()
