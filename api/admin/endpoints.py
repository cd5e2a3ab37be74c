"""What operators look at."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from api.admin.schemas import BlockMoveAnswer, JobAnswer, JobPage, MoveAnswer, PreviewAnswer, PreviewEvictions
from api.deps import Administrator, App, PageParameters, SessionId
from api.errors import problems
from api.operations.schemas import OperationAnswer
from api.paging import Page
from api.purges import LOCATION
from api.values import CLIENT_ID_PATTERN
from memory.domain.operations import IndexName, Operation, OperationKind

router = APIRouter(prefix="/v1/admin", tags=["admin"])

_EVICTIONS = "evictions"
_JOBS = "jobs"


@router.get("/overview", summary="Sizes, queues and rates", responses=problems())
async def overview(app: App, caller: Administrator) -> dict[str, Any]:
    return await app.admin.overview(caller)


@router.get("/tiers", summary="What each tier holds", responses=problems())
async def tiers(app: App, caller: Administrator) -> Page[dict[str, Any]]:
    return Page(items=await app.admin.tiers(caller), next_cursor=None)


@router.get("/sessions/{session_id}/tiers", summary="What each tier holds of a session", responses=problems(404))
async def session_tiers(app: App, caller: Administrator, session_id: SessionId) -> dict[str, Any]:
    return await app.admin.session_tiers(caller, session_id)


@router.get("/jobs", summary="Background work, newest first", responses=problems())
async def jobs(app: App, caller: Administrator, wanted: PageParameters) -> JobPage:
    found = await app.admin.jobs(caller, after_id=wanted.after_id(_JOBS), limit=wanted.read)
    page = wanted.cut(_JOBS, found.newest, JobAnswer.model_validate, lambda operation: operation.operation_id)
    return JobPage(items=page.items, next_cursor=page.next_cursor, counts=found.counts)


@router.get("/evictions", summary="What left which tier, newest first", responses=problems(404))
async def evictions(
    app: App,
    caller: Administrator,
    wanted: PageParameters,
    session_id: Annotated[str | None, Query(pattern=CLIENT_ID_PATTERN)] = None,
) -> Page[MoveAnswer]:
    before = wanted.after_number(_EVICTIONS)
    found = await app.evictions.page(caller, session_id, before_key=before, limit=wanted.read)
    return wanted.cut(_EVICTIONS, found, MoveAnswer.of, lambda move: move.move_key)


@router.get("/evictions/blocks", summary="The latest moves of KV blocks, as the runtime tells", responses=problems(503))
async def block_moves(app: App, caller: Administrator) -> Page[BlockMoveAnswer]:
    """Blocks are found by content and belong to no session; earlier moves are only counted, in `/metrics`."""
    found = await app.evictions.blocks(caller)
    return Page(items=[BlockMoveAnswer.model_validate(move) for move in found], next_cursor=None)


@router.post("/evictions/preview", summary="What would leave a tier now, and why", responses=problems(404))
async def preview(app: App, caller: Administrator, body: PreviewEvictions) -> PreviewAnswer:
    return PreviewAnswer.model_validate(await app.evictions.preview(caller, body.to_domain()))


@router.get("/codecs", summary="Codebooks, and what they keep of the vectors of cold segments", responses=problems())
async def codecs(app: App, caller: Administrator) -> dict[str, Any]:
    return await app.codecs.overview(caller)


@router.post("/codecs/train", status_code=202, summary="Train and code what is due", responses=problems(409))
async def train(app: App, caller: Administrator, response: Response) -> OperationAnswer:
    operation = await app.codecs.train(caller)
    return _accepted(operation, response)


@router.get("/embedder", summary="Which embedding model serves, and what is left of a change", responses=problems())
async def embedder(app: App, caller: Administrator) -> dict[str, Any]:
    return await app.reembedding.overview(caller)


_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"description": "The operation, whose result says what it covered", "headers": {"Location": LOCATION}}
}


@router.post(
    "/indexes/{name}/rebuild",
    status_code=202,
    summary="Make an index anew while it serves",
    responses=_ACCEPTED | problems(),
)
async def rebuild(app: App, caller: Administrator, name: IndexName, response: Response) -> OperationAnswer:
    """From the database, without embedding. `vectors` and `lexical` are those of the process that answers."""
    return _accepted(await app.indexes.request(caller, OperationKind.REBUILD, name), response)


@router.post(
    "/indexes/{name}/verify",
    status_code=202,
    summary="Compare an index with the database",
    responses=_ACCEPTED | problems(),
)
async def verify(app: App, caller: Administrator, name: IndexName, response: Response) -> OperationAnswer:
    """The operation's result has `sound` and the `problems`. `vectors` and `lexical` as in `rebuild`."""
    return _accepted(await app.indexes.request(caller, OperationKind.VERIFY, name), response)


@router.post(
    "/embedder/reembed",
    status_code=202,
    summary="Embed everything anew with the configured model while the former one serves",
    responses=_ACCEPTED | problems(409),
)
async def reembed(app: App, caller: Administrator, response: Response) -> OperationAnswer:
    """Begins by itself when a process starts with another model; this begins it again after it has failed."""
    return _accepted(await app.reembedding.request(caller), response)


def _accepted(operation: Operation, response: Response) -> OperationAnswer:
    response.headers["Location"] = f"/v1/operations/{operation.operation_id}"
    return OperationAnswer.model_validate(operation)
