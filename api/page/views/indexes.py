"""Are the indexes what the database says? Compare them, make them anew, and see which model they are made with."""

from typing import Any

from nicegui import ui

from api.page import numbers
from api.page.frame import frame
from api.page.live import Live
from api.page.parts import Column, Rows, Text, action, card, chip, say
from api.page.trouble import Trouble
from api.page.views.jobs import TONES, bar, took
from api.page.visitor import Visitor
from memory.domain.operations import IndexName, Operation, OperationKind, OperationState

_ABOUT = {
    IndexName.VECTORS: "What is near in meaning. Of the process that answers.",
    IndexName.LEXICAL: "Which words are where. Of the process that answers.",
    IndexName.SEMANTIC: "Clusters of recent turns. Of all processes.",
}
_KINDS = (OperationKind.VERIFY, OperationKind.REBUILD, OperationKind.REEMBED)
_LOOKED_AT = 200
_INDEXES: tuple[Column, ...] = (
    {"name": "name", "label": "Index", "kind": "code"},
    {"name": "about", "label": "What it knows"},
    {"name": "acts", "label": "", "kind": "actions"},
)
_DONE: tuple[Column, ...] = (
    {"name": "index", "label": "Index", "kind": "code"},
    {"name": "kind", "label": "What"},
    {"name": "state", "label": "State", "kind": "chip"},
    {"name": "progress", "label": "Progress", "kind": "bar"},
    {"name": "found", "label": "Found", "kind": "chip"},
    {"name": "node", "label": "Process"},
    {"name": "created", "label": "Asked for", "kind": "time"},
    {"name": "took", "label": "Took", "kind": "number"},
    {"name": "trouble", "label": "Problems"},
)


@ui.page("/indexes", title="Indexes · Stratamem", response_timeout=30)
async def page() -> None:
    async with frame("Indexes", "/indexes") as visitor:
        await _Indexes(visitor).live.now()


class _Indexes:
    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self.live = Live(self._show)
        with card():
            self._trouble = Trouble()
            Rows("Indexes", _INDEXES, [_index(name) for name in IndexName], on_action=self._ask)
            Text("Both only read the database: nothing is embedded, and the old index serves meanwhile.", "p", "hint")
        with card("Embedding model"):
            self._space, self._left = Text("", "code"), Text("", "p", "hint")
        with card("Latest"):
            self._rows = Rows("Operations on indexes", _DONE, empty="No index was compared or made anew lately.")

    async def _show(self) -> None:
        container, who = self._visitor.container, await self._visitor.principal()
        model = await container.reembedding.overview(who)
        self._space.text, self._left.text = model["configured"], _left(model)
        newest = await container.operations.page(who, states=None, after_id=None, limit=_LOOKED_AT)
        self._rows.show([_row(operation) for operation in newest if operation.kind in _KINDS])

    async def _ask(self, name: str, what: str) -> None:
        kind = OperationKind.VERIFY if what == "verify" else OperationKind.REBUILD
        with self._trouble.watched():
            async with self._visitor.act(f"admin.{kind}", subject=name) as act:
                await self._visitor.container.indexes.request(act.who, kind, IndexName(name))
            say(f"{name}: it is asked for.")
        await self.live.now()


def _left(model: dict[str, Any]) -> str:
    """Of a change of the model."""
    if model["words_only"]:
        return str(model["words_only"])
    if not model["items_left"]:
        return "Everything is embedded with it."
    return f"{numbers.of(model['items_left'], 'items')} left to embed; {model['served_here']} answers meanwhile."


def _index(name: IndexName) -> dict[str, Any]:
    acts = [action("verify", "Compare"), action("rebuild", "Make anew")]
    return {"id": name, "name": name, "about": _ABOUT[name], "acts": acts}


def _row(operation: Operation) -> dict[str, Any]:
    facts = operation.result or {}
    done = operation.state is OperationState.SUCCEEDED
    problems = facts.get("problems", [])
    found = None
    if done and operation.kind is OperationKind.VERIFY:
        found = chip("sound", "good") if facts.get("sound") else chip("not sound", "bad")
    return {
        "id": operation.operation_id,
        "index": facts.get("index"),
        "kind": operation.kind,
        "state": chip(operation.state, TONES[operation.state]),
        "progress": bar(operation.progress.done, operation.progress.total),
        "found": found,
        "node": facts.get("node"),
        "created": operation.created_at.isoformat(),
        "took": took(operation.started_at, operation.finished_at),
        "trouble": operation.error or "; ".join(problems[:3]) + (" …" if len(problems) > 3 else ""),
    }
