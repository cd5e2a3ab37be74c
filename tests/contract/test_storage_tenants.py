"""After a purge of a tenant no table holds a row of it, and nothing can be added while it goes on."""

import asyncio
from collections import Counter

import pytest

from memory.adapters.jobs.recording import RecordingQueue
from memory.adapters.notices import LocalNotices
from memory.adapters.sql.tables import metadata
from memory.adapters.sql.tenants import _in_order
from memory.domain.audit import Entry
from memory.domain.changes import ChangeKind
from memory.domain.errors import Conflict, Forbidden, NotFound, Retryable, TenantPurged
from memory.domain.events import EventVisibility, NewEvent, Role
from memory.domain.memories import MemoryVisibility
from memory.domain.operations import OperationKind, OperationState, Receipt
from memory.domain.principals import DEFAULT_TENANT, KeyScope, Principal, private_to
from memory.domain.receipts import ReceiptKind
from memory.services import steps
from memory.services.activity import Activity
from memory.services.keys import Keys
from memory.services.log import Log, Request
from memory.testing import SettableClock
from tests.contract.test_storage_purge import everything, fill
from tests.services import EVERYONE, NOW, SPACE, TENANT, add_events, add_memory, add_session, forgetting, segments_of

MARK = "xyzzy-marker"
STAYS = {"receipts", "changes", "followers", "spaces"}
"""The receipt names the tenant, and the feed tells those who come later that it is gone; neither has anything of it."""


async def fill_tenant(storage, clock, mark):
    async with storage.write() as tx:
        await fill(tx, "one", mark)
        await fill(tx, "two", mark)
        await tx.spaces.begin(TENANT, SPACE)
        await tx.audit.add([Entry(0, TENANT, NOW, mark, None, "sessions.create", mark, None, 201, None)])
        await tx.turns.draw(TENANT, mark, clock.now() - NOW, NOW, most=9)
    await Keys(storage, clock).create(TENANT, [KeyScope.READ], name=mark)


async def receipt_of(service, outcome):
    """Now, or when a slow disk has let the database's file be written anew."""
    while not isinstance(outcome, Receipt):
        await asyncio.sleep(0.1)
        outcome = await service.resume(outcome)
    return outcome


async def test_a_purged_tenant_leaves_no_row_but_its_receipt(database, storage, monkeypatch):
    monkeypatch.setattr(steps, "_ROWS", 7)  # many steps
    clock = SettableClock()
    async with storage.write() as tx:
        await add_events(tx, await add_session(tx, tenant_id="other"), "stays")
    before = await everything(database)
    await fill_tenant(storage, clock, MARK)
    full = await everything(database)
    assert all(full[name] for name in set(metadata.tables) - {"followers", "spaces", "receipts"})
    _, service = forgetting(storage, RecordingQueue(), clock)
    receipt = await receipt_of(service, await service.purge_own_tenant(Principal(TENANT), TENANT, TENANT))
    assert {kind: receipt.purged[kind] for kind in ("sessions", "events", "memories", "keys", "vectors", "audit")} == {
        "sessions": 2,
        "events": 6,
        "memories": 4,
        "keys": 1,
        "vectors": 4,
        "audit": 1,
    }
    after = await everything(database)
    assert MARK not in str(after)
    for name in set(before) - STAYS:
        assert after[name] == before[name], name
    (change,) = [row for row in after["changes"] if row not in before["changes"]]
    assert (change[2], change[3]) == (TENANT, ChangeKind.TENANT_PURGED)
    async with storage.read() as tx:
        signed = await tx.receipts.get(receipt.receipt_id)
    assert signed.content["what"]["kind"] == ReceiptKind.TENANT
    assert signed.content["purged"] == receipt.purged
    with pytest.raises(NotFound):
        await service.purge_own_tenant(Principal(TENANT), TENANT, TENANT)


def test_every_table_that_names_a_tenant_is_known_to_its_purge():
    """A new table with a tenant_id must be added to `adapters/sql/tenants.py`, and then here."""
    named = {table.name for table in metadata.tables.values() if "tenant_id" in table.columns}
    in_order = {"operations", "codes", "codebooks", "segments", "memories", "turns", "audit", "keys", "changes"}
    with_its_sessions = {"sessions", "moves"}
    assert named == in_order | with_its_sessions | {"tenants", "receipts"}
    assert {table.name for table, _ in _in_order(TENANT)} == in_order | {"coded_segments", "memory_versions"}


async def test_nothing_is_added_to_a_tenant_that_is_being_purged(database, storage):
    clock = SettableClock()
    async with storage.write() as tx:
        session = await add_session(tx)
        assert await tx.tenants.begin_purge(TENANT, "op")
        assert not await tx.tenants.begin_purge(TENANT, "other-op")
        assert not await tx.tenants.begin_purge("nobody", "op")
    with pytest.raises(TenantPurged):
        await Keys(storage, clock).create(TENANT, [KeyScope.READ])
    async with storage.write() as tx:
        with pytest.raises(TenantPurged):
            await add_memory(tx, "new")
        assert await tx.tenants.ids() == []
        assert TENANT not in await tx.spaces.all()
        await tx.audit.add([Entry(0, TENANT, NOW, None, None, "tenants.purge", None, None, 202, None)])
    assert await database.rows("SELECT * FROM audit") == []
    assert session.tenant_id == TENANT


