"""The caller's own tenant: how much there is of it, and its end. All tenants are the command line's."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from api import purges
from api.deps import App, TenantAdministrator
from api.errors import problems
from api.operations.schemas import OperationAnswer
from api.paging import Page
from api.purges import ReceiptAnswer
from api.tenants.schemas import TenantAnswer
from api.values import CLIENT_ID_PATTERN

router = APIRouter(prefix="/v1/admin/tenants", tags=["tenants"])

TenantId = Annotated[str, Path(pattern=CLIENT_ID_PATTERN)]


@router.get("", summary="The caller's tenant with its figures", responses=problems())
async def page(app: App, caller: TenantAdministrator) -> Page[TenantAnswer]:
    return Page(items=[TenantAnswer.of(view) for view in await app.tenants.own(caller)], next_cursor=None)


@router.delete(
    "/{tenant_id}",
    summary="Purge the caller's tenant with all that is kept of it",
    responses={**problems(404), **purges.ACCEPTED},
)
async def purge(
    app: App,
    caller: TenantAdministrator,
    tenant_id: TenantId,
    response: Response,
    confirm: Annotated[str, Query(pattern=CLIENT_ID_PATTERN, description="The tenant_id again.")],
) -> ReceiptAnswer | OperationAnswer:
    """Sessions, memories, indexes, KV, keys and the audit: nothing of it comes back, and its keys are refused (401).

    What stays is the signed receipt; where the answer is 202, `stratamem receipts show` has it when it is written.
    """
    return purges.answer(await app.forgetting.purge_own_tenant(caller, tenant_id, confirm), response)
