"""How does a session's log read, event by event and author by author?"""

from collections.abc import Sequence
from typing import Any

from api.page import numbers
from memory.domain.events import Event, EventVisibility

_SHOWN = 4_000
"""Characters of a text at most: an event may have a megabyte."""


def shortened(text: str) -> tuple[str, str | None]:
    """Its beginning, and what is said about the rest."""
    if len(text) <= _SHOWN:
        return text, None
    return text[:_SHOWN], f"… the first {numbers.count(_SHOWN)} of {numbers.count(len(text))} characters"


def entries(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [_entry(event) for event in events]


def lanes(events: Sequence[Event]) -> list[dict[str, Any]]:
    """By author, in the order of their first words; `place` is that among the events that are shown."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place, event in enumerate(events):
        found.setdefault(_author(event), []).append({"seq": event.seq, "place": place, "role": event.role})
    return [{"name": name, "events": of_author} for name, of_author in found.items()]


def _entry(event: Event) -> dict[str, Any]:
    content, more = shortened(event.content)
    return {
        "seq": event.seq,
        "author": _author(event),
        "role": event.role,
        "at": event.created_at.isoformat(),
        "tokens": event.token_count,
        "private": event.visibility is EventVisibility.PRIVATE,
        "redacted": event.redacted,
        "content": content,
        "more": more,
    }


def _author(event: Event) -> str:
    return event.agent_id or event.name or event.role
