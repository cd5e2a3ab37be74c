"""Make, list and revoke the keys of a tenant."""

from fastapi import APIRouter, Response

from api.deps import App, KeyId, PageParameters, TenantAdministrator, Trailing
from api.errors import problems
from api.keys.schemas import CreateKey, KeyAnswer, NewKeyAnswer
from api.paging import Page

router = APIRouter(prefix="/v1/admin/keys", tags=["keys"])

_LIST = "keys"


@router.post("", status_code=201, summary="Make a key; it is shown this once", responses=problems())
async def create(
    app: App, caller: TenantAdministrator, body: CreateKey, response: Response, trail: Trailing
) -> NewKeyAnswer:
    made = await app.keys.create(
        caller.tenant_id,
        body.scopes,
        agent_id=body.agent_id,
        session_ids=body.session_ids,
        name=body.name,
        expires_at=body.expires_at,
    )
    trail.about(subject=made.key.key_id)
    response.headers["Cache-Control"] = "no-store"
    return NewKeyAnswer.made(made)


@router.get("", summary="List keys, newest first, the revoked and the expired with them", responses=problems())
async def page(app: App, caller: TenantAdministrator, wanted: PageParameters) -> Page[KeyAnswer]:
    found = await app.keys.page(caller.tenant_id, after_id=wanted.after_id(_LIST), limit=wanted.read)
    return wanted.cut(_LIST, found, KeyAnswer.of, lambda key: key.key_id)


@router.delete("/{key_id}", summary="Revoke a key: it stays listed and lets nobody in", responses=problems(404))
async def revoke(app: App, caller: TenantAdministrator, key_id: KeyId) -> KeyAnswer:
    """It ends at once in the process that answers, within a second in the others."""
    return KeyAnswer.of(await app.keys.revoke(caller.tenant_id, key_id))
