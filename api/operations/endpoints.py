"""Watch, cancel and retry asynchronous work."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.deps import Administrator, App, OperationId, PageParameters, Reader, Writer
from api.errors import problems
from api.operations.schemas import OperationAnswer
from api.paging import Page
from memory.domain.operations import OperationState

router = APIRouter(prefix="/v1/operations", tags=["operations"])

_LIST = "operations"
_STATE = "(queued|running|succeeded|failed|cancelled)"


@router.get("", summary="List operations, newest first", responses=problems())
async def page(
    app: App,
    caller: Reader,
    wanted: PageParameters,
    state: Annotated[
        str | None,
        Query(pattern=f"^{_STATE}([,|]{_STATE}){{0,4}}$", description="One state, or several: `queued,running`."),
    ] = None,
) -> Page[OperationAnswer]:
    states = None if state is None else [OperationState(name) for name in state.replace("|", ",").split(",")]
    found = await app.operations.page(caller, states=states, after_id=wanted.after_id(_LIST), limit=wanted.read)
    return wanted.cut(_LIST, found, OperationAnswer.model_validate, lambda operation: operation.operation_id)


@router.get("/{operation_id}", summary="Read an operation", responses=problems(404))
async def get(app: App, caller: Reader, operation_id: OperationId) -> OperationAnswer:
    return OperationAnswer.model_validate(await app.operations.get(caller, operation_id))


@router.delete("/{operation_id}", summary="Cancel an operation", responses=problems(404, 409))
async def cancel(app: App, caller: Writer, operation_id: OperationId) -> OperationAnswer:
    return OperationAnswer.model_validate(await app.operations.cancel(caller, operation_id))


@router.post(
    "/{operation_id}/retry", status_code=202, summary="Try again what has failed", responses=problems(404, 409)
)
async def retry(app: App, caller: Administrator, operation_id: OperationId) -> OperationAnswer:
    """It begins anew, or where it had come to. What is about an index of one process is taken up by that process."""
    return OperationAnswer.model_validate(await app.operations.retry(caller, operation_id))
