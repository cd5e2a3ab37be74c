"""How do moves between tiers read?"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from api.page import numbers
from api.page.door import PATH
from api.page.parts import Column, to
from memory.domain.moves import Move, Reason

LATEST = 10
REASONS = {
    Reason.JOINED: "joined a cluster",
    Reason.FOUNDED: "founded a cluster",
    Reason.LEAST_VALUE: "worth least",
    Reason.REDUNDANT: "much like what stays",
    Reason.PASSED_BY: "too old when first seen",
    Reason.WINDOW_SLID: "newer events took its place",
    Reason.LONGEST_UNUSED: "unused for longest",
    Reason.LEAST_USED: "used least",
    Reason.FIRST_IN: "first in",
    Reason.DRAWN: "drawn at random",
}


def session_link(session_id: str) -> dict[str, str]:
    return to(session_id, f"{PATH}/sessions/{quote(session_id, safe='')}")


def columns(*, session: bool) -> list[Column]:
    """`session`: whether each says of which it was."""
    of_session: list[Column] = [{"name": "session", "label": "Session", "kind": "link"}]
    return [
        {"name": "at", "label": "When", "kind": "time"},
        *(of_session if session else []),
        {"name": "what", "label": "Events", "kind": "number"},
        {"name": "way", "label": "From → to"},
        {"name": "reason", "label": "Why"},
        {"name": "size", "label": "Size", "kind": "number"},
        {"name": "score", "label": "Score", "kind": "number"},
    ]


def rows(moves: Sequence[Move]) -> list[dict[str, Any]]:
    return [_row(move) for move in moves]


def _row(move: Move) -> dict[str, Any]:
    what = move.what
    size = numbers.size(what.size) if what.unit == "bytes" else f"{numbers.count(what.size)} {what.unit}"
    return {
        "id": str(move.move_key),
        "at": move.at.isoformat(),
        "session": session_link(move.session_id),
        "what": str(what.first_seq) if what.first_seq == what.last_seq else f"{what.first_seq}–{what.last_seq}",
        "way": f"{what.origin} → {what.target}",
        "reason": REASONS.get(what.reason, str(what.reason)),
        "size": size,
        "score": None if what.score is None else f"{what.score:.2f}",
    }
