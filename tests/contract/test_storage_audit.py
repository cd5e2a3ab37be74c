"""What every database keeps to about the audit: added, read, removed when it is old, and never changed."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.exc import DBAPIError

from memory.domain.audit import Entry, Search
from tests.services import NOW, TENANT

MINUTE = timedelta(minutes=1)
FULL = Entry(0, TENANT, NOW, "k1", "ann", "sessions.purge", "s", "m", 200, "r")


async def add(storage, *entries):
    async with storage.write() as tx:
        for tenant_id in {entry.tenant_id for entry in entries}:  # of one that is not there nothing is noted
            await tx.tenants.secret(tenant_id, NOW)
        await tx.audit.add(entries)


async def read(storage, search=Search(), tenant_id=TENANT, after=None, limit=99, descending=False):  # noqa: B008
    async with storage.read() as tx:
        return await tx.audit.page(tenant_id, search, after=after, limit=limit, descending=descending)


async def test_entries_are_read_as_they_were_added_and_numbered(storage):
    bare = Entry(0, TENANT, NOW, None, None, "events.append", None, None, 499, None)
    await add(storage, FULL, bare)
    await add(storage)
    found = await read(storage)
    assert [replace(entry, number=0) for entry in found] == [FULL, bare]
    assert 0 < found[0].number < found[1].number


async def test_pages_go_in_either_direction_within_a_tenant(storage):
    await add(storage, *(replace(FULL, subject=f"m{n}") for n in range(5)), replace(FULL, tenant_id="other"))
    for descending, subjects in ((False, ["m0", "m1", "m2", "m3", "m4"]), (True, ["m4", "m3", "m2", "m1", "m0"])):
        seen, after = [], None
        while part := await read(storage, after=after, limit=2, descending=descending):
            seen += [entry.subject for entry in part]
            after = part[-1].number
        assert seen == subjects


@pytest.mark.parametrize(
    ("search", "found"),
    [
        (Search(session_id="s1"), [1]),
        (Search(caller="k1"), [0, 1]),
        (Search(agent_id="bob"), [2]),
        (Search(action="events.append"), [2]),
        (Search(caller="k1", session_id="s"), [0]),
        (Search(since=NOW + MINUTE), [1, 2]),
        (Search(until=NOW + MINUTE), [0]),
        (Search(since=NOW + MINUTE, until=NOW + 2 * MINUTE), [1]),
        (Search(session_id="' OR 1=1 --"), []),
    ],
)
async def test_it_is_searched_by_all_that_it_says(storage, search, found):
    await add(
        storage,
        FULL,
        replace(FULL, session_id="s1", at=NOW + MINUTE),
        replace(FULL, caller=None, agent_id="bob", action="events.append", at=NOW + 2 * MINUTE),
    )
    everything = await read(storage)
    assert await read(storage, search) == [everything[n] for n in found]


async def test_what_is_old_goes(storage):
    await add(storage, FULL, replace(FULL, at=NOW + MINUTE))
    async with storage.write() as tx:
        assert await tx.audit.forget(NOW + MINUTE) == 1
    assert [entry.at for entry in await read(storage)] == [NOW + MINUTE]


async def test_nobody_changes_an_entry_not_even_by_hand(database, storage):
    await add(storage, FULL)
    with pytest.raises(DBAPIError, match="never changed"):
        await database.rows("UPDATE audit SET caller = 'nobody'")
    assert (await read(storage))[0].caller == "k1"


async def test_what_was_noted_of_a_tenant_before_it_was_purged_goes_with_it(storage):
    later = NOW + 5 * MINUTE
    async with storage.write() as tx:
        await tx.tenants.secret(TENANT, NOW)
        await tx.tenants.remove(TENANT, later, keep_secret=True)
        await tx.audit.add([FULL, replace(FULL, at=later, subject="new")])
    assert [entry.subject for entry in await read(storage)] == ["new"]
