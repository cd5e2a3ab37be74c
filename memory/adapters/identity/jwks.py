"""Which keys does an issuer sign with now? Asked for rarely, never by two at once, and kept while it is away."""

import asyncio
import json
import logging
import math
import time
from typing import Any

import httpx
from jwt import PyJWK, PyJWKSet, PyJWTError

from memory.domain.errors import IdentityUnavailable

logger = logging.getLogger(__name__)

_MOST_BYTES = 1 << 20
_PAUSE = 10.0
"""Seconds between two questions that a token of an unknown key, or an issuer that is away, makes us ask."""
_STALE = 3_600.0
"""Seconds that keys are believed while the issuer can't be asked."""


class IssuerKeys:
    """`url` None: the discovery document of `issuer` says where they are."""

    def __init__(self, client: httpx.AsyncClient, issuer: str, url: str | None, lifespan: float) -> None:
        self._client = client
        self._issuer = issuer
        self._url = url
        self._lifespan = lifespan
        self._keys: dict[str | None, PyJWK] = {}
        self._read = self._asked = -math.inf
        self._turn = asyncio.Lock()

    async def get(self, key_id: str | None) -> PyJWK | None:
        """The key of this id, or the only one. Raises IdentityUnavailable."""
        waits = not (self._known(key_id) and self._turn.locked())  # an old key will do while another asks
        if waits and not self._fresh(key_id):
            async with self._turn:
                if not self._fresh(key_id) and time.monotonic() - self._asked >= _PAUSE:
                    await self._refresh()
        if time.monotonic() - self._read > self._lifespan + _STALE:
            raise IdentityUnavailable("the issuer of this token can't be asked for its keys now: try again")
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    def _fresh(self, key_id: str | None) -> bool:
        return self._known(key_id) and time.monotonic() - self._read < self._lifespan

    def _known(self, key_id: str | None) -> bool:
        return key_id in self._keys or (key_id is None and bool(self._keys))

    async def _refresh(self) -> None:
        self._asked = time.monotonic()
        try:
            url = self._url or await self._discovered()
            found = PyJWKSet.from_dict(await self._json(url))
        except (httpx.HTTPError, httpx.InvalidURL, PyJWTError, ValueError, LookupError, RecursionError) as error:
            logger.warning("the keys of the issuer %s can't be read: %s", self._issuer, type(error).__name__)
            return
        # A symmetric key is nobody's to publish: whoever read it could sign.
        self._keys = {key.key_id: key for key in found if key.key_type != "oct" and key.public_key_use in (None, "sig")}
        self._read = time.monotonic()

    async def _discovered(self) -> str:
        document = await self._json(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if document["issuer"] != self._issuer:
            raise ValueError("another issuer's document")
        url = document["jwks_uri"]
        if httpx.URL(url).scheme != httpx.URL(self._issuer).scheme:
            raise ValueError("keys of a safe issuer come the safe way")
        return str(url)

    async def _json(self, url: str) -> dict[str, Any]:
        body = b""
        async with self._client.stream("GET", url) as answer:
            answer.raise_for_status()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise ValueError("more than a megabyte")
        found = json.loads(body)
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
        return found
