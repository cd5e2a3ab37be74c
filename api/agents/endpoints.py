"""Who takes part in a session?"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from api.agents.schemas import AgentAnswer, PutAgent
from api.auth import Requires
from api.deps import App, PageParameters, SessionId
from api.errors import problems
from api.paging import Page
from api.values import CLIENT_ID_PATTERN
from memory.domain.principals import KeyScope, Principal

router = APIRouter(prefix="/v1/sessions/{session_id}/agents", tags=["agents"])

AgentId = Annotated[str, Path(pattern=CLIENT_ID_PATTERN)]
Participant = Annotated[Principal, Depends(Requires(KeyScope.READ, KeyScope.ADMIN))]
Manager = Annotated[Principal, Depends(Requires(KeyScope.WRITE, KeyScope.ADMIN))]
"""The scope `admin`, or an owner that may write."""


@router.put(
    "/{agent_id}",
    summary="List an agent, or change its role; the first one closes the session to all who are not listed",
    responses=problems(404, 413),
)
async def put(app: App, caller: Manager, session_id: SessionId, agent_id: AgentId, body: PutAgent) -> AgentAnswer:
    return AgentAnswer.model_validate(await app.agents.put(caller, session_id, agent_id, body.role))


@router.get("", summary="List a session's agents", responses=problems(404))
async def page(app: App, caller: Participant, session_id: SessionId, wanted: PageParameters) -> Page[AgentAnswer]:
    listing = f"agents.{session_id}"
    found = await app.agents.page(caller, session_id, after=wanted.after_id(listing), limit=wanted.read)
    return wanted.cut(listing, found, AgentAnswer.model_validate, lambda agent: agent.agent_id)


@router.delete(
    "/{agent_id}",
    status_code=204,
    summary="Remove an agent; the session stays closed, also when nobody is left",
    responses=problems(404),
)
async def remove(app: App, caller: Manager, session_id: SessionId, agent_id: AgentId) -> Response:
    await app.agents.remove(caller, session_id, agent_id)
    return Response(status_code=204)
