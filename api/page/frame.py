"""What is around every view? A header, the menu, and one place where what went wrong is said."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from nicegui import ui

from api.page.door import PATH, SIGN_IN
from api.page.parts import Link, Text, problem, say
from api.page.visitor import Visitor
from api.version import VERSION
from memory.domain.errors import StratamemError, Unauthenticated

MENU = (
    ("Overview", "/", "dashboard"),
    ("Sessions", "/sessions", "forum"),
    ("Recall", "/recall", "search"),
    ("Jobs", "/jobs", "work_history"),
    ("Indexes", "/indexes", "storage"),
    ("Keys", "/keys", "key"),
    ("Audit", "/audit", "history"),
)
_THEMES = {
    "auto": (None, "brightness_auto", "light"),
    "light": (False, "light_mode", "dark"),
    "dark": (True, "dark_mode", "auto"),
}
_FAILED = "Something went wrong on our side; the log has more about it."
_HEAD = f"""<link rel="stylesheet" href="{PATH}/assets/page.css?v={VERSION}">
<link rel="icon" href="{PATH}/assets/icon.svg">
<script defer src="{PATH}/assets/page.js?v={VERSION}"></script>"""


@asynccontextmanager
async def frame(title: str, here: str) -> AsyncIterator[Visitor]:
    """Around the content of a view; `here`: its place in the menu. What the view raises is shown in its place."""
    visitor = cast(Visitor, ui.context.client.request.scope["visitor"])
    ui.add_head_html(_HEAD)
    ui.context.client.on_exception(lambda: say(_FAILED, good=False))
    who = await visitor.principal()
    drawer = _menu(here)
    with ui.header().classes("top"):
        button = ui.button(icon="menu", color=None, on_click=drawer.toggle).props('flat round dense aria-label="Menu"')
        button.classes("top-button")
        Text("Stratamem", "span").classes("brand")
        Text(who.tenant_id, "span", "tenant").props('title="tenant"')
        ui.space()
        _theme()
        if visitor.signed is None:
            Link("Sign in", SIGN_IN, "top-link")
        else:
            _sign_out(who.caller_id or "")
    with ui.element("div").classes("page") as content:  # NiceGUI has the <main> around it
        Text(title, "h1")
        try:
            yield visitor
        except StratamemError as error:
            ui.context.client.status_code = error.status
            fail(error)
    ui.skip_link("To the content", target=content)


def broken() -> None:
    """In the place of a view that could not be built. What the error says may quote what was said: it is not shown."""
    ui.add_head_html(_HEAD)
    with ui.element("div").classes("page"):
        Text(_FAILED, "p", "complaint")
        Link("Overview", f"{PATH}/")


def fail(error: StratamemError) -> None:
    """Says what is wrong where the view would be; who is out goes to the door."""
    if isinstance(error, Unauthenticated):
        ui.run_javascript(f"location.assign('{SIGN_IN}')")
    problem(error)


def _menu(here: str) -> ui.left_drawer:
    with ui.left_drawer(value=None).classes("menu").props("width=208 breakpoint=900 aria-label=Views") as drawer:
        with ui.element("nav").props('aria-label="Views"'):
            for name, path, icon in MENU:
                with Link("", PATH + path, "menu-link") as link:
                    ui.icon(icon).props("aria-hidden=true")
                    Text(name)
                if path == here:
                    link.props("aria-current=page")
        Text(f"version {VERSION}", "p", "version")
        Link("API docs", "/docs", "version")
    return drawer


def _theme() -> None:
    chosen = ui.context.client.request.cookies.get("stratamem_theme", "auto")
    state = {"name": chosen if chosen in _THEMES else "auto"}
    dark = ui.dark_mode(_THEMES[state["name"]][0])

    def turn() -> None:
        state["name"] = _THEMES[state["name"]][2]
        dark.value, icon, _ = _THEMES[state["name"]]
        button.props(f'icon={icon} aria-label="{label()}"')
        year = 365 * 24 * 3_600
        ui.run_javascript(
            f"document.cookie = 'stratamem_theme={state['name']}; path={PATH}; max-age={year}; SameSite=Strict'"
        )

    def label() -> str:
        return f"Colours: {state['name']}; change"

    button = (
        ui.button(icon=_THEMES[state["name"]][1], color=None, on_click=turn)
        .props("flat round dense")
        .classes("top-button")
    )
    button.props(f'aria-label="{label()}"')


def _sign_out(caller: str) -> None:
    with ui.element("form").props(f"method=post action={PATH}/sign-out"):
        with ui.element("button").props("type=submit").classes("top-link") as button:
            Text("Sign out")
        button.props["title"] = caller
