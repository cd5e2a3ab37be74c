"""Who did what to which session?"""

from typing import Any

from nicegui import ui
from pydantic import BaseModel, ConfigDict, Field

from api.page.forms import Field as FormField
from api.page.forms import Form, Pages, Sent
from api.page.frame import frame
from api.page.moves import session_link
from api.page.parts import Column, Rows, Text, card, chip
from api.page.trouble import Trouble
from api.page.visitor import Visitor
from api.values import ClientId, Time
from memory.domain.audit import Entry, Search
from memory.services import access

_LIMIT = 100
_FIELDS: tuple[FormField, ...] = (
    {"name": "session_id", "label": "Session", "most": 128},
    {"name": "caller", "label": "Key", "most": 160},
    {"name": "agent_id", "label": "Agent", "most": 128},
    {"name": "action", "label": "Action", "most": 64, "example": "keys.create"},
    {"name": "since", "label": "From", "kind": "datetime-local"},
    {"name": "until", "label": "To", "kind": "datetime-local"},
)
_COLUMNS: tuple[Column, ...] = (
    {"name": "at", "label": "When", "kind": "time"},
    {"name": "action", "label": "Action", "kind": "code"},
    {"name": "status", "label": "Answer", "kind": "chip"},
    {"name": "caller", "label": "Key"},
    {"name": "agent", "label": "Agent"},
    {"name": "session", "label": "Session", "kind": "link"},
    {"name": "subject", "label": "To what"},
)


@ui.page("/audit", title="Audit · Stratamem", response_timeout=30)
async def page() -> None:
    async with frame("Audit", "/audit") as visitor:
        access.require_unlimited(await visitor.principal())
        await _Audit(visitor).show()


class _Audit:
    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._search = Search()
        with card():
            self._trouble = Trouble()
            Form("Search the audit", _FIELDS, "Find", self._find)
        with card():
            self._rows = Rows("Audit", _COLUMNS, empty="Nothing of that was noted.")
            self._pages: Pages[int] = Pages(self.show)
            Text("Ids and outcomes, never texts. Whole, as NDJSON: GET /v1/admin/audit/export", "p", "hint")

    async def show(self) -> None:
        with self._trouble.watched():
            who = await self._visitor.principal()
            access.require_unlimited(who)
            found = await self._visitor.container.audit.page(
                who.tenant_id, self._search, before=self._pages.after, limit=_LIMIT + 1
            )
            self._rows.show([_row(entry) for entry in self._pages.found(found, _LIMIT, lambda entry: entry.number)])

    async def _find(self, sent: Sent) -> None:
        with self._trouble.watched():
            given = {name: value for name, value in sent.items() if value}
            self._search = Search(**_Asked.model_validate(given).model_dump())
            self._pages.begin()
            await self.show()


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    session_id: ClientId | None = None
    caller: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._:|@/\-]{1,160}$")
    agent_id: ClientId | None = None
    action: str | None = Field(default=None, pattern=r"^[a-z_]{1,32}\.[a-z_]{1,31}$")
    since: Time | None = None
    until: Time | None = None


def _row(entry: Entry) -> dict[str, Any]:
    tone = "good" if entry.status < 400 else "bad"
    return {
        "id": str(entry.number),
        "at": entry.at.isoformat(),
        "action": entry.action,
        "status": chip(str(entry.status), tone),
        "caller": entry.caller,
        "agent": entry.agent_id,
        "session": None if entry.session_id is None else session_link(entry.session_id),
        "subject": entry.subject,
    }
