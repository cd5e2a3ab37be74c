"""Keys are shown once, stored hashed, and known again at once."""

import asyncio
import hashlib
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from memory.adapters.clock import SystemClock
from memory.domain.errors import InvalidInput, NotFound, StorageUnavailable
from memory.domain.principals import KeyScope
from memory.services.keys import Keys, key_id_of
from tests.services import Database

NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)


@pytest.fixture
def store(make: Any) -> Any:
    return make.store()


@pytest.fixture
def keys(store: Any, make: Any) -> Keys:
    return Keys(store, make.clock())


async def test_a_key_is_known_again_with_all_that_it_allows(keys: Keys) -> None:
    made = await keys.create("acme", [KeyScope.READ], agent_id="ann", session_ids=["s1"])
    assert re.fullmatch(r"sm_[a-z0-9]{12}_[A-Za-z0-9_-]{43}", made.token)
    principal = await keys.authenticate(made.token)
    assert principal is not None
    assert (principal.tenant_id, principal.scopes, principal.key_id) == ("acme", {KeyScope.READ}, made.key.key_id)
    assert (principal.agent_id, principal.bound, principal.session_ids) == ("ann", True, {"s1"})


async def test_only_a_hash_of_the_secret_is_stored(keys: Keys, store: Any) -> None:
    made = await keys.create("acme", [KeyScope.READ])
    secret = made.token[16:]
    stored = store.stored[made.key.key_id]
    assert stored.secret_hash == hashlib.sha256(secret.encode()).digest()
    assert secret not in repr(stored)


@pytest.mark.parametrize(
    "token", ["", "sm_", "sk-openai", "sm_short_secret", "sm_ä", "sm_" + "a" * 12 + "_" + "b" * 43]
)
async def test_what_is_no_key_is_nobody(keys: Keys, token: str) -> None:
    assert await keys.authenticate(token) is None


async def test_the_secret_must_match(keys: Keys) -> None:
    made = await keys.create("acme", [KeyScope.READ])
    other = await keys.create("acme", [KeyScope.READ])
    assert await keys.authenticate(made.token[:16] + other.token[16:]) is None
    assert await keys.authenticate(made.token + "\n") is None


async def test_a_revoked_key_works_for_a_second_at_most(keys: Keys, store: Any, monkeypatch: Any) -> None:
    now = 100.0
    monkeypatch.setattr("memory.services.keys.time.monotonic", lambda: now)
    made = await keys.create("acme", [KeyScope.READ])
    assert await keys.authenticate(made.token)
    reads = store.reads
    store.stored.clear()
    assert await keys.authenticate(made.token)
    assert store.reads == reads
    now += 1.01
    assert await keys.authenticate(made.token) is None


async def test_strangers_can_not_fill_the_cache(keys: Keys) -> None:
    for number in range(50):
        assert await keys.authenticate(f"sm_{number:012d}_{'b' * 43}") is None
    assert len(keys._recent) == 0


async def test_the_cache_is_bounded(keys: Keys, monkeypatch: Any) -> None:
    monkeypatch.setattr("memory.services.keys._CACHE_SIZE", 3)
    for _ in range(5):
        await keys.authenticate((await keys.create("acme", [KeyScope.READ])).token)
    assert len(keys._recent) == 3


async def test_a_key_ends_when_it_says_so(store: Any, make: Any) -> None:
    clock = make.clock()
    keys = Keys(store, clock)
    made = await keys.create("acme", [KeyScope.READ], expires_at=make.noon + timedelta(minutes=1))
    assert await keys.authenticate(made.token)
    assert await keys.any()
    clock.now = lambda: make.noon + timedelta(minutes=1)
    assert await keys.authenticate(made.token) is None  # at once, whatever the cache holds
    assert not await keys.any()


