"""Operators look at the real service through a real browser, on a laptop and on a phone, light and dark."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.server import Server, append, ok, recall, said, until
from tests.services import missing

SHOTS = Path(__file__).parents[2] / ".artifacts" / "admin"
EVIL = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"
VIEWS = ("", "sessions", "sessions/trip?agent=maya", "sessions/team", "recall", "jobs", "indexes", "keys", "audit")
MANY = 53
LAPTOP = {"width": 1366, "height": 850}
PHONE = {"width": 390, "height": 844}
TRIP = (
    ("maya", "We are finally going to Lisbon in May! I found a flat in Alfama."),
    ("tom", "Great. What is the catch?"),
    ("maya", "Fourth floor, no lift. And the landlady only takes cash."),
    ("tom", "Fine with me, but my knee is not what it was since the accident."),
    ("maya", "I booked the fado evening for our anniversary, table by the window."),
    ("mallory", EVIL),
    ("tom", "The train from the airport takes 25 minutes; I can stand that long."),
)
TEAM = {
    "ida": ("The tomatoes need water every evening.", "Slugs ate the lettuce again.", "Prune the roses in February."),
    "otto": ("The build fails since Tuesday.", "Roll back the migration.", "Recall went from 9 to 31 ms."),
    "jon": ("The roof leaks above the kitchen.", "The plumber comes on Thursday.", "Paint the hall in white."),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("admin") / "data", MODEL="fixture") as started:
        fill(started)
        yield started
        assert started.stop() == 0
        assert not (started.data / ".nicegui").exists(), "nothing of who looks is written to disk"


def fill(server: Server) -> None:
    http = server.http
    for number in range(MANY):
        ok(http.post("/v1/sessions", json={"session_id": f"many-{number}"}))
    append(http, "trip", *(said(text, agent_id=who, created_at="2026-03-02T09:00:00Z") for who, text in TRIP))
    log = [said(f"{text} ({n})", agent_id=who) for n in range(16) for who, texts in TEAM.items() for text in texts]
    append(http, "team", *log)
    ok(http.patch("/v1/sessions/trip", json={"title": EVIL}))
    ok(http.put("/v1/sessions/trip/agents/maya", json={"role": "owner"}))
    ok(http.put("/v1/sessions/trip/agents/mallory", json={"role": "reader"}))
    ok(http.post("/v1/sessions", json={"session_id": "evil", "title": EVIL}))
    ok(http.post("/v1/memories", json={"memories": [{"text": EVIL, "kind": "fact", "visibility": "tenant"}]}))
    ok(http.post("/v1/admin/keys", json={"scopes": ["read"], "name": EVIL}))
    asked = {"model": "stratamem-fixture-handwired-recall", "memory_key": "team", "max_tokens": 4}
    ok(http.post("/v1/chat/completions", json={**asked, "messages": [{"role": "user", "content": "The roof?"}]}))
    until(lambda: ok(http.get("/v1/admin/sessions/team/tiers"))["semantic"]["clusters"], what="there are clusters")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if found is None:
        missing("no chromium: `apt-get install chromium`, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


Look = Callable[..., Page]
_FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return [null, false];
  const name = e.getAttribute("aria-label") || e.labels?.[0]?.innerText || e.innerText || e.tagName;
  return [name, getComputedStyle(e).outlineStyle !== "none" || e.matches(".q-btn, .nicegui-skip-link")];
}"""


@pytest.fixture
def look(browser: Browser, server: Server) -> Iterator[Look]:
    """Opens a page that may complain of nothing and load nothing from elsewhere, whatever happens on it."""
    opened: list[Page] = []
    wrong: list[str] = []
    home = f"127.0.0.1:{server.port}"

    def open_one(path: str = "", *, size: dict[str, int] = LAPTOP, dark: bool = False, **options: Any) -> Page:
        context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", **options)  # type: ignore[arg-type]
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: wrong.append(str(e)))
        page.on("request", lambda r: None if re.match(rf"(http://{home}/|data:)", r.url) else wrong.append(r.url))
        page.on("websocket", lambda s: None if s.url.startswith(f"ws://{home}/") else wrong.append(s.url))
        opened.append(page)
        go(page, server, path)
        return page

    yield open_one
    for page in opened:
        assert page.title() != "pwned"
        page.context.close()
    assert wrong == []


def go(page: Page, server: Server, path: str) -> None:
    page.goto(f"http://127.0.0.1:{server.port}/admin/{path}")
    expect(page.locator("main h1")).to_be_visible()


def shoot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png", full_page=True)


