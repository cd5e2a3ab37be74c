"""What operators look at."""

from typing import Any

from fastapi import APIRouter, Response

from api.deps import Administrator, App, SessionId
from api.errors import problems
from api.operations.schemas import OperationAnswer
from api.paging import Page
from api.purges import LOCATION
from memory.domain.operations import IndexName, Operation, OperationKind

router = APIRouter(prefix="/v1/admin", tags=["admin"])


@router.get("/overview", summary="Sizes, queues and rates", responses=problems())
async def overview(app: App, caller: Administrator) -> dict[str, Any]:
    return await app.admin.overview(caller)


@router.get("/tiers", summary="What each tier holds", responses=problems())
async def tiers(app: App, caller: Administrator) -> Page[dict[str, Any]]:
    return Page(items=await app.admin.tiers(caller), next_cursor=None)


@router.get("/sessions/{session_id}/tiers", summary="What each tier holds of a session", responses=problems(404))
async def session_tiers(app: App, caller: Administrator, session_id: SessionId) -> dict[str, Any]:
    return await app.admin.session_tiers(caller, session_id)


@router.get("/jobs", summary="Background work", responses=problems())
async def jobs(app: App, caller: Administrator) -> dict[str, Any]:
    return await app.admin.jobs(caller)


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
