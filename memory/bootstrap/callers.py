"""Who is let in beside the bearers of our keys, and who counts what callers use?"""

from contextlib import AsyncExitStack

import httpx

from memory.adapters.identity.jwks import IssuerKeys
from memory.adapters.identity.oidc import OidcVerifier
from memory.adapters.identity.settings import OidcSettings
from memory.adapters.quotas.windows import WindowCounter
from memory.ports.identity import TokenVerifier
from memory.services.quotas import Quotas
from memory.services.settings import LimitSettings


def tokens(stack: AsyncExitStack, wanted: OidcSettings) -> TokenVerifier | None:
    """None: no issuer is believed."""
    if wanted.issuer is None:
        return None
    client = httpx.AsyncClient(timeout=wanted.timeout)
    stack.push_async_callback(client.aclose)
    return OidcVerifier(IssuerKeys(client, wanted.issuer, wanted.jwks_url, wanted.keys_for), wanted)


def quotas(stack: AsyncExitStack, wanted: LimitSettings) -> Quotas:
    counter = WindowCounter(wanted.counter_url)
    stack.push_async_callback(counter.close)
    return Quotas(counter, wanted)
