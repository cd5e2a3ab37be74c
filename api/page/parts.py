"""What are views made of? Elements that show what they are given as text, whatever is in it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

from nicegui import events, ui
from nicegui.elements.mixins.text_element import TextElement

from api.page.explain import advice
from memory.domain.errors import StratamemError

Row = Mapping[str, Any]


class Column(TypedDict, total=False):
    """kind: text (default), number, time, code, chip, link or actions; `name` is the member of a row that it shows."""

    name: str
    label: str
    kind: str


class Text(TextElement):
    def __init__(self, text: object = "", tag: str = "span", classes: str = "") -> None:
        super().__init__(tag=tag, text=str(text))
        if classes:
            self.classes(classes)


class Link(Text):
    """To a place of this server: `target` is never made of content."""

    def __init__(self, text: object, target: str, classes: str = "") -> None:
        super().__init__(text, "a", classes)
        self.props["href"] = target


class Moment(ui.element, component="assets/moment.js"):
    """A time in the viewer's own zone and manner."""

    def __init__(self, iso: str | None) -> None:
        super().__init__()
        self.props["at"] = iso


class Pulse(ui.element, component="assets/pulse.js"):
    """Beats while somebody looks: not in a tab that is hidden."""

    def __init__(self, on_beat: Callable[[], Any], seconds: float = 2.0) -> None:
        super().__init__()
        self.props["seconds"] = seconds
        self.on("beat", on_beat)


class Rows(ui.element, component="assets/rows.js"):
    """A table, or cards on a phone. Its rows are replaced in place, so that who is in it by keyboard stays there.

    Each row has an `id`. A time is ISO text; a chip, a link and actions are mappings as `chip`, `to` and `action` make
    them. `on_action` is told the row's id and the action's name.
    """

    def __init__(
        self,
        label: str,
        columns: Sequence[Column],
        rows: Sequence[Row] = (),
        *,
        empty: str = "Nothing here yet.",
        on_action: Callable[[str, str], Any] | None = None,
    ) -> None:
        super().__init__()
        self.props["label"] = label
        self.props["columns"] = list(columns)
        self.props["empty"] = empty
        self.show(rows)
        if on_action is not None:

            async def acted(event: events.GenericEventArguments) -> None:
                await on_action(str(event.args["id"]), str(event.args["name"]))

            self.on("act", acted)

    def show(self, rows: Sequence[Row]) -> None:
        self.props["rows"] = [dict(row) for row in rows]
        self.update()


class Results(ui.element, component="assets/results.js"):
    """What a recall found."""

    def __init__(self) -> None:
        super().__init__()
        self.show([])

    def show(self, results: Sequence[Row]) -> None:
        self.props["results"] = [dict(result) for result in results]
        self.update()


class Events(ui.element, component="assets/events.js"):
    """What was said, in its order, with a lane for each author."""

    def show(self, events: Sequence[Row], lanes: Sequence[Row]) -> None:
        self.props["events"] = [dict(event) for event in events]
        self.props["lanes"] = [dict(lane) for lane in lanes]
        self.update()


class Clusters(ui.element, component="assets/clusters.js"):
    """Where clusters lie, and what the one that is chosen is about."""

    def __init__(self, clusters: Sequence[Row]) -> None:
        super().__init__()
        self.props["clusters"] = [dict(cluster) for cluster in clusters]


class Cells(ui.element, component="assets/cells.js"):
    """How many blocks lie in each tier; a square stands for `each` of them."""

    def __init__(self, tiers: Sequence[Row], each: int) -> None:
        super().__init__()
        self.props["tiers"] = [dict(tier) for tier in tiers]
        self.props["each"] = each


def chip(text: str, tone: str = "plain") -> dict[str, str]:
    """tone: plain, good, busy, bad or off."""
    return {"text": text, "tone": tone}


def to(text: str, target: str) -> dict[str, str]:
    return {"text": text, "to": target}


def action(name: str, label: str, tone: str = "plain") -> dict[str, str]:
    return {"name": name, "label": label, "tone": tone}


def card(title: str | None = None, classes: str = "") -> ui.element:
    """A part of a view, with a heading of its own; used as a context."""
    section = ui.element("section").classes(f"card {classes}")
    if title is not None:
        with section:
            Text(title, "h2")
    return section


class Figure:
    """One number with its name; `note` says what it is made of. Without a value it is not shown."""

    def __init__(self, name: str) -> None:
        with ui.element("div").classes("figure") as self._whole:
            Text(name, "span", "figure-name")
            self._value = Text("–", "strong", "figure-value")
            self._note = Text("", "span", "figure-note")

    def show(self, value: str | None, note: str = "") -> None:
        self._whole.set_visibility(value is not None)
        if value is not None and (self._value.text, self._note.text) != (value, note):
            self._value.text, self._note.text = value, note


def problem(error: StratamemError) -> ui.element:
    """What is wrong, by the code that the API would answer, and what to do."""
    with ui.element("div").classes("problem").props("role=alert") as shown:
        Text(error.detail, "p")
        with ui.element("p").classes("hint"):
            Text(error.code, "code")
            Text(advice(error))
    return shown


def empty(text: str, hint: str = "") -> None:
    with ui.element("div").classes("empty"):
        Text(text, "p")
        if hint:
            Text(hint, "p", "hint")


def say(text: str, *, good: bool = True) -> None:
    """A short message at the border of the page, as text."""
    ui.notify(text, type="positive" if good else "negative", html=False, position="bottom-right", multi_line=True)
