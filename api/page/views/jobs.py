"""What are the workers at, and what has failed? Try it again, or call it off."""

from datetime import datetime
from typing import Any

from nicegui import ui

from api.page import numbers
from api.page.forms import Field, Form, Sent
from api.page.frame import frame
from api.page.live import Live
from api.page.moves import session_link
from api.page.parts import Column, Figure, Rows, action, card, chip, say
from api.page.trouble import Trouble
from api.page.visitor import Visitor
from memory.domain.operations import UNFINISHED, Operation, OperationKind, OperationState
from memory.domain.principals import KeyScope

TONES = {
    OperationState.QUEUED: "plain",
    OperationState.RUNNING: "busy",
    OperationState.SUCCEEDED: "good",
    OperationState.FAILED: "bad",
    OperationState.CANCELLED: "off",
}
_FIRM = (OperationKind.PURGE, OperationKind.FORGET, OperationKind.REEMBED)
"""Kinds that can't be called off."""
_STATES = [{"value": "", "label": "all"}, *({"value": state, "label": state} for state in OperationState)]
_FIELDS: tuple[Field, ...] = ({"name": "state", "label": "State", "kind": "select", "options": _STATES, "value": ""},)
_COLUMNS: tuple[Column, ...] = (
    {"name": "kind", "label": "Kind"},
    {"name": "state", "label": "State", "kind": "chip"},
    {"name": "session", "label": "Session", "kind": "link"},
    {"name": "progress", "label": "Progress", "kind": "bar"},
    {"name": "of", "label": "Of", "kind": "number"},
    {"name": "created", "label": "Asked for", "kind": "time"},
    {"name": "took", "label": "Took", "kind": "number"},
    {"name": "tries", "label": "Tries", "kind": "number"},
    {"name": "error", "label": "Error"},
    {"name": "acts", "label": "", "kind": "actions"},
)


@ui.page("/jobs", title="Jobs · Stratamem", response_timeout=30)
async def page() -> None:
    async with frame("Jobs and operations", "/jobs") as visitor:
        await _Jobs(visitor).live.now()


class _Jobs:
    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._states: list[OperationState] | None = None
        self.live = Live(self._show)
        with ui.element("div").classes("figures"):
            self._figures = {state: Figure(state.capitalize()) for state in OperationState}
        with card():
            Form("Which operations", _FIELDS, "Show", self._choose)
        with card():
            self._trouble = Trouble()
            self._rows = Rows("Operations", _COLUMNS, empty="Nothing to do, nothing done.", on_action=self._act)

    async def _show(self) -> None:
        seen = await self._visitor.container.admin.jobs(await self._visitor.principal(), self._states)
        for state, figure in self._figures.items():
            figure.show(numbers.count(seen.counts[state]))
        self._rows.show([_row(operation) for operation in seen.newest])

    async def _choose(self, sent: Sent) -> None:
        wanted = sent.get("state")
        self._states = [OperationState(wanted)] if wanted in list(OperationState) else None
        await self.live.now()

    async def _act(self, operation_id: str, what: str) -> None:
        operations = self._visitor.container.operations
        with self._trouble.watched():
            if what == "retry":
                async with self._visitor.act("operations.retry", subject=operation_id) as act:
                    await operations.retry(act.who, operation_id)
                say("It begins again.")
            else:
                async with self._visitor.act("operations.cancel", KeyScope.WRITE, subject=operation_id) as act:
                    await operations.cancel(act.who, operation_id)
                say("It is called off.")
        await self.live.now()


def _row(operation: Operation) -> dict[str, Any]:
    state, progress, session_id = operation.state, operation.progress, operation.session_id
    return {
        "id": operation.operation_id,
        "kind": operation.kind,
        "state": chip(state, TONES[state]),
        "session": None if session_id is None else session_link(session_id),
        "progress": bar(progress.done, progress.total),
        "of": numbers.of(progress.total, progress.unit),
        "created": operation.created_at.isoformat(),
        "took": took(operation.started_at, operation.finished_at),
        "tries": operation.attempts,
        "error": operation.error,
        "acts": _actions(state, operation.kind),
    }


def bar(done: int, total: int) -> dict[str, Any]:
    part = done / total if total else 0.0
    return {"part": part, "text": numbers.share(part) if total else "–"}


def took(started: datetime | None, finished: datetime | None) -> str | None:
    return None if started is None or finished is None else numbers.seconds((finished - started).total_seconds())


def _actions(state: OperationState, kind: OperationKind) -> list[dict[str, str]]:
    if state is OperationState.FAILED:
        return [action("retry", "Try again")]
    if state in UNFINISHED and kind not in _FIRM:
        return [action("cancel", "Call off", "danger")]
    return []