@pytest.mark.parametrize(("size", "dark", "name"), [(LAPTOP, False, "laptop"), (PHONE, True, "phone")])
def test_every_view_can_be_read(look: Look, server: Server, size: dict[str, int], dark: bool, name: str) -> None:
    recall(server.http, "the roof")
    page = look("", size=size, dark=dark)
    for path in VIEWS:
        go(page, server, path)
        expect(page.locator(".problem")).to_have_count(0)
        expect(page.locator("main section").first).to_be_visible()
        expect(page.locator("body")).to_have_class(re.compile("body--dark" if dark else "body--light"))
        wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, f"{path} is wider than a {name}"
        assert page.locator("img[src=x]").count() == 0, "what was stored is text"
        shoot(page, f"{re.sub('[^a-z]+', '-', path) or 'overview'}-{name}")
    if name == "phone":
        page.get_by_role("button", name="Menu").click()
        page.get_by_role("link", name="Sessions").click()
        expect(page.locator("main h1")).to_have_text("Sessions")


def test_what_was_stored_is_shown_as_text_wherever_it_comes(look: Look, server: Server) -> None:
    page = look("sessions")
    expect(page.locator("td", has_text="<script>document.title")).to_have_count(1)  # trip is closed: no title
    go(page, server, "sessions/trip?agent=mallory")
    expect(page.locator(".events .said", has_text=EVIL)).to_be_visible()
    go(page, server, "keys")
    expect(page.locator("td", has_text=EVIL)).to_be_visible()
    go(page, server, "recall")
    page.get_by_label("What do you look for?").fill("document.title pwned")
    page.get_by_role("button", name="Recall").click()
    expect(page.locator(".results .said", has_text=EVIL)).to_have_count(1)
    go(page, server, f"sessions?q={EVIL[:20]}")
    expect(page.get_by_label("Id or title")).to_have_value(EVIL[:20])


def test_what_came_into_the_page_as_html_would_not_run(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    go(page, server, "audit")
    page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<img src=x onerror=\"pwned = 1\">')")
    page.evaluate("document.head.append(Object.assign(document.createElement('script'), {textContent: 'pwned = 1'}))")
    page.wait_for_timeout(300)
    assert page.evaluate("typeof pwned") == "undefined"
    page.close()


def test_many_sessions_are_turned_over_page_by_page(look: Look) -> None:
    page = look("sessions?q=many")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text(f"many-{MANY - 1}")
    page.get_by_role("button", name="Older").click()
    expect(rows).to_have_count(MANY - 50)
    expect(page.get_by_role("button", name="Older")).to_be_disabled()
    page.get_by_role("button", name="Newer").click()
    expect(rows).to_have_count(50)


def test_a_session_is_inspected(look: Look) -> None:
    page = look("sessions")
    page.get_by_label("Id or title").fill("TEA")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name="team", exact=True).click()
    expect(page.locator("main h1")).to_have_text("team")
    expect(page.locator(".lane-name").first).to_be_visible()
    assert {"ida", "otto", "jon"} <= set(page.locator(".lane-name").all_text_contents())
    page.get_by_role("button", name="Earlier events").click()
    expect(page.locator("#event-1")).to_contain_text("tomatoes")
    assert page.locator(".cells-map i").count() > 0, "KV blocks by tier"
    first = page.locator(".about").inner_text()
    page.locator(".clusters circle").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator(".about")).not_to_have_text(first)
    expect(page.get_by_role("region", name="Evictions")).to_contain_text("founded a cluster")


def test_a_closed_session_tells_whoever_is_not_listed_nothing_of_what_was_said(look: Look, server: Server) -> None:
    page = look("sessions/trip")
    expect(page.locator(".problem")).to_contain_text("is closed")
    expect(page.get_by_role("region", name="Agents")).to_contain_text("maya")
    assert "Alfama" not in page.content()
    page.get_by_label("As the agent").fill("maya")
    page.get_by_role("button", name="See").click()
    expect(page.locator(".events")).to_contain_text("Alfama")


def test_a_recall_shows_where_each_result_was_and_what_its_score_is_made_of(look: Look) -> None:
    page = look("recall")
    page.get_by_label("What do you look for?").fill("Which evening needs water?")
    page.get_by_label("Only these sessions").fill("team")
    page.keyboard.press("Enter")
    first = page.locator(".results li").first
    expect(first).to_contain_text("tomatoes")
    expect(first.locator(".tier")).to_have_text(re.compile("hot|semantic|longterm"))
    expect(first.locator(".signals")).to_contain_text("dense")
    shoot(page, "recall-results")
    page.get_by_label("Only these sessions").fill("nowhere")
    page.get_by_role("button", name="Recall").click()
    expect(page.locator(".problem")).to_contain_text("not_found")


