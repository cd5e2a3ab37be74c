"""Create, fork, summarise, read, list, change and purge sessions."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api import purges
from api.deps import App, IfMatch, PageParameters, Reader, SessionId, Spending, Trailing, Writer
from api.errors import problems
from api.memories.schemas import AddedMemory
from api.operations.schemas import OperationAnswer
from api.paging import Page
from api.purges import ReceiptAnswer
from api.sessions.schemas import CreateSession, ForkSession, PatchSession, SessionAnswer, SummariseSession
from api.streaming import while_there
from memory.domain.ids import new_id
from memory.services.sessions import SessionView

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

_LIST = "sessions"


@router.post("", status_code=201, summary="Create a session", responses=problems(409))
async def create(
    app: App, caller: Writer, response: Response, trail: Trailing, body: CreateSession | None = None
) -> SessionAnswer:
    view = await app.sessions.create(caller, (body or CreateSession()).to_domain())
    trail.about(view.session.session_id)
    return _created(view, response)


@router.post(
    "/{session_id}/fork",
    status_code=201,
    summary="Fork a session: share its log up to a place, then go another way",
    responses=problems(404, 409),
)
async def fork(
    app: App,
    caller: Writer,
    session_id: SessionId,
    response: Response,
    trail: Trailing,
    body: ForkSession | None = None,
) -> SessionAnswer:
    wanted = body or ForkSession()
    fork_id = wanted.session_id or new_id()
    trail.about(session_id, subject=fork_id)
    return _created(await app.sessions.fork(caller, session_id, fork_id, wanted.at_seq), response)


@router.post(
    "/{session_id}/summary",
    status_code=201,
    summary="Have the model summarise what was said recently",
    responses=problems(404, 409),
)
async def summarise(
    app: App,
    caller: Writer,
    session_id: SessionId,
    request: Request,
    response: Response,
    spent: Spending,
    body: SummariseSession | None = None,
) -> AddedMemory:
    """A memory of kind `summary` with the events that it was made of (`source`): it goes when they are purged.

    Made of the key sentences of what the semantic tier holds, session-visible text only.
    """
    words = (body or SummariseSession()).words
    abstract = await while_there(request, app.abstracts.write(caller, session_id, words))
    spent.tokens(abstract.tokens)
    added = abstract.added
    response.headers["ETag"] = added.memory.etag
    response.headers["Location"] = f"/v1/memories/{added.memory.memory_id}"
    return AddedMemory.of(added)


@router.get("", summary="List sessions, newest first", responses=problems())
async def page(app: App, caller: Reader, wanted: PageParameters) -> Page[SessionAnswer]:
    views = await app.sessions.page(caller, after_key=wanted.after_number(_LIST), limit=wanted.read)
    return wanted.cut(_LIST, views, SessionAnswer.of, lambda view: view.session.session_key)


@router.get("/{session_id}", summary="Read a session", responses=problems(404))
async def get(app: App, caller: Reader, session_id: SessionId, response: Response) -> SessionAnswer:
    view = await app.sessions.get(caller, session_id)
    response.headers["ETag"] = view.session.etag
    return SessionAnswer.of(view)


@router.patch("/{session_id}", summary="Change a session", responses=problems(404, 412))
async def update(
    app: App, caller: Writer, session_id: SessionId, body: PatchSession, response: Response, if_match: IfMatch = None
) -> SessionAnswer:
    view = await app.sessions.update(caller, session_id, body.changes(), if_match=if_match)
    response.headers["ETag"] = view.session.etag
    return SessionAnswer.of(view)


@router.delete("/{session_id}", summary="Purge a session", responses={**problems(404, 409), **purges.ACCEPTED})
async def purge(
    app: App,
    caller: Writer,
    session_id: SessionId,
    response: Response,
    cascade: Annotated[bool, Query(description="Take forks along.")] = False,
) -> ReceiptAnswer | OperationAnswer:
    return purges.answer(await app.forgetting.purge_session(caller, session_id, cascade=cascade), response)


def _created(view: SessionView, response: Response) -> SessionAnswer:
    response.headers["ETag"] = view.session.etag
    response.headers["Location"] = f"/v1/sessions/{view.session.session_id}"
    return SessionAnswer.of(view)
