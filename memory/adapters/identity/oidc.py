"""Whom does a token of an OpenID Connect provider name? Signature, issuer, audience and time are checked by PyJWT."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import jwt

from memory.adapters.identity.jwks import IssuerKeys
from memory.adapters.identity.settings import OidcSettings
from memory.domain.ids import CLIENT_ID
from memory.domain.principals import KeyScope, Principal

_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Only those with a public key: with `none` anybody signs, with HS256 whoever knows the public key."""
_MOST_CHARACTERS = 8_192
_MOST_SESSIONS = 1_000
_REQUIRED = ["exp", "iss", "aud", "sub"]
_PLAIN_SUBJECT = re.compile(r"[A-Za-z0-9._:|@/\-]{1,120}", re.ASCII)


class OidcVerifier:
    def __init__(self, keys: IssuerKeys, settings: OidcSettings) -> None:
        self._keys = keys
        self._settings = settings

    async def verify(self, token: str) -> Principal | None:
        if len(token) > _MOST_CHARACTERS:
            return None
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in _ALGORITHMS:
                return None
            key = await self._keys.get(header.get("kid"))
            return None if key is None else self._principal(self._checked(token, key))
        except (jwt.PyJWTError, _Unusable, RecursionError, OverflowError):
            return None

    def _checked(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=_ALGORITHMS,
            audience=self._settings.audience,
            issuer=self._settings.issuer,
            leeway=self._settings.leeway,
            options={"require": _REQUIRED},
        )

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        wanted = self._settings
        agent_id = None if wanted.agent_claim is None else _id(claims.get(wanted.agent_claim))
        return Principal(
            tenant_id=wanted.tenant or _id(claims.get(wanted.tenant_claim)),
            scopes=_scopes(claims.get(wanted.scopes_claim), wanted.scope_prefix),
            agent_id=agent_id,
            bound=agent_id is not None,
            session_ids=None if wanted.sessions_claim is None else _ids(claims.get(wanted.sessions_claim)),
            subject=_subject(claims["sub"]),
        )


class _Unusable(Exception):
    """A claim that is missing or of another shape than its mapping needs: in doubt nobody comes in."""


def _id(claim: object) -> str:
    if not isinstance(claim, str) or not CLIENT_ID.fullmatch(claim):
        raise _Unusable
    return claim


def _ids(claim: object) -> frozenset[str]:
    if not isinstance(claim, list) or len(claim) > _MOST_SESSIONS:
        raise _Unusable
    return frozenset(map(_id, claim))


def _scopes(claim: object, prefix: str) -> frozenset[KeyScope]:
    """Words of others are not ours; without any of ours the bearer may do nothing."""
    words = claim.split() if isinstance(claim, str) else claim
    if not isinstance(words, list):
        raise _Unusable
    names = {str(word).removeprefix(prefix) for word in words if str(word).startswith(prefix)}
    return frozenset(scope for scope in KeyScope if scope in names)


def _subject(subject: str) -> str:
    """Plain ones stay readable in the audit; of others the hash tells them apart."""
    if _PLAIN_SUBJECT.fullmatch(subject):
        return subject
    return "sha256:" + hashlib.sha256(subject.encode("utf-8", "surrogatepass")).hexdigest()
