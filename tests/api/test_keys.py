"""Keys are shown once, stored hashed, and known again at once."""

import hashlib
import re
from typing import Any

import pytest

from memory.domain.errors import InvalidInput
from memory.domain.principals import KeyScope
from memory.services.keys import Keys


@pytest.fixture
def store(make: Any) -> Any:
    return make.store()


@pytest.fixture
def keys(store: Any, make: Any) -> Keys:
    return Keys(store, store, make.clock())


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


@pytest.mark.parametrize(
    "bad",
    [
        {"tenant_id": "no spaces"},
        {"tenant_id": "x" * 129},
        {"scopes": []},
        {"agent_id": ""},
        {"session_ids": ["ok", "\x00"]},
    ],
)
async def test_a_key_that_could_never_work_is_not_made(keys: Keys, store: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        await keys.create(**{"tenant_id": "acme", "scopes": [KeyScope.READ], **bad})
    assert not await keys.any()
