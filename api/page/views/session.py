"""What is there of one session, tier by tier, and what was said?"""

from collections.abc import Sequence
from typing import Any

from nicegui import ui

from api.page import moves, numbers
from api.page.forms import Button, Field, Form, Sent
from api.page.frame import frame
from api.page.parts import Cells, Clusters, Column, Events, Figure, Rows, Text, card, chip, empty
from api.page.session_log import entries, lanes
from api.page.trouble import Trouble
from api.page.visitor import Visitor
from memory.domain.agents import AgentRole, SessionAgent
from memory.domain.events import Event
from memory.domain.ids import CLIENT_ID
from memory.domain.principals import KeyScope, Principal
from memory.services import access

_EVENTS = 100
"""That are asked for at a time."""
_MOST_EVENTS = 1_000
_EVICTIONS = 100
_AGENTS = 200
_SQUARES = 256
_SEQS = 24
_TONES = {AgentRole.OWNER: "good", AgentRole.WRITER: "busy", AgentRole.READER: "plain"}
_AGENT_COLUMNS: tuple[Column, ...] = (
    {"name": "agent", "label": "Agent"},
    {"name": "role", "label": "Role", "kind": "chip"},
    {"name": "since", "label": "Since", "kind": "time"},
)
_NO_CONTENT = "This key may not read content: what was said is shown with the scope read beside admin."


@ui.page("/sessions/{session_id}", title="Session · Stratamem", response_timeout=30)
async def page(session_id: str, agent: str = "") -> None:
    async with frame(session_id, "/sessions") as visitor:
        named = agent if CLIENT_ID.fullmatch(agent) else None
        async with visitor.act("admin.session_tiers", session_id=session_id, looks=True) as act:
            who = access.act_as(act.who, named)
            seen = await visitor.container.admin.session_tiers(who, session_id)
            listed = await visitor.container.agents.page(who, session_id, after=None, limit=_AGENTS)
        _figures(seen, listed)
        with ui.element("div").classes("columns"):
            _window(seen["hot"])
            _kv(seen["hot"]["kv"])
        await _Log(visitor, session_id, named).show()
        _clusters(seen["semantic"], reads=KeyScope.READ in who.scopes)
        await _evictions(visitor, who, session_id)
        _agents(listed)


def _figures(seen: dict[str, Any], listed: Sequence[SessionAgent]) -> None:
    hot, semantic, longterm = seen["hot"], seen["semantic"], seen["longterm"]
    with ui.element("div").classes("figures"):
        indexed = longterm["indexed_seq"]
        known = "all indexed" if indexed >= longterm["events"] else f"indexed up to {indexed}"
        Figure("Events").show(numbers.count(longterm["events"]), known)
        Figure("In the window").show(numbers.count(hot["tokens"]), f"of {numbers.count(hot['window_tokens'])} tokens")
        Figure("Blocks").show(numbers.count(hot["blocks"]), "of 512 tokens")
        Figure("Segments").show(numbers.count(semantic["segments"]), f"of the last {semantic['turns']} turns")
        Figure("Clusters").show(numbers.count(len(semantic["clusters"])))
        Figure("Agents").show(numbers.count(len(listed)), "closed to others" if listed else "none listed")


def _window(hot: dict[str, Any]) -> None:
    with card("Window"):
        ranges = hot["ranges"]
        if not ranges:
            return empty("Nothing is in the window yet.")
        with ui.element("div").classes("strip").props("role=img") as strip:
            for part in ranges:
                tokens = part["token_end"] - part["token_start"]
                with ui.element("span").style(f"flex-grow: {tokens}") as piece:
                    piece.props["title"] = f"events {part['first_seq']}–{part['last_seq']}, {tokens} tokens"
            free = max(0, hot["window_tokens"] - hot["tokens"])
            ui.element("span").classes("out").style(f"flex-grow: {free}")
        first, last = ranges[0], ranges[-1]
        tokens_of = f"{numbers.count(first['token_start'])} to {numbers.count(last['token_end'])}"
        text = (
            f"Events {first['first_seq']}–{last['last_seq']} word for word: tokens {tokens_of} of the log,"
            f" in {numbers.plural(len(ranges), 'range')}."
        )
        strip.props["aria-label"] = text
        Text(text, "p", "hint")