def test_a_key_is_made_shown_once_and_revoked(look: Look, server: Server) -> None:
    page = look("keys")
    page.get_by_label("Name, for people").fill("for a test")
    page.get_by_role("button", name="Make the key").click()
    token = page.locator(".secret").inner_text()
    with server.client(token) as bearer:
        assert bearer.get("/v1/sessions").status_code == 200
        page.locator("tr", has_text="for a test").get_by_role("button", name="Revoke").click()
        page.get_by_role("button", name="Revoke it").click()
        expect(page.locator("tr", has_text="for a test")).to_contain_text("revoked")
        assert bearer.get("/v1/sessions").status_code == 401
    page.reload()
    expect(page.locator("tr", has_text="for a test")).to_be_visible()
    assert token not in page.content() + server.log.read_text()
    go(page, server, "audit")
    expect(page.locator("tbody")).to_contain_text("keys.revoke")


def test_a_job_that_failed_is_tried_again(look: Look, server: Server) -> None:
    (current,) = (server.data / "index").rglob("lexical/index-*")
    obstacle = current.with_name(f"index-{int(current.name[6:]) + 1:08d}.draft")
    obstacle.touch()  # where the folder of the next index has to be
    page = look("indexes")
    page.locator("tr", has_text="lexical").first.get_by_role("button", name="Make anew").click()

    def failed() -> Any:
        ok(server.http.post("/v1/admin/indexes/vectors/verify"), 202)  # wakes the process: it tries again at once
        return ok(server.http.get("/v1/operations?state=failed"))["items"]

    until(failed, what="it is given up")
    obstacle.unlink()
    go(page, server, "jobs")
    row = page.locator("tr", has_text="rebuild")
    expect(row).to_contain_text("failed")
    shoot(page, "jobs-failed")
    row.get_by_role("button", name="Try again").click()
    expect(row).to_contain_text("succeeded", timeout=15_000)


def test_the_overview_is_live_and_its_times_are_the_viewers(look: Look, server: Server) -> None:
    page = look("", locale="en-GB", timezone_id="Asia/Tokyo")
    events = page.locator(".figure", has_text="Events").locator("strong")
    before = int(events.inner_text())
    append(server.http, "live", "One more.")
    expect(events).to_have_text(str(before + 1), timeout=10_000)
    hide = "v => Object.defineProperty(document, 'visibilityState', {value: v, configurable: true})"
    page.evaluate(hide, "hidden")
    append(server.http, "live", "One more.")
    page.wait_for_timeout(2_500)
    assert events.inner_text() == str(before + 1), "nobody looks, nothing is asked"
    page.evaluate(hide, "visible")
    expect(events).to_have_text(str(before + 2), timeout=10_000)
    go(page, server, "sessions/team")
    assert "Europe" not in page.evaluate("Intl.DateTimeFormat().resolvedOptions().timeZone")
    shown = page.locator(".events time").first
    moment = shown.get_attribute("datetime")
    local = page.evaluate(
        "(m) => new Date(m).toLocaleString('en-GB', {timeZone: 'Asia/Tokyo', hour: '2-digit'})", moment
    )
    expect(shown).to_contain_text(f" {local}:")


def test_it_is_used_by_keyboard_and_the_colours_stay_as_chosen(look: Look, server: Server) -> None:
    page = look("keys")
    seen = []
    while len(seen) < 40:
        page.keyboard.press("Tab")
        name, visible = page.evaluate(_FOCUSED)
        if name is None:
            break
        seen.append(name.strip().split("\n")[-1])  # without the icon's name
        assert visible, f"{name} has the focus and does not show it"
    assert seen[0] == "To the content"
    assert {"Menu", "Overview", "Audit", "Name, for people", "Make the key"} <= set(seen)
    switch = page.get_by_role("button", name="Colours")
    switch.press("Enter")
    switch.press("Enter")
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))
    page.reload()
    expect(page.locator("body")).to_have_class(re.compile("body--dark"))


def test_who_signs_in_sees_what_his_key_may_see_until_it_is_revoked(look: Look, server: Server) -> None:
    key = ok(server.http.post("/v1/admin/keys", json={"scopes": ["admin"]}))
    page = look("")
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("A key with").fill(key["token"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    go(page, server, "recall")
    expect(page.locator("main")).to_contain_text("may not read content")
    go(page, server, "sessions/team")
    expect(page.locator("main")).to_contain_text("may not read content")
    assert "tomatoes" not in page.content()
    go(page, server, "jobs")
    ok(server.http.delete(f"/v1/admin/keys/{key['key_id']}"))
    expect(page.get_by_label("A key with")).to_be_visible(timeout=10_000)
