"""Make keys, list and revoke them, and know their bearers again.

A key is `sm_<key_id>_<secret>`. Only the SHA-256 of its secret is stored: with 256 random bits there is nothing to
guess, so a slow password hash would only cost time.
"""

import asyncio
import hashlib
import hmac
import re
import secrets as random
import string
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from memory.domain.errors import InvalidInput, NotFound
from memory.domain.ids import CLIENT_ID
from memory.domain.principals import KEY_PREFIX, Key, KeyScope, Principal
from memory.ports.jobs import Clock
from memory.ports.storage import Storage

MOST_SESSIONS = 1_000
"""That one key can be bound to."""

_TOKEN = re.compile(r"sm_([a-z0-9]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_KEY_ID_ALPHABET = string.ascii_lowercase + string.digits
_CACHE_SECONDS = 1.0
_CACHE_SIZE = 1_024
_NOBODY = hashlib.sha256(b"no such key").digest()
_USED_AGAIN = timedelta(minutes=1)
"""A key's last use is written once in so long: at a thousand requests a second as at one."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """`token` is shown to its owner once; it can't be had again."""

    key: Key
    token: str


class Keys:
    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._recent: OrderedDict[str, tuple[float, Key]] = OrderedDict()
        self._used: dict[str, datetime] = {}
        self._flushing = asyncio.Lock()

    async def create(
        self,
        tenant_id: str,
        scopes: Iterable[KeyScope],
        *,
        agent_id: str | None = None,
        session_ids: Iterable[str] | None = None,
        name: str | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """A new key of this tenant, which is made when it is new. Raises InvalidInput."""
        sessions = None if session_ids is None else frozenset(session_ids)
        granted = frozenset(KeyScope(scope) for scope in scopes)
        _check_ids(tenant_id, *(() if agent_id is None else (agent_id,)), *(sessions or ()))
        now = self._clock.now()
        _check_use(granted, sessions, expires_at, now)
        secret = random.token_urlsafe(32)
        key = Key(
            "".join(random.choice(_KEY_ID_ALPHABET) for _ in range(12)),
            tenant_id,
            _hash(secret),
            granted,
            agent_id,
            sessions,
            name,
            created_at=now,
            expires_at=expires_at,
        )
        async with self._storage.write() as tx:
            await tx.tenants.secret(tenant_id, now)
            await tx.keys.add(key)
        return NewKey(key, f"{key.prefix}_{secret}")

    async def page(self, tenant_id: str | None, *, after_id: str | None, limit: int) -> list[Key]:
        """Newest first, the revoked and the expired with them. `tenant_id` None: of all tenants."""
        async with self._storage.read() as tx:
            after = None if after_id is None else await tx.keys.find(after_id)
            return await tx.keys.page(tenant_id, after=after, limit=limit)

    async def revoke(self, tenant_id: str | None, key_id: str) -> Key:
        """It is let in no more: here at once, in other processes within a second. A repeat changes nothing.

        `tenant_id` None: whosever it is. Raises NotFound.
        """
        async with self._storage.write() as tx:
            found = await tx.keys.find(key_id)
            if found is None or tenant_id not in (None, found.tenant_id):
                raise NotFound(f"there is no key '{key_id}'")
            await tx.keys.revoke(key_id, self._clock.now())
            revoked = await tx.keys.find(key_id)
        self._recent.pop(key_id, None)
        assert revoked is not None
        return revoked

    async def authenticate(self, token: str) -> Principal | None:
        """Whose key this is; None for anything that is not a valid key. Raises StorageUnavailable.

        An unknown key costs the same comparison as a known one. A revoked key works for one more second at most.
        """
        parts = _TOKEN.fullmatch(token)
        if parts is None:
            return None
        key = await self._find(parts[1])
        stored = _NOBODY if key is None else key.secret_hash
        matches = hmac.compare_digest(_hash(parts[2]), stored)
        now = self._clock.now()
        if not matches or key is None or not key.valid(now):
            return None
        if key.last_used_at is None or now - key.last_used_at >= _USED_AGAIN:
            self._used[key.key_id] = now
        return _principal(key)

    async def any(self) -> bool:
        """Whether there is a key that lets somebody in."""
        async with self._storage.read() as tx:
            return await tx.keys.any(self._clock.now())

    async def flush(self) -> None:
        """Writes when keys were last used; what can't be written is kept for the next time."""
        async with self._flushing:
            if not self._used:
                return
            written, self._used = self._used, {}
            try:
                async with self._storage.write() as tx:
                    await tx.keys.used(written)
            except BaseException:
                self._used = written | self._used
                raise

    async def _find(self, key_id: str) -> Key | None:
        now = time.monotonic()
        recent = self._recent.get(key_id)
        if recent is not None and recent[0] > now:
            return recent[1]
        async with self._storage.read() as tx:
            key = await tx.keys.find(key_id)
        self._recent.pop(key_id, None)
        if key is not None:  # unknown ids are not kept: a stranger could fill the cache with them
            self._recent[key_id] = (now + _CACHE_SECONDS, key)
            if len(self._recent) > _CACHE_SIZE:
                self._recent.popitem(last=False)
        return key


def key_id_of(text: str) -> str:
    """Of a key_id, of what a key begins with, or of a whole key: whatever its owner has at hand."""
    parts = _TOKEN.fullmatch(text)
    return parts[1] if parts is not None else text.removeprefix(KEY_PREFIX)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _principal(key: Key) -> Principal:
    return Principal(
        tenant_id=key.tenant_id,
        scopes=key.scopes,
        agent_id=key.agent_id,
        bound=key.agent_id is not None,
        session_ids=key.session_ids,
        key_id=key.key_id,
    )


def _check_ids(*ids: str) -> None:
    for name in ids:
        if not CLIENT_ID.fullmatch(name):
            raise InvalidInput(f"not an id: {name!r}; 1 to 128 characters of A-Z a-z 0-9 . _ : -")


def _check_use(
    scopes: frozenset[KeyScope], sessions: frozenset[str] | None, expires_at: datetime | None, now: datetime
) -> None:
    if not scopes:
        raise InvalidInput(f"a key needs at least one scope of: {', '.join(KeyScope)}")
    if sessions is not None and len(sessions) > MOST_SESSIONS:
        raise InvalidInput(f"a key can be bound to at most {MOST_SESSIONS:,} sessions")
    if expires_at is not None and expires_at <= now:
        raise InvalidInput("expires_at is over already")