def _kv(kv: dict[str, Any] | None) -> None:
    with card("KV blocks by tier"):
        if kv is None:
            return empty("No KV is kept of this session.", "It is made by an answer with this memory_key.")
        each = max(1, -(-max(kv["blocks"].values()) // _SQUARES))
        Cells(
            [
                {
                    "name": tier,
                    "blocks": blocks,
                    "text": f"{numbers.plural(blocks, 'block')}, {numbers.size(kv['bytes'].get(tier, 0))}",
                }
                for tier, blocks in kv["blocks"].items()
            ],
            each,
        )
        facts = [f"{numbers.count(kv['tokens'])} tokens", f"fidelity {kv['fidelity']}"]
        if kv["tail_tokens"]:
            facts.append(f"{kv['tail_tokens']} tokens after the last full block ({kv['tail'] or 'lost'})")
        if kv["pinned_blocks"]:
            facts.append(f"{numbers.plural(kv['pinned_blocks'], 'block')} pinned")
        if kv["lost"]:
            facts.append(f"{numbers.plural(kv['lost'], 'block')} in no tier, computed again when needed")
        if each > 1:
            facts.append(f"a square is {each} blocks")
        Text("; ".join(facts) + ". A block in two tiers counts in both.", "p", "hint")


class _Log:
    """What was said, newest first to be asked for, shown in its order."""

    def __init__(self, visitor: Visitor, session_id: str, agent: str | None) -> None:
        self._visitor = visitor
        self._session_id = session_id
        self._agent = agent
        self._events: list[Event] = []
        with card("Events"):
            fields: list[Field] = [{"name": "agent", "label": "As the agent", "value": agent or "", "most": 128}]
            with ui.element("div").classes("line spread"):
                self._earlier = Button("Earlier events", self.show)
                Form("See it as an agent", fields, "See", self._see)
            self._earlier.set_visibility(False)
            self._trouble = Trouble()
            self._shown = ui.element("div")
            with self._shown:
                self._list = Events()
            self._list.show([], [])

    async def show(self) -> None:
        before = self._events[0].seq if self._events else None
        with self._trouble.watched():
            if not await self._visitor.reads():
                with self._shown:
                    Text(_NO_CONTENT, "p", "complaint")
                return
            async with self._visitor.act("events.page", KeyScope.READ, session_id=self._session_id, looks=True) as act:
                found = await self._visitor.container.events.page(
                    access.act_as(act.who, self._agent),
                    self._session_id,
                    before_seq=before,
                    limit=_EVENTS,
                    descending=True,
                )
            self._events = [*reversed(found), *self._events]
            self._list.show(entries(self._events), lanes(self._events))
            self._earlier.set_visibility(len(found) == _EVENTS and len(self._events) < _MOST_EVENTS)
            if not self._events:
                with self._shown:
                    empty("Nothing was said that you may see.")

    async def _see(self, sent: Sent) -> None:
        """A load of its own, so that all of the view is what that agent sees."""
        agent = str(sent.get("agent", "")).strip()
        known = f"?agent={agent}" if CLIENT_ID.fullmatch(agent) else ""
        ui.navigate.to(f"/sessions/{self._session_id}{known}")


def _clusters(semantic: dict[str, Any], *, reads: bool) -> None:
    with card("Clusters"):
        if not semantic["clusters"]:
            return empty("No clusters yet.", "They are made when turns are complete and embedded.")
        silence = "No sentence of it may be shown." if reads else _NO_CONTENT
        Clusters([{**cluster, "silence": silence, "seqs": _seqs(cluster["seqs"])} for cluster in semantic["clusters"]])


def _seqs(seqs: Sequence[int]) -> str:
    shown = ", ".join(map(str, seqs[:_SEQS]))
    return f"{shown} and {len(seqs) - _SEQS} more" if len(seqs) > _SEQS else shown


async def _evictions(visitor: Visitor, who: Principal, session_id: str) -> None:
    with card("Moves and evictions"):
        found = await visitor.container.evictions.page(who, session_id, before_key=None, limit=_EVICTIONS)
        with ui.element("div").classes("long"):
            Rows("Evictions", moves.columns(session=False), moves.rows(found), empty="Nothing has moved yet.")


def _agents(listed: Sequence[SessionAgent]) -> None:
    rows = [
        {"id": a.agent_id, "agent": a.agent_id, "role": chip(a.role, _TONES[a.role]), "since": a.added_at.isoformat()}
        for a in listed
    ]
    with card("Agents"):
        Rows("Agents", _AGENT_COLUMNS, rows, empty="No agent is listed: whoever has a key of the tenant takes part.")
