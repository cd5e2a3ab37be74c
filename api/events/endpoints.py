"""Append to a session's log, and read it."""

from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from api import purges
from api.auth import check_still_valid
from api.deps import App, EventId, PageParameters, Reader, SessionId, Spending, Writer
from api.errors import problems
from api.events.following import pieces
from api.events.schemas import AppendedAnswer, AppendEvents, EventAnswer, Order
from api.metrics import EVENTS
from api.operations.schemas import OperationAnswer
from api.paging import Page
from api.purges import ReceiptAnswer
from api.streaming import EventStream
from api.values import MAX_INT

router = APIRouter(prefix="/v1/sessions/{session_id}/events", tags=["events"])

IdempotencyKey = Annotated[
    str | None,
    Header(pattern=r"^[\x20-\x7e]{1,255}$", description="The same key with the same request: the first answer again."),
]


@router.post(
    "",
    status_code=201,
    summary="Append events; the session is made when absent",
    responses={
        **problems(404, 409),
        200: {"model": AppendedAnswer, "description": "All of it is in the log already: the first answer again"},
    },
)
async def append(
    app: App,
    caller: Writer,
    session_id: SessionId,
    body: AppendEvents,
    response: Response,
    spent: Spending,
    idempotency_key: IdempotencyKey = None,
) -> AppendedAnswer:
    appended = await app.events.append(
        caller, session_id, body.to_domain(), expected_seq=body.expected_seq, idempotency_key=idempotency_key
    )
    if appended.repeated:
        response.status_code = 200
    else:
        EVENTS.inc(len(appended.event_ids))
        spent.tokens(appended.token_count)
    return AppendedAnswer.model_validate(appended)


@router.get("", summary="Read the log in `seq` order", responses=problems(404))
async def page(
    app: App,
    caller: Reader,
    session_id: SessionId,
    wanted: PageParameters,
    after_seq: Annotated[
        int | None, Query(ge=0, le=MAX_INT, description="Only what came after it, in either order.")
    ] = None,
    order: Order = Order.ASC,
) -> Page[EventAnswer]:
    listing, descending = f"events.{order}.{session_id}", order is Order.DESC
    place = wanted.after_number(listing)
    if place is not None and not descending:
        after_seq = max(place, after_seq or 0)
    events = await app.events.page(
        caller,
        session_id,
        after_seq=after_seq,
        before_seq=place if descending else None,
        limit=wanted.read,
        descending=descending,
    )
    return wanted.cut(listing, events, EventAnswer.model_validate, lambda event: event.seq)


@router.delete(
    "/{event_id}",
    summary="Redact an event: its content goes everywhere, its place in the log stays",
    responses={**problems(404), **purges.ACCEPTED},
)
async def redact(
    app: App, caller: Writer, session_id: SessionId, event_id: EventId, response: Response
) -> ReceiptAnswer | OperationAnswer:
    return purges.answer(await app.forgetting.redact_event(caller, session_id, event_id), response)


@router.get(
    "/stream",
    summary="Follow the log live: server-sent events",
    response_class=StreamingResponse,
    responses={
        **problems(404, 409, 429),
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "`event: appended`, `id: <seq>`, and in `data` the event as in the list; for ever",
        },
    },
)
async def stream(
    app: App,
    caller: Reader,
    session_id: SessionId,
    request: Request,
    last_event_id: Annotated[
        str | None,
        Header(pattern=r"^[0-9]{1,15}$", description="The `id` that came last; goes before `after_seq`."),
    ] = None,
    after_seq: Annotated[
        int, Query(ge=0, le=MAX_INT, description="Only what came after it; 0: from the beginning of the log.")
    ] = 0,
) -> EventStream:
    place = after_seq if last_event_id is None else int(last_event_id)
    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(app.streams.reader(caller, session_id, place))
        kept = stack.pop_all()
    return EventStream(kept, pieces(reader, lambda: check_still_valid(request)))
