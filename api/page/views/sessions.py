"""Which sessions are there?"""

from typing import Any

from nicegui import ui

from api.page import numbers
from api.page.forms import Form, Pages, Sent
from api.page.frame import frame
from api.page.moves import session_link
from api.page.parts import Column, Rows, card, chip
from api.page.trouble import Trouble
from api.page.visitor import Visitor
from memory.services.sessions import SessionView

_LIMIT = 50
_MOST = 256
_COLUMNS: tuple[Column, ...] = (
    {"name": "session", "label": "Session", "kind": "link"},
    {"name": "title", "label": "Title"},
    {"name": "state", "label": "Is", "kind": "chip"},
    {"name": "events", "label": "Events", "kind": "number"},
    {"name": "tokens", "label": "Tokens", "kind": "number"},
    {"name": "window", "label": "In window", "kind": "number"},
    {"name": "clusters", "label": "Clusters", "kind": "number"},
    {"name": "updated", "label": "Changed", "kind": "time"},
)


@ui.page("/sessions", title="Sessions · Stratamem", response_timeout=30)
async def page(q: str = "") -> None:
    async with frame("Sessions", "/sessions") as visitor:
        await _Sessions(visitor, q[:_MOST]).show()


class _Sessions:
    def __init__(self, visitor: Visitor, named: str) -> None:
        self._visitor = visitor
        self._named = named
        with card():
            Form(
                "Find sessions",
                [{"name": "q", "label": "Id or title", "kind": "search", "value": named, "wide": True, "most": _MOST}],
                "Find",
                self._find,
            )
        with card():
            self._trouble = Trouble()
            self._rows = Rows("Sessions", _COLUMNS, empty="There is no such session.")
            self._pages: Pages[int] = Pages(self.show)

    async def show(self) -> None:
        with self._trouble.watched():
            who = await self._visitor.principal()
            found = await self._visitor.container.sessions.all(
                who, named=self._named or None, after_key=self._pages.after, limit=_LIMIT + 1
            )
            shown = self._pages.found(found, _LIMIT, lambda view: view.session.session_key)
            self._rows.show([_row(view) for view in shown])

    async def _find(self, sent: Sent) -> None:
        self._named = str(sent.get("q", "")).strip()[:_MOST]
        self._pages.begin()
        await self.show()


def _row(view: SessionView) -> dict[str, Any]:
    session = view.session
    state = chip("closed", "busy") if session.closed else chip("fork") if session.parent_key else None
    return {
        "id": str(session.session_key),
        "session": session_link(session.session_id),
        "title": session.title,
        "state": state,
        "events": numbers.count(session.event_count),
        "tokens": numbers.count(session.token_count),
        "window": numbers.count(view.tiers.hot_tokens),
        "clusters": numbers.count(view.tiers.semantic_clusters),
        "updated": session.updated_at.isoformat(),
    }
