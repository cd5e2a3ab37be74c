"""Context: ready messages within a token budget."""

from fastapi import APIRouter

from api.context.schemas import ContextAnswer, ContextQuery
from api.deps import App, Reader, SessionId, Trailing
from api.errors import problems
from memory.services import access

router = APIRouter(prefix="/v1/sessions/{session_id}", tags=["context"])


@router.post("/context", summary="Build the context of the next request to a model", responses=problems(404))
async def build(app: App, caller: Reader, session_id: SessionId, body: ContextQuery, trail: Trailing) -> ContextAnswer:
    principal = access.act_as(caller, body.agent_id)
    trail.about(session_id, by=principal)
    context = await app.context.build(principal, session_id, body.to_domain())
    return ContextAnswer.of(context)