async def test_what_came_in_at_the_last_moment_goes_before_the_receipt(storage):
    clock = SettableClock()
    async with storage.write() as tx:
        await add_session(tx)
    made, service = forgetting(storage, RecordingQueue(), clock)
    take, late = made._steps[ReceiptKind.TENANT], []

    async def and_then_a_job(tx, operation, now):
        step = await take(tx, operation, now)
        if step.done and not late:
            job = await tx.operations.enqueue(TENANT, OperationKind.REBUILD, "late", NOW, unit="items")
            late.append(job[0])
        return step

    made._steps = {ReceiptKind.TENANT: and_then_a_job}
    await receipt_of(service, await service.purge_tenant(TENANT))
    async with storage.read() as tx:
        assert await tx.operations.by_id(late[0]) is None
        assert await tx.tenants.get(TENANT) is None


async def test_the_default_tenant_is_new_with_the_secret_of_the_database(storage):
    clock = SettableClock()
    async with storage.write() as tx:
        secret = await tx.tenants.secret(DEFAULT_TENANT, NOW)
        await add_session(tx, tenant_id=DEFAULT_TENANT)
    _, service = forgetting(storage, RecordingQueue(), clock)
    await receipt_of(service, await service.purge_tenant(DEFAULT_TENANT))
    async with storage.write() as tx:
        assert await tx.tenants.secret(DEFAULT_TENANT, NOW) == secret
        assert (await tx.tenants.figures(DEFAULT_TENANT)).sessions == 0


async def test_who_adds_at_that_moment_is_waited_for(database, storage):
    """Or finds the tenant going: never is something added that the purge does not see."""
    other = database.open()
    async with storage.write() as tx:
        await tx.tenants.secret(TENANT, NOW)
    begun = asyncio.Event()

    async def add():
        async with other.write() as tx:
            await add_session(tx, "slow")
            begun.set()
            await asyncio.sleep(0.2)

    adding = asyncio.create_task(add())
    await begun.wait()
    async with storage.write() as tx:
        await tx.tenants.begin_purge(TENANT, "op")
        assert adding.done() or database.postgresql
        assert (await tx.tenants.figures(TENANT)).sessions == 1
    await adding


async def test_what_is_private_to_an_agent_goes_and_its_places_stay(database, storage):
    clock, jobs = SettableClock(), RecordingQueue()
    async with storage.write() as tx:
        session = await add_session(tx)
        private = {"visibility": EventVisibility.PRIVATE, "agent_id": "ann"}
        mine = await add_events(tx, session, f"{MARK} one", f"{MARK} two", metadata={"m": MARK}, **private)
        await add_events(tx, session, "said to all", agent_id="ann")
        await add_events(tx, session, "bob's own", visibility=EventVisibility.PRIVATE, agent_id="bob")
        await tx.segments.add(TENANT, SPACE, segments_of(*mine), NOW)
        await add_memory(tx, MARK, visibility=MemoryVisibility.PRIVATE, agent_id="ann")
        shared = await add_memory(tx, f"{MARK} once", visibility=MemoryVisibility.PRIVATE, agent_id="ann")
        await tx.memories.update(shared, {"text": "shared", "visibility": MemoryVisibility.TENANT}, None, None, NOW)
        others = await add_memory(tx, "bob's", visibility=MemoryVisibility.PRIVATE, agent_id="bob")
    assert MARK in str(await everything(database))
    _, service = forgetting(storage, jobs, clock)
    receipt = await receipt_of(service, await service.purge_agent(Principal(TENANT), "ann"))
    assert (receipt.purged["events"], receipt.purged["memories"], receipt.purged["versions"]) == (2, 1, 1)
    assert MARK not in str(await everything(database))
    async with storage.read() as tx:
        log = await tx.events.page(
            session.lineage, frozenset({"session", private_to("ann"), private_to("bob")}), limit=9
        )
        assert [(event.content, event.redacted) for event in log] == [
            ("", True),
            ("", True),
            ("said to all", False),
            ("bob's own", False),
        ]
        assert (await tx.memories.get(TENANT, shared.memory_id)).text == "shared"
        assert await tx.memories.get(TENANT, others.memory_id) is not None
    with pytest.raises(NotFound):
        await service.purge_agent(Principal(TENANT), "ann")


