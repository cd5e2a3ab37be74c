"""Tokens of an issuer are let in as what they say; forged, foreign and old ones are not."""

import base64
import hashlib
import hmac
import json
import time
from contextlib import asynccontextmanager

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import ValidationError

from memory.adapters.identity import jwks
from memory.adapters.identity.jwks import IssuerKeys
from memory.adapters.identity.oidc import OidcVerifier
from memory.adapters.identity.settings import OidcSettings
from memory.domain.errors import IdentityUnavailable
from memory.domain.principals import KeyScope, Principal
from tests.unit.memory.adapters.identity.issuer import AUDIENCE, elliptic, issuing


@pytest.fixture
def issuer():
    with issuing() as running:
        yield running


@asynccontextmanager
async def verifying(issuer, lifespan=300.0, timeout=2.0, jwks_url=None, **mapping):
    settings = OidcSettings(issuer=issuer.url, audience=AUDIENCE, leeway=0, **mapping)
    async with httpx.AsyncClient(timeout=timeout) as client:
        yield OidcVerifier(IssuerKeys(client, issuer.url, jwks_url, lifespan), settings)


async def verified(issuer, token, **mapping):
    async with verifying(issuer, **mapping) as verifier:
        return await verifier.verify(token)


def encoded(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


async def test_a_good_token_is_who_it_says(issuer):
    assert await verified(issuer, issuer.token()) == Principal(
        "acme", frozenset({KeyScope.READ, KeyScope.WRITE}), subject="user-1"
    )


async def test_claims_mean_what_the_settings_say(issuer):
    token = issuer.token(org="globex", actor="ann", rooms=["s1", "s2"], roles=["mem-admin", "cook"])
    principal = await verified(
        issuer,
        token,
        tenant_claim="org",
        agent_claim="actor",
        sessions_claim="rooms",
        scopes_claim="roles",
        scope_prefix="mem-",
    )
    assert (principal.tenant_id, principal.scopes) == ("globex", {KeyScope.ADMIN})
    assert (principal.agent_id, principal.bound, principal.session_ids) == ("ann", True, {"s1", "s2"})
    assert (await verified(issuer, issuer.token(tenant_id=None), tenant="fixed")).tenant_id == "fixed"


async def test_other_kinds_of_keys_and_several_audiences_will_do(issuer):
    issuer.add("k2", elliptic(), "ES256")
    assert await verified(issuer, issuer.token("ES256", "k2", aud=["other", AUDIENCE]))


def none_alg(issuer):
    return f"{encoded({'alg': 'none', 'kid': 'k1'})}.{encoded(issuer.claims())}."


def none_with_signature(issuer):
    return f"{encoded({'alg': 'None', 'kid': 'k1'})}.{encoded(issuer.claims())}.{issuer.token().rpartition('.')[2]}"


def hs256_with_the_public_key(issuer):
    """The classic: the verifier's public key taken for a shared secret."""
    signed = f"{encoded({'alg': 'HS256', 'kid': 'k1'})}.{encoded(issuer.claims())}"
    signature = hmac.digest(issuer.public_pem(), signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def another_payload(issuer):
    head, _, signature = issuer.token().split(".")
    return f"{head}.{encoded(issuer.claims(tenant_id='globex'))}.{signature}"


def key_in_the_header(issuer):
    """A token that brings its own key along."""
    mine = rsa.generate_private_key(65_537, 2_048)
    public = json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(mine.public_key()))
    headers = {"kid": "k1", "jwk": public, "jku": f"{issuer.url}/mine"}
    return jwt.encode(issuer.claims(), mine, algorithm="RS256", headers=headers)


@pytest.mark.parametrize(
    "forge",
    [
        none_alg,
        none_with_signature,
        hs256_with_the_public_key,
        another_payload,
        key_in_the_header,
        lambda issuer: issuer.token(key=rsa.generate_private_key(65_537, 2_048)),
        lambda issuer: issuer.token(key_id="k1", algorithm="ES256", key=elliptic()),
        lambda issuer: issuer.token(exp=int(time.time()) - 1),
        lambda issuer: issuer.token(nbf=int(time.time()) + 60),
        lambda issuer: issuer.token(exp=None),
        lambda issuer: issuer.token(aud="another-service"),
        lambda issuer: issuer.token(aud=None),
        lambda issuer: issuer.token(iss="https://evil.example"),
        lambda issuer: issuer.token(iss=issuer.url + "/"),
        lambda issuer: issuer.token(sub=None),
        lambda issuer: issuer.token(tenant_id=None),
        lambda issuer: issuer.token(tenant_id="../acme"),
        lambda issuer: issuer.token(tenant_id=["acme"]),
        lambda issuer: issuer.token(scope={"stratamem:admin": True}),
        lambda issuer: issuer.token(padding="x" * 9_000),
        lambda issuer: "a.b.c",
        lambda issuer: "..",
        lambda issuer: f"{encoded([])}.{encoded([])}.",
    ],
)
async def test_who_is_not_named_by_the_issuer_for_us_now_is_nobody(issuer, forge):
    assert await verified(issuer, forge(issuer)) is None


@pytest.mark.parametrize("changes", [{}, {"actor": ""}, {"actor": 7}, {"actor": "a b"}])
async def test_a_token_without_the_agent_that_binds_it_is_refused(issuer, changes):
    assert await verified(issuer, issuer.token(**changes), agent_claim="actor") is None
    assert await verified(issuer, issuer.token(**changes), sessions_claim="actor") is None


@pytest.mark.parametrize("scope", ["openid", "", "read write admin", "xstratamem:read", []])
async def test_words_of_others_are_no_scopes_of_ours(issuer, scope):
    assert (await verified(issuer, issuer.token(scope=scope))).scopes == frozenset()


async def test_a_subject_that_is_no_plain_name_is_told_apart_by_its_hash(issuer):
    strange = (await verified(issuer, issuer.token(sub="Ann Müller\n"))).subject
    assert strange.startswith("sha256:")
    assert strange != (await verified(issuer, issuer.token(sub="Bob Müller\n"))).subject
    assert Principal("acme", subject=strange).caller_id == f"sub:{strange}"


async def test_keys_are_asked_for_once(issuer):
    async with verifying(issuer) as verifier:
        for _ in range(20):
            assert await verifier.verify(issuer.token())
    assert issuer.asked == 2  # the discovery document and the keys


async def test_an_address_of_the_keys_makes_discovery_needless(issuer):
    async with verifying(issuer, jwks_url=f"{issuer.url}/keys") as verifier:
        assert await verifier.verify(issuer.token())
    assert issuer.asked == 1


async def test_a_new_key_is_found_and_a_stranger_can_not_make_us_ask_for_ever(issuer, monkeypatch):
    async with verifying(issuer) as verifier:
        assert await verifier.verify(issuer.token())
        asked = issuer.asked
        for n in range(50):
            assert await verifier.verify(issuer.token(key_id=f"x{n}", key=issuer.keys["k1"])) is None
        assert issuer.asked == asked
        issuer.add("k2", elliptic(), "ES256")
        monkeypatch.setattr(jwks, "_PAUSE", 0)
        assert await verifier.verify(issuer.token("ES256", "k2"))


async def test_known_keys_are_believed_for_a_while_when_the_issuer_is_away(issuer, monkeypatch):
    monkeypatch.setattr(jwks, "_PAUSE", 0)
    async with verifying(issuer, lifespan=0.01) as verifier:
        token = issuer.token()
        assert await verifier.verify(token)
        issuer.paths.clear()
        assert await verifier.verify(token)
        monkeypatch.setattr(jwks, "_STALE", 0)
        time.sleep(0.02)
        with pytest.raises(IdentityUnavailable):
            await verifier.verify(token)


@pytest.mark.parametrize(
    "answer",
    [None, b"<html>", b"[]", {"keys": []}, {"keys": "k1"}, {"keys": [{"kty": "oct", "kid": "k1", "k": "c2VjcmV0"}]}],
)
async def test_an_issuer_without_usable_keys_lets_nobody_in(issuer, answer):
    issuer.paths["/keys"] = answer
    try:
        assert await verified(issuer, issuer.token()) is None
    except IdentityUnavailable:
        pass  # nothing can be said of the token: try again


async def test_a_document_of_another_issuer_and_one_without_end_are_not_believed(issuer):
    document = "/.well-known/openid-configuration"
    for answer in ({**issuer.paths[document], "issuer": "https://evil.example"}, b" " * (2 << 20)):
        issuer.paths[document] = answer
        with pytest.raises(IdentityUnavailable):
            await verified(issuer, issuer.token())


def test_what_is_set_to_nothing_is_unset():
    assert OidcSettings(issuer="", audience="", jwks_url="", tenant="", agent_claim="", sessions_claim="") == (
        OidcSettings()
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"issuer": "https://id.example"},
        {"issuer": "http://id.example", "audience": "x"},
        {"issuer": "ftp://id.example", "audience": "x"},
        {"issuer": "https://id.example", "audience": "x", "jwks_url": "http://id.example/keys"},
        {"issuer": "https://id.example", "audience": "x", "tenant": "a b"},
    ],
)
def test_settings_that_would_let_in_too_many_are_refused(bad):
    with pytest.raises(ValidationError):
        OidcSettings(**bad)
