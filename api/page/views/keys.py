"""Which keys are there? Make one, which is shown once; revoke one."""

from typing import Any

from nicegui import ui

from api.keys.schemas import CreateKey
from api.page.forms import Button, Field, Form, Pages, Sent
from api.page.frame import frame
from api.page.parts import Column, Rows, Text, action, card, chip, say
from api.page.trouble import Trouble
from api.page.visitor import Visitor
from memory.domain.principals import Key, KeyScope
from memory.services import access

_LIMIT = 50
_FIELDS: tuple[Field, ...] = (
    {"name": "name", "label": "Name, for people", "wide": True, "most": 256, "example": "whose it is, or what for"},
    {"name": "scopes", "label": "Scopes", "kind": "checks", "options": list(KeyScope), "value": [KeyScope.READ]},
    {"name": "agent_id", "label": "Only as this agent", "most": 128},
    {"name": "session_ids", "label": "Only these sessions", "example": "ids, with spaces between"},
    {"name": "expires_at", "label": "Until", "kind": "datetime-local"},
)
_COLUMNS: tuple[Column, ...] = (
    {"name": "prefix", "label": "Key", "kind": "code"},
    {"name": "name", "label": "Name"},
    {"name": "state", "label": "State", "kind": "chip"},
    {"name": "scopes", "label": "Scopes"},
    {"name": "bound", "label": "Bound to"},
    {"name": "created", "label": "Made", "kind": "time"},
    {"name": "used", "label": "Last used", "kind": "time"},
    {"name": "expires", "label": "Until", "kind": "time"},
    {"name": "acts", "label": "", "kind": "actions"},
)


@ui.page("/keys", title="Keys · Stratamem", response_timeout=30)
async def page() -> None:
    async with frame("Keys", "/keys") as visitor:
        access.require_unlimited(await visitor.principal())
        await _Keys(visitor).show()


class _Keys:
    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        with card("Make a key"):
            self._trouble = Trouble()
            Form("Make a key", _FIELDS, "Make the key", self._make)
            self._made = ui.element("div").props("aria-live=polite")
        with card("Keys of this tenant"):
            self._rows = Rows("Keys", _COLUMNS, empty="There is no key yet.", on_action=self._ask)
            self._pages: Pages[str] = Pages(self.show)
        with ui.dialog() as self._dialog, ui.element("div").classes("card dialog"):
            self._question = Text("", "p")
            with ui.element("div").classes("line"):
                Button("Revoke it", lambda: self._dialog.submit(True), "danger")
                Button("Keep it", lambda: self._dialog.submit(False)).props("autofocus")

    async def show(self) -> None:
        with self._trouble.watched():
            who = await self._visitor.principal()
            access.require_unlimited(who)
            keys = self._visitor.container.keys
            found = await keys.page(who.tenant_id, after_id=self._pages.after, limit=_LIMIT + 1)
            now = self._visitor.container.clock.now()
            shown = self._pages.found(found, _LIMIT, lambda key: key.key_id)
            self._rows.show([_row(key, key.valid(now)) for key in shown])

    async def _make(self, sent: Sent) -> None:
        self._made.clear()
        with self._trouble.watched():
            wanted = CreateKey.model_validate(_wanted(sent))
            async with self._visitor.act("keys.create") as act:
                access.require_unlimited(act.who)
                made = await self._visitor.container.keys.create(
                    act.who.tenant_id,
                    wanted.scopes,
                    agent_id=wanted.agent_id,
                    session_ids=wanted.session_ids,
                    name=wanted.name,
                    expires_at=wanted.expires_at,
                )
                act.subject = made.key.key_id
            with self._made:
                Text("This is the key. It is shown this once: keep it now.", "p")
                Text(made.token, "code", "secret")
            self._pages.begin()
            await self.show()

    async def _ask(self, key_id: str, _: str) -> None:
        self._question.text = f"Revoke sm_{key_id}? Whoever has it is shut out within a second, for good."
        if not await self._dialog:
            return
        with self._trouble.watched():
            async with self._visitor.act("keys.revoke", subject=key_id) as act:
                access.require_unlimited(act.who)
                await self._visitor.container.keys.revoke(act.who.tenant_id, key_id)
            say("The key is revoked.")
            await self.show()


def _wanted(sent: Sent) -> dict[str, Any]:
    """As the API takes it: what was left empty is absent."""
    sessions = str(sent.get("session_ids", "")).replace(",", " ").split()
    given = {
        "name": str(sent.get("name", "")).strip(),
        "agent_id": str(sent.get("agent_id", "")).strip(),
        "session_ids": sessions,
        "expires_at": sent.get("expires_at"),
    }
    return {"scopes": sent.get("scopes")} | {name: value for name, value in given.items() if value}


def _row(key: Key, valid: bool) -> dict[str, Any]:
    state = chip("valid", "good") if valid else chip("revoked" if key.revoked_at else "expired", "off")
    sessions = [] if key.session_ids is None else [f"session {name}" for name in sorted(key.session_ids)]
    agent = [] if key.agent_id is None else [f"agent {key.agent_id}"]
    return {
        "id": key.key_id,
        "prefix": key.prefix,
        "name": key.name,
        "state": state,
        "scopes": ", ".join(sorted(key.scopes)),
        "bound": ", ".join([*agent, *sessions[:3], *([f"{len(sessions) - 3} more"] if len(sessions) > 3 else [])]),
        "created": key.created_at.isoformat(),
        "used": None if key.last_used_at is None else key.last_used_at.isoformat(),
        "expires": None if key.expires_at is None else key.expires_at.isoformat(),
        "acts": [action("revoke", "Revoke", "danger")] if valid else [],
    }
