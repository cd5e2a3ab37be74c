"""What is there, how busy is it, and is anything wrong?"""

from typing import Any

from nicegui import ui

from api.page import numbers
from api.page.frame import frame
from api.page.live import Live
from api.page.moves import LATEST, columns, rows
from api.page.parts import Figure, Rows, Text, card, chip
from api.page.visitor import Visitor
from memory.domain.recall import TierName

_TIERS = {TierName.HOT: "Hot", TierName.SEMANTIC: "Semantic", TierName.LONGTERM: "Long‑term"}
_UNITS = {TierName.HOT: "tokens", TierName.SEMANTIC: "segments", TierName.LONGTERM: "items"}
_TONES = {"ok": "good", "degraded": "busy", "down": "bad"}


@ui.page("/", title="Overview · Stratamem", response_timeout=30)
async def page() -> None:
    async with frame("Overview", "/") as visitor:
        await _Overview(visitor).live.now()


class _Overview:
    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self.live = Live(self._show)
        with ui.element("div").classes("figures"):
            names = ("Sessions", "Events", "Tokens", "Memories", "Appended", "Recalls", "Queue", "Database")
            self._figures = {name: Figure(name) for name in names}
        with ui.element("div").classes("columns roomy"):
            with card("Tiers"):
                self._tiers = Rows(
                    "Tiers",
                    [
                        {"name": "tier", "label": "Tier"},
                        {"name": "items", "label": "Holds", "kind": "number"},
                        {"name": "bytes", "label": "Size", "kind": "bar"},
                        {"name": "hits", "label": "Fastest for", "kind": "bar"},
                        {"name": "state", "label": "State", "kind": "chip"},
                    ],
                )
                Text("Fastest for: of what this process recalled, the share that no faster tier held.", "p", "hint")
                self._problems = ui.element("div")
            with card("Health"):
                self._health = Rows(
                    "Health",
                    [
                        {"name": "part", "label": "Part"},
                        {"name": "state", "label": "State", "kind": "chip"},
                        {"name": "reason", "label": "Reason"},
                    ],
                )
        with card("Moves between tiers"):
            self._moves = Rows("Moves between tiers", columns(session=True), empty="Nothing has moved yet.")

    async def _show(self) -> None:
        container = self._visitor.container
        who = await self._visitor.principal()
        seen = await container.admin.overview(who)
        self._show_figures(seen)
        self._show_tiers(seen)
        report = await container.health.check()
        parts = ("database", "broker", "tiers", "embedder", "runtime")
        entries = [(part, getattr(report, part)) for part in parts]
        self._health.show(
            [{"id": p, "part": p, "state": chip(e.state, _TONES[e.state]), "reason": e.reason} for p, e in entries]
        )
        self._moves.show(rows(await container.evictions.page(who, None, before_key=None, limit=LATEST)))

    def _show_figures(self, seen: dict[str, Any]) -> None:
        figures, queue, rates = self._figures, seen["queue"], seen["rates"]
        figures["Sessions"].show(numbers.count(seen["sessions"]))
        figures["Events"].show(numbers.count(seen["events"]))
        figures["Tokens"].show(numbers.count(seen["tokens"]))
        figures["Memories"].show(numbers.count(seen["memories"]))
        figures["Appended"].show(numbers.rate(rates["events_per_second"]), "last minute")
        figures["Recalls"].show(numbers.rate(rates["recalls_per_second"]), "last minute")
        failed = seen["operations"]["failed"]
        note = f"{queue['running']} running" + (f", {failed} failed" if failed else "")
        figures["Queue"].show(numbers.count(seen["queue_depth"]), note)
        size = seen["database_bytes"]
        figures["Database"].show(None if size is None else numbers.size(size))

    def _show_tiers(self, seen: dict[str, Any]) -> None:
        tiers = seen["tiers"]
        most = max(1, *(tier["bytes"] for tier in tiers))
        self._tiers.show([_tier(tier, seen["hit_ratios"][tier["tier"]], most) for tier in tiers])
        self._problems.clear()
        with self._problems:
            for problem in (problem for tier in tiers for problem in tier["problems"]):
                Text(problem, "p", "complaint")


def _tier(tier: dict[str, Any], hits: float, most: int) -> dict[str, Any]:
    pending = tier.get("pending", 0)
    state = chip("problems", "bad") if tier["problems"] else chip(f"{pending} to index", "busy") if pending else None
    return {
        "id": tier["tier"],
        "tier": _TIERS[tier["tier"]],
        "items": numbers.of(tier["items"], _UNITS[tier["tier"]]),
        "bytes": {"part": tier["bytes"] / most, "text": numbers.size(tier["bytes"])},
        "hits": {"part": hits, "text": numbers.share(hits)},
        "state": state or chip("ok", "good"),
    }
