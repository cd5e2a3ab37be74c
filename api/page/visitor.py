"""Who looks at the page, and what may he do? Asked again for every load and every action, as for every request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.auth import identify
from api.origins import Whence
from api.page.signins import SignIns
from memory.bootstrap import Container
from memory.domain.errors import StratamemError, Unauthenticated
from memory.domain.principals import KeyScope, Principal
from memory.services import access

_DONE = 200
_FORBIDDEN = 403
_FAILED = 500


@dataclass(slots=True)
class Act:
    """What is done, for the audit: as over REST, by ids alone."""

    who: Principal
    session_id: str | None = None
    subject: str | None = None


@dataclass(frozen=True, slots=True)
class Visitor:
    """`signed`: what the browser's cookie says; None: it has none, which is enough where no key is needed."""

    container: Container
    whence: Whence
    signins: SignIns
    signed: str | None
    request_id: str | None = None

    async def principal(self, *scopes: KeyScope) -> Principal:
        """Who has `admin` and these scopes. Raises Unauthenticated, Forbidden, IdentityUnavailable."""
        who = await self._identified()
        for scope in (KeyScope.ADMIN, *scopes):
            access.require(who, scope)
        return who

    async def reads(self) -> bool:
        """Whether content may be shown."""
        return KeyScope.READ in (await self.principal()).scopes

    @asynccontextmanager
    async def act(
        self,
        action: str,
        *scopes: KeyScope,
        session_id: str | None = None,
        subject: str | None = None,
        looks: bool = False,
    ) -> AsyncIterator[Act]:
        """Counts and notes what is done within, by the name that it has over REST. `looks`: nothing changes.

        Raises as `principal`, and RateLimited.
        """
        who = await self._identified()
        act = Act(who, session_id, subject)
        status = _FAILED
        try:
            await self.container.quotas.admit(who)
            for scope in (KeyScope.ADMIN, *scopes):
                access.require(who, scope)
            yield act
            status = _DONE
        except StratamemError as error:
            status = error.status
            raise
        finally:
            await self._note(action, act, status, looks)

    async def _identified(self) -> Principal:
        token = None if self.signed is None else self.signins.token(self.signed)
        if self.signed is not None and token is None:
            raise Unauthenticated("signed out: sign in again")
        return await identify(self.container, token, self.whence)

    async def _note(self, action: str, act: Act, status: int, looks: bool) -> None:
        """What was done, what may have been done, and what was not allowed."""
        done = (self.container.settings.audit.reads or not looks) and (status < 400 or status >= _FAILED)
        if not done and status != _FORBIDDEN:
            return
        self.container.audit.note(
            act.who.tenant_id,
            action,
            status,
            caller=act.who.caller_id,
            agent_id=act.who.agent_id,
            session_ids=() if act.session_id is None else (act.session_id,),
            subject=act.subject,
            request_id=self.request_id,
        )
        if not looks:
            await self.container.audit.settle()
