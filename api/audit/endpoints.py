"""Who did what to which session: in pages, and whole as NDJSON."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from api.audit.schemas import EntryAnswer, search
from api.deps import App, PageParameters, TenantAdministrator
from api.errors import problems
from api.paging import Page
from memory.domain.audit import Entry, Search

router = APIRouter(prefix="/v1/admin/audit", tags=["audit"])

_LIST = "audit"
_NDJSON = "application/x-ndjson"

Wanted = Annotated[Search, Depends(search)]


@router.get("", summary="Read the audit, newest first", responses=problems())
async def page(app: App, caller: TenantAdministrator, wanted: PageParameters, what: Wanted) -> Page[EntryAnswer]:
    found = await app.audit.page(caller.tenant_id, what, before=wanted.after_number(_LIST), limit=wanted.read)
    return wanted.cut(_LIST, found, EntryAnswer.model_validate, lambda entry: entry.number)


@router.get(
    "/export",
    summary="Export the audit, oldest first, one JSON object a line",
    response_class=StreamingResponse,
    responses={**problems(), 200: {"content": {_NDJSON: {}}, "description": "NDJSON"}},
)
async def export(app: App, caller: TenantAdministrator, what: Wanted) -> StreamingResponse:
    parts = app.audit.export(caller.tenant_id, what)
    first: list[Entry] = await anext(
        parts, []
    )  # a database that is away is answered with a status, not inside the stream
    headers = {"Content-Disposition": 'attachment; filename="audit.ndjson"'}
    return StreamingResponse(_lines(first, parts), media_type=_NDJSON, headers=headers)


async def _lines(first: list[Entry], parts: AsyncIterator[list[Entry]]) -> AsyncIterator[str]:
    yield _text(first)
    async for part in parts:
        yield _text(part)


def _text(part: list[Entry]) -> str:
    return "".join(f"{EntryAnswer.model_validate(entry).model_dump_json()}\n" for entry in part)
