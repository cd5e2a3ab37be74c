"""Append to a session's log, and read it."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from api.deps import App, PageParameters, Reader, SessionId, Spending, Writer
from api.errors import problems
from api.events.schemas import AppendedAnswer, AppendEvents, EventAnswer, Order
from api.metrics import EVENTS
from api.paging import Page
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