async def test_where_it_is_revoked_a_key_ends_at_once(keys: Keys, store: Any) -> None:
    made = await keys.create("acme", [KeyScope.READ])
    assert await keys.authenticate(made.token)
    revoked = await keys.revoke("acme", made.key.key_id)
    assert revoked.revoked_at is not None
    assert await keys.authenticate(made.token) is None
    assert await keys.revoke("acme", made.key.key_id) == revoked


@pytest.mark.parametrize(("tenant", "key_id"), [("other", None), ("acme", "nokey"), (None, "nokey")])
async def test_only_a_key_of_the_tenant_can_be_revoked(keys: Keys, tenant: str | None, key_id: str | None) -> None:
    made = await keys.create("acme", [KeyScope.READ])
    with pytest.raises(NotFound):
        await keys.revoke(tenant, key_id or made.key.key_id)
    assert await keys.authenticate(made.token)


async def test_a_thousand_uses_are_one_write_and_the_next_minute_another(store: Any, make: Any) -> None:
    clock = make.clock()
    keys = Keys(store, clock)
    made = await keys.create("acme", [KeyScope.READ])
    for _ in range(1_000):
        await keys.authenticate(made.token)
    assert store.used_writes == 0
    await keys.flush()
    await keys.flush()
    assert (store.used_writes, store.stored[made.key.key_id].last_used_at) == (1, make.noon)
    keys._recent.clear()  # a second later
    clock.now = lambda: make.noon + timedelta(seconds=59)
    await keys.authenticate(made.token)
    await keys.flush()
    assert store.used_writes == 1
    clock.now = lambda: make.noon + timedelta(seconds=60)
    await keys.authenticate(made.token)
    await keys.flush()
    assert store.used_writes == 2


async def test_a_use_that_can_not_be_written_is_written_later(keys: Keys, store: Any, make: Any) -> None:
    made = await keys.create("acme", [KeyScope.READ])
    await keys.authenticate(made.token)
    store.failure = StorageUnavailable("away")
    with pytest.raises(StorageUnavailable):
        await keys.flush()
    store.failure = None
    await keys.flush()
    assert store.stored[made.key.key_id].last_used_at == make.noon


async def test_a_wrong_secret_is_no_use(keys: Keys, store: Any) -> None:
    made, other = await keys.create("acme", [KeyScope.READ]), await keys.create("acme", [KeyScope.READ])
    await keys.authenticate(made.token[:16] + other.token[16:])
    await keys.flush()
    assert store.used_writes == 0


@pytest.mark.parametrize("cut", [slice(None), slice(15), slice(3, 15)], ids=["key", "prefix", "id"])
async def test_a_key_is_named_by_whatever_its_owner_has(keys: Keys, cut: slice) -> None:
    made = await keys.create("acme", [KeyScope.READ])
    assert key_id_of(made.token[cut]) == made.key.key_id


async def test_a_revoked_key_ends_within_a_second_in_every_process(database: Database) -> None:
    """Two services over one database, as two API processes are."""
    clock, storages = SystemClock(), (database.open(), database.open())
    here, there = (Keys(storage, clock) for storage in storages)
    made = await here.create("acme", [KeyScope.READ])
    assert await there.authenticate(made.token)
    await here.revoke("acme", made.key.key_id)
    revoked = time.monotonic()
    assert await here.authenticate(made.token) is None
    asked = revoked
    while await there.authenticate(made.token) is not None:
        assert asked - revoked < 1, "asked later than that, and let in"
        await asyncio.sleep(0.02)
        asked = time.monotonic()


@pytest.mark.parametrize(
    "bad",
    [
        {"tenant_id": "no spaces"},
        {"tenant_id": "x" * 129},
        {"scopes": []},
        {"agent_id": ""},
        {"session_ids": ["ok", "\x00"]},
        {"session_ids": [f"s{n}" for n in range(1_001)]},
        {"expires_at": NOON},
    ],
)
async def test_a_key_that_could_never_work_is_not_made(keys: Keys, store: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await keys.create(**{"tenant_id": "acme", "scopes": [KeyScope.READ], **bad})
    assert not await keys.any()
