"""Write, read, list, change and purge memories."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api import purges
from api.deps import App, IfMatch, MemoryId, PageParameters, Reader, Spending, Trailing, Writer
from api.errors import problems
from api.memories.schemas import (
    AddedMemories,
    AddedMemory,
    AddMemories,
    ForgetAnswer,
    ForgetMemories,
    MemoryAnswer,
    PatchMemory,
    RestoreMemory,
    SupersedeMemory,
    VersionAnswer,
)
from api.operations.schemas import OperationAnswer
from api.paging import Page
from api.purges import ReceiptAnswer
from api.values import CLIENT_ID_PATTERN
from memory.domain.memories import MemoryKind

router = APIRouter(prefix="/v1/memories", tags=["memories"])

_LIST = "memories"
_IdFilter = Annotated[str | None, Query(pattern=CLIENT_ID_PATTERN)]


@router.post("", status_code=201, summary="Write memories", responses=problems(404, 409))
async def add(
    app: App, caller: Writer, body: AddMemories, response: Response, spent: Spending, trail: Trailing
) -> AddedMemories:
    trail.about(*(memory.session_id for memory in body.memories))
    added = await app.memories.add(caller, body.to_domain())
    spent.tokens(sum(one.memory.token_count for one in added if not one.deduplicated))
    if len(added) == 1:
        response.headers["ETag"] = added[0].memory.etag
        response.headers["Location"] = f"/v1/memories/{added[0].memory.memory_id}"
    return AddedMemories(items=[AddedMemory.of(one) for one in added])


@router.get("", summary="List memories, newest first", responses=problems(404))
async def page(
    app: App,
    caller: Reader,
    wanted: PageParameters,
    session_id: _IdFilter = None,
    kind: MemoryKind | None = None,
    agent_id: _IdFilter = None,
) -> Page[MemoryAnswer]:
    found = await app.memories.page(
        caller,
        after_key=wanted.after_number(_LIST),
        limit=wanted.read,
        session_id=session_id,
        kind=kind,
        agent_id=agent_id,
    )
    return wanted.cut(_LIST, found, MemoryAnswer.model_validate, lambda memory: memory.memory_key)


@router.post("/forget", summary="Show, or purge, what a policy lets go", responses={**problems(), **purges.ACCEPTED})
async def forget(app: App, caller: Writer, body: ForgetMemories, response: Response) -> ForgetAnswer | OperationAnswer:
    policy = body.policy.to_domain()
    if body.dry_run:
        return ForgetAnswer.of(await app.policies.preview(caller, policy), dry_run=True)
    forecast, outcome = await app.policies.forget(caller, policy)
    receipt = purges.answer(outcome, response)
    if isinstance(receipt, OperationAnswer):
        return receipt
    answer = ForgetAnswer.of(forecast, dry_run=False)
    answer.receipt = receipt
    return answer


@router.get("/{memory_id}", summary="Read a memory", responses=problems(404))
async def get(app: App, caller: Reader, memory_id: MemoryId, response: Response) -> MemoryAnswer:
    memory = await app.memories.get(caller, memory_id)
    response.headers["ETag"] = memory.etag
    return MemoryAnswer.model_validate(memory)


@router.patch("/{memory_id}", summary="Change a memory", responses=problems(404, 409, 412))
async def update(
    app: App,
    caller: Writer,
    memory_id: MemoryId,
    body: PatchMemory,
    response: Response,
    spent: Spending,
    if_match: IfMatch = None,
) -> MemoryAnswer:
    changes = body.changes()
    memory = await app.memories.update(caller, memory_id, changes, if_match=if_match)
    spent.tokens(memory.token_count if "text" in changes else 0)
    response.headers["ETag"] = memory.etag
    return MemoryAnswer.model_validate(memory)


@router.get("/{memory_id}/history", summary="Read every version, oldest first", responses=problems(404))
async def history(app: App, caller: Reader, memory_id: MemoryId, wanted: PageParameters) -> Page[VersionAnswer]:
    listing = f"history:{memory_id}"
    found = await app.history.page(caller, memory_id, after_version=wanted.after_number(listing), limit=wanted.read)
    return wanted.cut(listing, found, VersionAnswer.model_validate, lambda version: version.version)


@router.post(
    "/{memory_id}/supersede",
    status_code=201,
    summary="Put a new memory in its place; both are kept",
    responses=problems(404, 409, 412),
)
async def supersede(
    app: App,
    caller: Writer,
    memory_id: MemoryId,
    body: SupersedeMemory,
    response: Response,
    spent: Spending,
    if_match: IfMatch = None,
) -> MemoryAnswer:
    memory = await app.history.supersede(caller, memory_id, body.text, body.reason, if_match=if_match)
    spent.tokens(memory.token_count)
    response.headers["ETag"] = memory.etag
    response.headers["Location"] = f"/v1/memories/{memory.memory_id}"
    return MemoryAnswer.model_validate(memory)


@router.post("/{memory_id}/restore", summary="Undo that something took its place", responses=problems(404, 409, 412))
async def restore(
    app: App,
    caller: Writer,
    memory_id: MemoryId,
    response: Response,
    body: RestoreMemory | None = None,
    if_match: IfMatch = None,
) -> MemoryAnswer:
    reason = None if body is None else body.reason
    memory = await app.history.restore(caller, memory_id, reason, if_match=if_match)
    response.headers["ETag"] = memory.etag
    return MemoryAnswer.model_validate(memory)


@router.delete("/{memory_id}", summary="Purge a memory", responses={**problems(404, 409), **purges.ACCEPTED})
async def purge(app: App, caller: Writer, memory_id: MemoryId, response: Response) -> ReceiptAnswer | OperationAnswer:
    return purges.answer(await app.forgetting.purge_memory(caller, memory_id), response)
