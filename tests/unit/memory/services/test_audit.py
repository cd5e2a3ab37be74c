"""What was done is written down once, in order, also when the database was away."""

import pytest

from memory.domain.audit import Search
from memory.domain.errors import StorageUnavailable
from memory.services import audit as module
from memory.services.audit import Audit
from memory.testing import SettableClock

ALL = Search()


@pytest.fixture
async def audit(storage):
    clock = SettableClock()
    async with storage.write() as tx:
        for tenant_id in ("acme", "globex"):
            await tx.tenants.secret(tenant_id, clock.now())
    return Audit(storage, clock)


async def subjects(audit, **search):
    return [entry.subject for entry in await audit.page("acme", Search(**search), before=None, limit=99)]


async def test_what_is_noted_is_read_newest_first_at_once(audit):
    for n in range(3):
        audit.note("acme", "events.append", 201, subject=f"e{n}")
    audit.note("globex", "events.append", 201, subject="theirs")
    assert await subjects(audit) == ["e2", "e1", "e0"]


async def test_an_entry_for_each_session_and_one_without_any(audit):
    audit.note("acme", "recall.recall", 200, session_ids=["a", "b"], subject="x")
    audit.note("acme", "keys.create", 201, subject="k")
    assert await subjects(audit) == ["k", "x", "x"]
    assert await subjects(audit, session_id="b") == ["x"]


async def test_what_can_not_be_written_is_written_later_in_its_order(audit, storage, monkeypatch):
    audit.note("acme", "keys.create", 201, subject="first")
    with monkeypatch.context() as away:
        away.setattr(storage, "write", lambda: (_ for _ in ()).throw(StorageUnavailable("away")))
        with pytest.raises(StorageUnavailable):
            await audit.flush()
        await audit.settle()
        audit.note("acme", "keys.create", 201, subject="second")
    await audit.flush()
    await audit.flush()
    assert await subjects(audit) == ["second", "first"]


async def test_what_waits_for_a_database_is_bounded_and_the_loss_is_said(audit, monkeypatch, caplog):
    monkeypatch.setattr(module, "_MOST", 2)
    for n in range(3):
        audit.note("acme", "events.append", 201, subject=f"e{n}")
    assert await subjects(audit) == ["e2", "e1"]
    assert "is lost" in caplog.text


async def test_the_export_is_whole_and_oldest_first(audit, monkeypatch):
    monkeypatch.setattr(module, "_PART", 2)
    for n in range(4):
        audit.note("acme", "events.append", 201, subject=f"e{n}")
    parts = [[entry.subject for entry in part] async for part in audit.export("acme", ALL)]
    assert parts == [["e0", "e1"], ["e2", "e3"]]
    assert [part async for part in audit.export("nobody", ALL)] == []
