"""What is private to an agent, in all of its tenant."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from api import purges
from api.auth import Requires
from api.deps import App
from api.errors import problems
from api.operations.schemas import OperationAnswer
from api.purges import ReceiptAnswer
from api.values import CLIENT_ID_PATTERN
from memory.domain.principals import KeyScope, Principal

router = APIRouter(prefix="/v1/agents/{agent_id}/data", tags=["agents"])

AgentId = Annotated[str, Path(pattern=CLIENT_ID_PATTERN)]
Owner = Annotated[Principal, Depends(Requires(KeyScope.WRITE, KeyScope.ADMIN))]
"""The scope `admin`, or the agent itself by its key."""


@router.delete("", summary="Purge all that is private to an agent", responses={**problems(404), **purges.ACCEPTED})
async def forget(app: App, caller: Owner, agent_id: AgentId, response: Response) -> ReceiptAnswer | OperationAnswer:
    """Private events keep their place in the log without their content, as after a redaction; private memories go.

    What it said to all, its place in sessions and its keys stay. Needs `admin`, or `write` with a key of this agent.
    """
    return purges.answer(await app.forgetting.purge_agent(caller, agent_id), response)