async def test_receipts_follow_each_other_and_are_never_changed(database, storage):
    clock = SettableClock()
    _, service = forgetting(storage, RecordingQueue(), clock)
    signed = service._erasure._receipts
    for n in range(3):
        async with storage.write() as tx:
            await add_events(tx, await add_session(tx, f"s{n}"), "hello")
        await receipt_of(service, await service.purge_session(Principal(TENANT), f"s{n}"))
    assert await signed.problems() == []
    assert [receipt.number for receipt in await signed.page(TENANT, after=0, limit=9)] == [1, 2, 3]
    for wrong in ("UPDATE receipts SET statement = '{}'", "DELETE FROM receipts"):
        with pytest.raises(Exception, match="never changed"):
            await database.rows(wrong)
    kept = signed._notary.folder
    kept.append(kept[0].__class__(9, "unknown", TENANT, "{}", "x", "none", NOW))
    assert await signed.problems() == ["receipt unknown is in the folder and not in the database"]


async def test_a_purge_that_was_stopped_between_two_steps_is_gone_on_with(database, storage, monkeypatch):
    monkeypatch.setattr(steps, "_ROWS", 3)
    clock = SettableClock()
    await fill_tenant(storage, clock, MARK)
    made, service = forgetting(storage, RecordingQueue(), clock)
    take, left = made._steps[ReceiptKind.TENANT], [4]

    async def stopped_at_the_fourth(tx, operation, now):
        left[0] -= 1
        if not left[0]:
            raise Conflict("stopped")
        return await take(tx, operation, now)

    made._steps = {ReceiptKind.TENANT: stopped_at_the_fourth}
    with pytest.raises(Conflict):
        await service.purge_tenant(TENANT)
    async with storage.read() as tx:
        queued = await tx.operations.page(TENANT, states=[OperationState.QUEUED], after_id=None, limit=9)
        (operation,) = [one for one in queued if one.kind is OperationKind.PURGE]
    assert MARK in str(await everything(database))
    await receipt_of(service, operation)
    assert MARK not in str(await everything(database))
    async with storage.read() as tx:
        assert (await tx.receipts.get(operation.operation_id)).content["purged"]["events"] == 6


@pytest.mark.parametrize(
    ("caller", "error"),
    [
        (Principal(TENANT, frozenset({KeyScope.WRITE})), Forbidden),
        (Principal(TENANT, frozenset({KeyScope.WRITE}), "bob", bound=True), Forbidden),
        (Principal(TENANT, agent_id="bob", bound=True), Forbidden),
        (Principal(TENANT, session_ids=frozenset({"s"})), Forbidden),
        (Principal("other"), NotFound),
        (Principal(TENANT, frozenset({KeyScope.WRITE}), "ann", bound=True), None),
        (Principal(TENANT, frozenset({KeyScope.ADMIN})), None),
    ],
)
async def test_an_agents_data_is_purged_by_itself_or_an_operator(sqlite, caller, error):
    storage = sqlite.open()
    async with storage.write() as tx:
        await add_memory(tx, MARK, visibility=MemoryVisibility.PRIVATE, agent_id="ann")
    _, service = forgetting(storage, RecordingQueue(), SettableClock())
    if error is not None:
        with pytest.raises(error):
            await service.purge_agent(caller, "ann")
        return
    assert (await receipt_of(service, await service.purge_agent(caller, "ann"))).purged["memories"] == 1


async def test_who_goes_on_appending_meets_a_new_tenant_or_nobody(database, storage, monkeypatch):
    """Never the old one: whatever a purge began with is gone when it ends, and nothing keeps it from its end."""
    monkeypatch.setattr(steps, "_ROWS", 7)
    clock, jobs = SettableClock(), RecordingQueue()
    log = Log(database.open(), jobs, clock, "words", Activity(), LocalNotices())
    outcomes = Counter()

    async def append(session_id, content):
        new = [NewEvent(Role.USER, content)]
        try:
            await log.append(Request(TENANT, session_id, new, [1], None, None, frozenset({None})))
        except (TenantPurged, Retryable) as error:
            outcomes[type(error)] += 1

    async with storage.write() as tx:
        await tx.tenants.secret(TENANT, NOW)
    for n in range(20):
        await append(f"s{n % 4}", f"{MARK} {n}")
    made, service = forgetting(storage, jobs, clock)
    take = made._steps[ReceiptKind.TENANT]

    async def slowly(tx, operation, now):
        await asyncio.sleep(0.01)
        return await take(tx, operation, now)

    made._steps = {ReceiptKind.TENANT: slowly}

    async def purge():
        return await receipt_of(service, await service.purge_tenant(TENANT))

    purging, late = asyncio.create_task(purge()), 0
    while not purging.done():
        await append(f"s{late % 6}", f"late {late}")
        late += 1
    receipt = await purging
    assert MARK not in str(await everything(database))
    assert receipt.purged["events"] >= 20
    assert outcomes[TenantPurged] >= 1
    await append("s0", "a new beginning")
    async with storage.read() as tx:
        session = await tx.sessions.get(TENANT, "s0")
        contents = [event.content for event in await tx.events.page(session.lineage, EVERYONE, limit=999)]
    assert contents[-1] == "a new beginning"
    assert len(contents) == session.last_seq
