"""Context: ready messages within a token budget."""

from fastapi import APIRouter

from api.context.schemas import ContextAnswer, ContextQuery
from api.deps import App, Reader, SessionId
from api.errors import problems
from memory.services import access

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["context"])


@router.post("/context", summary="Build the context of the next request to a model", responses=problems(404))
async def build(app: App, caller: Reader, session_id: SessionId, body: ContextQuery) -> ContextAnswer:
    context = await app.context.build(access.act_as(caller, body.agent_id), session_id, body.to_domain())
    return ContextAnswer.of(context)
