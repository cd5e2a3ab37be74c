"""Who may go on, and who must wait?"""

import pytest

from memory.adapters.quotas.windows import WindowCounter
from memory.domain.errors import QuotaExceeded, RateLimited
from memory.domain.principals import Principal
from memory.domain.quotas import Holder, Resource
from memory.services.quotas import Quotas, SessionQuota
from memory.services.settings import LimitSettings
from tests.services import TENANT, add_session

ANN, BOB, STRANGER = Principal("acme", key_id="ann"), Principal("acme", key_id="bob"), Principal("globex", key_id="x")


def quotas(**limits):
    return Quotas(WindowCounter(None), LimitSettings(**limits))


async def test_without_limits_nobody_waits_and_nothing_is_told():
    free = quotas()
    assert {await free.admit(ANN) for _ in range(9)} == {None}
    await free.charge(ANN, {Resource.TOKENS: 10**9})
    assert await free.admit(ANN) is None


async def test_a_key_that_has_used_up_its_requests_waits_and_others_do_not():
    limited = quotas(key_requests_per_minute=2)
    assert [(await limited.admit(ANN)).remaining for _ in range(2)] == [1, 0]
    with pytest.raises(RateLimited) as refused:
        await limited.admit(ANN)
    assert (refused.value.standing.remaining, refused.value.standing.reset) == (0, 60)
    assert (await limited.admit(BOB)).remaining == 1


async def test_a_tenant_is_the_sum_of_its_keys():
    limited = quotas(tenant_requests_per_minute=3, key_requests_per_minute=2)
    told = [await limited.admit(who) for who in (ANN, BOB, ANN)]
    assert [(s.allowance.holder, s.remaining) for s in told] == [
        (Holder.KEY, 1),
        (Holder.KEY, 1),
        (Holder.KEY, 0),
    ]
    with pytest.raises(RateLimited) as refused:
        await limited.admit(BOB)
    assert refused.value.standing.allowance.holder is Holder.TENANT
    assert (await limited.admit(STRANGER)).remaining == 1


@pytest.mark.parametrize("resource", [Resource.BYTES, Resource.TOKENS])
async def test_what_is_known_afterwards_may_go_over_once_and_is_remembered(resource):
    window = "minute" if resource is Resource.BYTES else "day"
    limited = quotas(**{f"key_{resource}_per_{window}": 100})
    await limited.admit(ANN)
    await limited.charge(ANN, {resource: 99})
    await limited.admit(ANN)
    await limited.charge(ANN, {resource: 500})
    with pytest.raises(RateLimited):
        await limited.admit(ANN)
    await limited.admit(BOB)


async def test_who_needs_no_key_is_counted_as_its_tenant():
    limited = quotas(key_requests_per_minute=1, tenant_requests_per_minute=2)
    for left in (1, 0):
        assert (await limited.admit(Principal("default"))).remaining == left
    with pytest.raises(RateLimited):
        await limited.admit(Principal("default"))


async def test_a_tenant_has_no_more_sessions_than_it_may(storage):
    async with storage.write() as tx:
        await add_session(tx)
        await add_session(tx, tenant_id="other")
        await SessionQuota(2).check(tx, TENANT)
        await SessionQuota(None).check(tx, TENANT)
        with pytest.raises(QuotaExceeded):
            await SessionQuota(1).check(tx, TENANT)
