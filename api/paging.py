"""Where does the next page begin? A cursor is URL-safe base64 of JSON: the list that it was made for, and a place."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, NamedTuple, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel

from api.values import MAX_INT
from memory.domain.errors import InvalidCursor
from memory.domain.ids import CLIENT_ID

DEFAULT_LIMIT = 50
MAX_LIMIT = 500

Place = int | str
Item = TypeVar("Item")
Shown = TypeVar("Shown")


class Page(BaseModel, Generic[Shown]):
    items: list[Shown]
    next_cursor: str | None


class PageRequest(NamedTuple):
    """One more item than asked is read: it says whether there is a next page."""

    cursor: str | None
    limit: int

    @property
    def read(self) -> int:
        return self.limit + 1

    def after_number(self, listing: str) -> int | None:
        """Raises InvalidCursor."""
        place = decode(listing, self.cursor)
        if place is not None and not isinstance(place, int):
            raise _not_ours()
        return place

    def after_id(self, listing: str) -> str | None:
        """Raises InvalidCursor."""
        place = decode(listing, self.cursor)
        if place is not None and not isinstance(place, str):
            raise _not_ours()
        return place

    def cut(
        self, listing: str, found: Sequence[Item], show: Callable[[Item], Shown], place: Callable[[Item], Place]
    ) -> Page[Shown]:
        shown = [show(item) for item in found[: self.limit]]
        more = len(found) > self.limit
        return Page.model_construct(
            items=shown, next_cursor=encode(listing, place(found[self.limit - 1])) if more else None
        )


async def _page_request(
    cursor: Annotated[str | None, Query(max_length=1_024, description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> PageRequest:
    return PageRequest(cursor, limit)


PageParameters = Annotated[PageRequest, Depends(_page_request)]


def encode(listing: str, place: Place) -> str:
    return base64.urlsafe_b64encode(json.dumps([listing, place], separators=(",", ":")).encode()).decode().rstrip("=")


def decode(listing: str, cursor: str | None) -> Place | None:
    """Raises InvalidCursor for what `encode` did not make for this list."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        made_for, place = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError):  # bad base64, UTF-8, JSON or shape
        raise _not_ours() from None
    if made_for != listing or not _possible(place):
        raise _not_ours()
    return place  # type: ignore[no-any-return]  # checked by _possible


def _possible(place: object) -> bool:
    match place:
        case bool():
            return False
        case int():
            return 0 <= place <= MAX_INT
        case str():
            return CLIENT_ID.fullmatch(place) is not None
        case _:
            return False


def _not_ours() -> InvalidCursor:
    return InvalidCursor("this cursor was not made by this list: use `next_cursor` of a page, or none to begin again")
