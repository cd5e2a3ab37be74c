"""What is done on the page is counted, allowed and noted as over REST."""

from typing import Any

import pytest

from api.origins import Whence
from api.page.signins import SignIns
from api.page.visitor import Visitor
from memory.domain.errors import Forbidden, NotFound, RateLimited, Unauthenticated
from memory.domain.principals import KeyScope
from memory.services.settings import AuditSettings, LimitSettings
from memory.settings import AuthMode


@pytest.fixture
def shut(container: Any, make: Any) -> Any:
    limits = LimitSettings(key_requests_per_minute=3)
    return make.container(container.settings.model_copy(update={"auth": AuthMode.REQUIRED, "limits": limits}))


async def visitor(container: Any, *scopes: KeyScope) -> tuple[Visitor, str]:
    made = await container.keys.create("acme", scopes)
    signins = SignIns()
    return Visitor(container, Whence("127.0.0.1"), signins, signins.keep(made.token), "r-1"), made.key.key_id


async def noted(container: Any) -> list[tuple[str, int, str | None, str | None]]:
    await container.audit.settle()
    return [(e.action, e.status, e.session_id, e.subject) for e in container.trail.entries]


async def test_what_changes_something_is_noted_and_who_only_looks_is_not(shut: Any) -> None:
    someone, key_id = await visitor(shut, KeyScope.ADMIN, KeyScope.READ)
    async with someone.act("keys.create") as act:
        act.subject = "new"
    async with someone.act("events.page", KeyScope.READ, session_id="s", looks=True):
        pass
    assert await noted(shut) == [("keys.create", 200, None, "new")]
    (entry,) = shut.trail.entries
    assert (entry.tenant_id, entry.caller, entry.request_id) == ("acme", key_id, "r-1")


async def test_who_only_looks_is_noted_where_reads_are(container: Any, make: Any) -> None:
    settings = container.settings.model_copy(update={"audit": AuditSettings(reads=True)})
    curious = make.container(settings)
    someone, _ = await visitor(curious, KeyScope.ADMIN)
    async with someone.act("admin.session_tiers", session_id="s", looks=True):
        pass
    assert await noted(curious) == [("admin.session_tiers", 200, "s", None)]


async def test_what_is_not_allowed_is_noted_and_what_fails_by_itself_is_not(shut: Any) -> None:
    someone, _ = await visitor(shut, KeyScope.ADMIN)
    with pytest.raises(Forbidden, match="'read'"):
        async with someone.act("recall.recall", KeyScope.READ, looks=True):
            raise AssertionError("it was let in")
    with pytest.raises(NotFound):
        async with someone.act("keys.revoke", subject="absent"):
            raise NotFound("there is no key 'absent'")
    assert await noted(shut) == [("recall.recall", 403, None, None)]
    assert not await someone.reads()


async def test_what_broke_on_the_way_may_have_been_done(shut: Any) -> None:
    someone, _ = await visitor(shut, KeyScope.ADMIN)
    with pytest.raises(ZeroDivisionError):
        async with someone.act("keys.create"):
            raise ZeroDivisionError
    assert await noted(shut) == [("keys.create", 500, None, None)]


async def test_actions_count_as_requests(shut: Any) -> None:
    someone, _ = await visitor(shut, KeyScope.ADMIN)
    for _ in range(3):
        async with someone.act("admin.verify"):
            pass
    with pytest.raises(RateLimited):
        async with someone.act("admin.verify"):
            raise AssertionError("it was let in")


async def test_a_revoked_key_and_a_sign_out_end_it(shut: Any) -> None:
    someone, key_id = await visitor(shut, KeyScope.ADMIN)
    assert (await someone.principal()).key_id == key_id
    await shut.keys.revoke("acme", key_id)
    with pytest.raises(Unauthenticated, match="not valid"):
        await someone.principal()
    other, _ = await visitor(shut, KeyScope.ADMIN)
    assert other.signed is not None
    other.signins.forget(other.signed)
    with pytest.raises(Unauthenticated, match="sign in again"):
        await other.principal()


async def test_a_reader_is_no_operator(shut: Any) -> None:
    someone, _ = await visitor(shut, KeyScope.READ, KeyScope.WRITE)
    with pytest.raises(Forbidden, match="'admin'"):
        await someone.principal()
