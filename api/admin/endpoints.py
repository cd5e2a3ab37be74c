"""What operators look at."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.deps import Administrator, App, SessionId
from api.errors import problems
from api.operations.schemas import OperationAnswer
from api.paging import Page

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
    response.headers["Location"] = f"/v1/operations/{operation.operation_id}"
    return OperationAnswer.model_validate(operation)
