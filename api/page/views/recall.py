"""What is found, and why? A playground: each result with its tier and what its score is made of."""

import time
from typing import Any

from nicegui import ui

from api.metrics import DEGRADED
from api.page import numbers
from api.page.forms import Field, Form, Sent
from api.page.frame import frame
from api.page.moves import session_link
from api.page.parts import Results, Text, card
from api.page.session_log import shortened
from api.page.trouble import Trouble
from api.page.visitor import Visitor
from api.recall.schemas import RecallQuery
from memory.domain.principals import KeyScope
from memory.domain.recall import MAX_TOP_K, Recalled, RecallResult, TierName
from memory.services import access

_FIELDS: tuple[Field, ...] = (
    {"name": "query", "label": "What do you look for?", "kind": "text", "required": True, "most": 4_096},
)
_FILTERS: tuple[Field, ...] = (
    {"name": "session_ids", "label": "Only these sessions", "example": "ids, with spaces between"},
    {"name": "agent_id", "label": "As the agent", "most": 128},
    {"name": "top_k", "label": "At most", "kind": "number", "value": 10, "least": 1, "most": MAX_TOP_K},
    {"name": "tiers", "label": "Tiers", "kind": "checks", "options": list(TierName), "value": list(TierName)},
    {"name": "as_of", "label": "As it was at", "kind": "datetime-local"},
)


@ui.page("/recall", title="Recall · Stratamem", response_timeout=30)
async def page() -> None:
    async with frame("Recall", "/recall") as visitor:
        if not await visitor.reads():
            Text("This key may not read content: recall needs the scope read beside admin.", "p", "complaint")
            return
        _Playground(visitor)


class _Playground:
    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        with card():
            self._trouble = Trouble()
            Form("Recall", (*_FIELDS, *_FILTERS), "Recall", self._recall)
        with card():
            self._summary = Text("Ask something to see what comes back.", "p", "hint").props("aria-live=polite")
            self._results = Results()

    async def _recall(self, sent: Sent) -> None:
        with self._trouble.watched():
            wanted = RecallQuery.model_validate(_wanted(sent))
            begun = time.perf_counter()
            async with self._visitor.act("recall.recall", KeyScope.READ, looks=True) as act:
                who = access.act_as(act.who, wanted.agent_id)
                recalled = await self._visitor.container.recall.recall(who, wanted.to_domain())
            for tier in recalled.degraded:
                DEGRADED.labels(tier.tier).inc()
            self._summary.text = _summary(recalled, time.perf_counter() - begun)
            self._results.show([_result(place, result) for place, result in enumerate(recalled.results)])


def _wanted(sent: Sent) -> dict[str, Any]:
    """As the API takes it: what was left empty is absent."""
    sessions = str(sent.get("session_ids", "")).replace(",", " ").split()
    given = {name: sent.get(name) for name in ("query", "top_k", "tiers", "as_of", "agent_id")}
    return {name: value for name, value in (given | {"session_ids": sessions, "explain": True}).items() if value}


def _summary(recalled: Recalled, seconds: float) -> str:
    count = len(recalled.results)
    found = (
        f"{numbers.plural(count, 'result')} of {numbers.plural(recalled.tokens, 'token')} in {1_000 * seconds:.0f} ms"
    )
    missing = "; ".join(f"{tier.tier} could not answer: {tier.reason}" for tier in recalled.degraded)
    return f"{found}. {missing}" if missing else found if count else f"Nothing was found ({1_000 * seconds:.0f} ms)."


def _result(place: int, result: RecallResult) -> dict[str, Any]:
    text, more = shortened(result.text)
    return {
        "id": place,
        "text": text,
        "more": more,
        "score": round(result.score, 3),
        "tier": result.tier,
        "kind": result.kind,
        "session": None if result.session_id is None else session_link(result.session_id),
        "events": ", ".join(str(event.seq) for event in result.events[:8]),
        "by": result.agent_id or result.role or "",
        "at": result.created_at.isoformat(),
        "tokens": result.tokens,
        "signals": sorted((result.signals or {}).items()),
    }
