"""Make keys, and know their bearers again.

A key is `sm_<key_id>_<secret>`. Only the SHA-256 of its secret is stored: with 256 random bits there is nothing to
guess, so a slow password hash would only cost time.
"""

import hashlib
import hmac
import re
import secrets as random
import string
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from memory.domain.errors import InvalidInput
from memory.domain.ids import CLIENT_ID
from memory.domain.principals import Key, KeyScope, Principal
from memory.ports.jobs import Clock
from memory.ports.storage import Storage
from memory.services.secrets import TenantSecrets

PREFIX = "sm_"
"""What our own keys begin with; other Bearer values are not ours."""

_TOKEN = re.compile(r"sm_([a-z0-9]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_KEY_ID_ALPHABET = string.ascii_lowercase + string.digits
_CACHE_SECONDS = 1.0
_CACHE_SIZE = 1_024
_NOBODY = hashlib.sha256(b"no such key").digest()


@dataclass(frozen=True, slots=True)
class NewKey:
    """`token` is shown to its owner once; it can't be had again."""

    key: Key
    token: str


class Keys:
    def __init__(self, storage: Storage, secrets: TenantSecrets, clock: Clock) -> None:
        self._storage = storage
        self._secrets = secrets
        self._clock = clock
        self._recent: OrderedDict[str, tuple[float, Key]] = OrderedDict()

    async def create(
        self,
        tenant_id: str,
        scopes: Iterable[KeyScope],
        *,
        agent_id: str | None = None,
        session_ids: Iterable[str] | None = None,
    ) -> NewKey:
        """A new key of this tenant, which is made when it is new. Raises InvalidInput."""
        sessions = None if session_ids is None else frozenset(session_ids)
        granted = frozenset(KeyScope(scope) for scope in scopes)
        _check_ids(tenant_id, *(() if agent_id is None else (agent_id,)), *(sessions or ()))
        if not granted:
            raise InvalidInput(f"a key needs at least one scope of: {', '.join(KeyScope)}")
        key_id = "".join(random.choice(_KEY_ID_ALPHABET) for _ in range(12))
        secret = random.token_urlsafe(32)
        key = Key(key_id, tenant_id, _hash(secret), granted, agent_id, sessions)
        await self._secrets.of(tenant_id)
        async with self._storage.write() as tx:
            await tx.keys.add(key, self._clock.now())
        return NewKey(key, f"{PREFIX}{key_id}_{secret}")

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
        return _principal(key) if matches and key is not None else None

    async def any(self) -> bool:
        """Whether there is a key at all."""
        async with self._storage.read() as tx:
            return await tx.keys.any()

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
