"""What every database keeps to about keys."""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from memory.domain.principals import ALL_SCOPES, Key, KeyScope
from tests.services import NOW, TENANT

MINUTE = timedelta(minutes=1)


def key(key_id="k1", **changes):
    made = Key(key_id, TENANT, b"hash", ALL_SCOPES, created_at=NOW)
    return replace(made, **changes)


async def add(storage, *keys):
    async with storage.write() as tx:
        for one in keys:
            await tx.tenants.secret(one.tenant_id, NOW)
            await tx.keys.add(one)


async def ids(storage, tenant_id=TENANT, after=None, limit=9):
    async with storage.read() as tx:
        return [one.key_id for one in await tx.keys.page(tenant_id, after=after, limit=limit)]


@pytest.mark.parametrize(
    "added",
    [
        key(secret_hash=b"\x00\xff"),
        key(scopes=frozenset({KeyScope.READ}), agent_id="ann", session_ids=frozenset({"s1", "s2"})),
        key(scopes=frozenset(), session_ids=frozenset()),
        key(name="Ann's “laptop”", expires_at=NOW + MINUTE),
    ],
    ids=["all", "bound", "nothing", "named"],
)
async def test_a_key_is_read_as_it_was_added(storage, added):
    await add(storage, added)
    async with storage.read() as tx:
        assert await tx.keys.find("k1") == added
        assert await tx.keys.find("k2") is None
        assert await tx.keys.page(TENANT, after=None, limit=9) == [added]


async def test_a_key_needs_its_tenant_and_a_name_of_its_own(storage):
    with pytest.raises(IntegrityError):
        async with storage.write() as tx:
            await tx.keys.add(key())
    await add(storage, key())
    with pytest.raises(IntegrityError):
        await add(storage, key())


async def test_only_a_key_that_lets_somebody_in_counts(storage):
    async def there(now=NOW):
        async with storage.read() as tx:
            return await tx.keys.any(now)

    assert not await there()
    await add(storage, key(expires_at=NOW + MINUTE))
    assert await there()
    assert not await there(NOW + MINUTE)
    await add(storage, key("k2"))
    assert await there(NOW + MINUTE)
    async with storage.write() as tx:
        await tx.keys.revoke("k2", NOW)
    assert not await there(NOW + MINUTE)


async def test_pages_go_from_the_newest_to_the_oldest_within_a_tenant(storage):
    made = [key(f"k{n}", created_at=NOW + MINUTE * (n // 2)) for n in range(5)]
    await add(storage, *made, key("x1", tenant_id="other"))
    assert await ids(storage) == ["k4", "k3", "k2", "k1", "k0"]
    assert await ids(storage, limit=2) == ["k4", "k3"]
    assert await ids(storage, after=made[3], limit=2) == ["k2", "k1"]
    assert await ids(storage, after=made[0]) == []
    assert "x1" in await ids(storage, None)


async def test_the_first_revocation_counts(storage):
    await add(storage, key(), key("k2"))
    for moment in (NOW, NOW + MINUTE):
        async with storage.write() as tx:
            await tx.keys.revoke("k1", moment)
    async with storage.read() as tx:
        revoked, other = await tx.keys.find("k1"), await tx.keys.find("k2")
    assert (revoked.revoked_at, other.revoked_at) == (NOW, None)
    assert not revoked.valid(NOW)


async def test_the_last_use_is_the_latest_that_any_process_knows(storage):
    await add(storage, key(), key("k2"))
    for moments in ({"k1": NOW + MINUTE, "k2": NOW}, {"k1": NOW, "gone": NOW}, {}):
        async with storage.write() as tx:
            await tx.keys.used(moments)
    async with storage.read() as tx:
        assert (await tx.keys.find("k1")).last_used_at == NOW + MINUTE
        assert (await tx.keys.find("k2")).last_used_at == NOW
