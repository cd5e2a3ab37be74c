"""A session's log as a stream: every event once, in order, from wherever its reader stands."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable

from fastapi.sse import format_sse_event

from api.events.schemas import EventAnswer
from memory.domain.errors import StratamemError
from memory.services.streams import Reader

_LOOK = 1.0
"""Seconds between two looks whether the key still holds."""
_SILENCE = 15.0
"""Seconds after which a comment tells whatever lies between that the connection lives."""
_RETRY_MS = 1_000


async def pieces(reader: Reader, allowed: Callable[[], Awaitable[object]]) -> AsyncGenerator[str | bytes, None]:
    """Ends when the session is purged, the key is not `allowed` any more or the process stops.

    The status is out by then: a reader that comes back is told why.
    """
    yield format_sse_event(comment="following", retry=_RETRY_MS)
    spoke = time.monotonic()
    try:
        while (events := await reader.next(_LOOK)) is not None:
            await allowed()
            if events:
                yield b"".join(
                    format_sse_event(
                        event="appended",
                        id=str(event.seq),
                        data_str=EventAnswer.model_validate(event).model_dump_json(),
                    )
                    for event in events
                )
            elif time.monotonic() - spoke > _SILENCE:
                yield format_sse_event(comment="nothing new")
            else:
                continue
            spoke = time.monotonic()
    except StratamemError:
        return
