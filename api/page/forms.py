"""How are forms filled in, and long lists turned over?"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, TypedDict, TypeVar

from nicegui import events, ui

from api.page.parts import Text

Place = TypeVar("Place")
Item = TypeVar("Item")
Sent = Mapping[str, Any]


class Field(TypedDict, total=False):
    """kind: the type of the browser's own field, or text (several lines), select or checks. `most`: its length, or of a
    number the largest."""

    name: str
    label: str
    kind: str
    value: object
    options: Sequence[object]
    example: str
    required: bool
    wide: bool
    least: int
    most: int


class Form(ui.element, component="assets/form.js"):
    """`on_send` is told everything at once. What comes from a browser is anything: it is checked as a request is."""

    def __init__(
        self, name: str, fields: Sequence[Field], label: str, on_send: Callable[[Sent], Awaitable[None]]
    ) -> None:
        super().__init__()
        self.props["name"] = name
        self.props["label"] = label
        self.props["fields"] = [dict(field) for field in fields]

        async def sent(event: events.GenericEventArguments) -> None:
            if isinstance(event.args, Mapping):
                await on_send(event.args)

        self.on("send", sent)


class Button(Text):
    """The browser's own."""

    def __init__(self, label: str, on_click: Callable[[], Any], tone: str = "plain") -> None:
        super().__init__(label, "button", tone)
        self.props["type"] = "button"
        self.on("click", lambda _: on_click())


class Pages(Generic[Place]):
    """Where in a list that is read page by page, newest first. `after`: the last place of the page before."""

    def __init__(self, show: Callable[[], Awaitable[None]]) -> None:
        self._show = show
        self._places: list[Place | None] = [None]
        self._next: Place | None = None
        with ui.element("div").classes("line pages") as self._row:
            self._newer = Button("Newer", self._back)
            self._older = Button("Older", self._on)
        self._row.set_visibility(False)

    @property
    def after(self) -> Place | None:
        return self._places[-1]

    def begin(self) -> None:
        self._places = [None]

    def found(self, items: Sequence[Item], limit: int, place: Callable[[Item], Place]) -> Sequence[Item]:
        """Those to show, of which one more than `limit` was asked for."""
        self._next = place(items[limit - 1]) if len(items) > limit else None
        self._newer.props["disabled"] = len(self._places) == 1
        self._older.props["disabled"] = self._next is None
        self._newer.update()
        self._older.update()
        self._row.set_visibility(len(self._places) > 1 or self._next is not None)
        return items[:limit]

    async def _on(self) -> None:
        if self._next is not None:
            self._places.append(self._next)
            await self._show()

    async def _back(self) -> None:
        if len(self._places) > 1:
            self._places.pop()
            await self._show()
