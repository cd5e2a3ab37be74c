"""May this caller go on, and what did it use? Requests are counted before, bytes and tokens after."""

from dataclasses import replace

from memory.domain.errors import QuotaExceeded, RateLimited
from memory.domain.principals import Principal
from memory.domain.quotas import Allowance, Holder, Resource, Standing
from memory.ports.quotas import Counter
from memory.ports.storage import UnitOfWork
from memory.services.settings import LimitSettings

_MINUTE, _DAY = 60, 86_400


class Quotas:
    """Without any limit set nothing is counted."""

    def __init__(self, counter: Counter, settings: LimitSettings) -> None:
        self._counter = counter
        self._allowances = _allowances(settings)

    async def admit(self, principal: Principal) -> Standing | None:
        """Counts the request. What is left of the tightest allowance of requests; None: there is none.

        Raises RateLimited when one is used up; then nothing else is counted.
        """
        shown: Standing | None = None
        for allowance, who in self._of(principal):
            if allowance.resource is Resource.REQUESTS:
                standing = await self._counter.add(allowance, who, 1)
                _check(standing, standing.used > allowance.amount)
                shown = standing if shown is None or standing.remaining < shown.remaining else shown
            else:
                standing = await self._counter.look(allowance, who)
                _check(standing, standing.used >= allowance.amount)
        return shown

    async def charge(self, principal: Principal, used: dict[Resource, int]) -> None:
        """Counts what a request turned out to need; the last one may go over the allowance."""
        for allowance, who in self._of(principal):
            if cost := used.get(allowance.resource, 0):
                await self._counter.add(allowance, who, cost)

    async def forget(self, tenant_id: str) -> None:
        """What was counted of a tenant that is gone. What was of its keys ends with its minute or day."""
        for allowance in self._allowances:
            if allowance.holder is Holder.TENANT:
                await self._counter.forget(allowance, tenant_id)

    def _of(self, principal: Principal) -> list[tuple[Allowance, str]]:
        """Those of the caller's key come first: it is told of its own before its tenant's."""
        who = {Holder.KEY: principal.caller_id, Holder.TENANT: principal.tenant_id}
        named = [(allowance, who[allowance.holder]) for allowance in self._allowances]
        return [(allowance, name) for allowance, name in named if name is not None]


class SessionQuota:
    """How many sessions may a tenant have? Checked where one is made, in its transaction.

    Those that are made at the same moment don't see each other: there may be a few more.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most

    async def check(self, tx: UnitOfWork, tenant_id: str) -> None:
        """Before one more is made. Raises QuotaExceeded."""
        if self._most is None:
            return
        if await tx.sessions.count(tenant_id) >= self._most:
            raise QuotaExceeded(f"this tenant may have {self._most:,} sessions and has them: purge one first")


NO_QUOTA = SessionQuota(None)


def _allowances(settings: LimitSettings) -> list[Allowance]:
    set_to = {
        (Holder.KEY, Resource.REQUESTS, _MINUTE): settings.key_requests_per_minute,
        (Holder.KEY, Resource.BYTES, _MINUTE): settings.key_bytes_per_minute,
        (Holder.KEY, Resource.TOKENS, _DAY): settings.key_tokens_per_day,
        (Holder.TENANT, Resource.REQUESTS, _MINUTE): settings.tenant_requests_per_minute,
        (Holder.TENANT, Resource.BYTES, _MINUTE): settings.tenant_bytes_per_minute,
        (Holder.TENANT, Resource.TOKENS, _DAY): settings.tenant_tokens_per_day,
    }
    return [
        Allowance(holder, resource, amount, seconds)
        for (holder, resource, seconds), amount in set_to.items()
        if amount is not None
    ]


def _check(standing: Standing, over: bool) -> None:
    if over:
        used_up = replace(standing, used=max(standing.used, standing.allowance.amount))
        raise RateLimited(used_up)
