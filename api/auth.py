"""Who calls?

Keys are needed on any address but loopback, or everywhere with `auth=required`. Where none is needed, everybody is
the tenant `default` with all scopes, and Bearer values that are not ours are ignored, because many clients always
send one; a key of our own form is always checked, since its owner wants its tenant, and where an issuer is set, so is
a token.
"""

import re
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.security import HTTPBearer

from api.audit.trail import trail_of
from api.meter import spent_by
from api.origins import Whence
from api.values import CLIENT_ID_PATTERN
from memory.bootstrap import Container
from memory.domain.errors import Forbidden, Unauthenticated
from memory.domain.principals import DEFAULT_TENANT, KEY_PREFIX, KeyScope, Principal
from memory.services import access

_HOW_TO = "make one with `stratamem keys create` and send it as `Authorization: Bearer <key>`"
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", re.ASCII)

_ActingAgent = Annotated[
    str | None,
    Header(alias="X-Agent-Id", pattern=CLIENT_ID_PATTERN, description="The agent that acts, where the key names none."),
]


class Requires(HTTPBearer):
    """A dependency: the caller, who has one of these scopes. Raises Unauthenticated, RateLimited and Forbidden."""

    def __init__(self, *scopes: KeyScope) -> None:
        super().__init__(auto_error=False, scheme_name="key", description=f"A key (`sm_…`): {_HOW_TO}.")
        self._scopes = scopes

    async def __call__(  # type: ignore[override]  # what an endpoint gets is the caller, not what the header says
        self, request: Request, acting: _ActingAgent = None
    ) -> Principal:
        bearer = await super().__call__(request)
        token = None if bearer is None else bearer.credentials
        container = request.app.state.container
        principal = await identify(container, token, Whence.of(request.headers))
        await (await spent_by(request)).enter(container, principal)
        trail = await trail_of(request)
        trail.enter(principal, self._scopes, request.method)
        await container.tenants.check(principal.tenant_id)
        access.require(principal, *self._scopes)
        trail.principal = access.act_as(principal, acting)
        return trail.principal


async def identify(container: Container, token: str | None, whence: Whence) -> Principal:
    """Raises Unauthenticated, IdentityUnavailable, and Forbidden for a web page that found a server without keys."""
    needed = container.settings.keys_needed
    if token is not None and container.tokens is not None and _JWT.fullmatch(token):
        named = await container.tokens.verify(token)
        if named is None:
            raise Unauthenticated("this token is not valid here: get a new one from its issuer, for this service")
        return named
    if token is not None and (needed or token.startswith(KEY_PREFIX)):
        principal = await container.keys.authenticate(token)
        if principal is None:
            raise Unauthenticated(f"this key is not valid: {_HOW_TO}")
        return principal
    if needed:
        raise Unauthenticated(f"a key is needed: {_HOW_TO}")
    if whence.foreign:
        raise Forbidden(
            "without a key only this machine's own requests are answered: not those of a page of the web (`Origin`),"
            " nor to a name from the web (`Host`: a page could have its own name point here): use http://127.0.0.1 or a"
            f" key; {_HOW_TO}"
        )
    return Principal(DEFAULT_TENANT)


async def check_still_valid(request: Request) -> None:
    """Of a request that is being answered for long: does its key still hold? Raises Unauthenticated and Forbidden."""
    bearer = await HTTPBearer(auto_error=False)(request)
    token = None if bearer is None else bearer.credentials
    await identify(request.app.state.container, token, Whence.of(request.headers))


Reader = Annotated[Principal, Depends(Requires(KeyScope.READ))]
Writer = Annotated[Principal, Depends(Requires(KeyScope.WRITE))]
Administrator = Annotated[Principal, Depends(Requires(KeyScope.ADMIN))]


async def _of_the_tenant(caller: Administrator) -> Principal:
    access.require_unlimited(caller)
    return caller


TenantAdministrator = Annotated[Principal, Depends(_of_the_tenant)]
