"""Who is let in to the operators' page, with what around it."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from api.app import create_app
from memory.domain.errors import StorageUnavailable
from memory.domain.principals import KeyScope
from memory.services.settings import LimitSettings
from memory.settings import AuthMode

PAGE = "/admin/audit"
SOCKET = "/admin/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
HOME = "http://127.0.0.1"


def browser(app: Any) -> TestClient:
    return TestClient(app, base_url=HOME, follow_redirects=False)


@pytest.fixture
def open_door(container: Any) -> Iterator[TestClient]:
    """On loopback, where nobody needs a key."""
    with browser(create_app(container)) as made:
        yield made


@pytest.fixture
def shut_door(container: Any) -> Iterator[TestClient]:
    container.settings = container.settings.model_copy(update={"auth": AuthMode.REQUIRED})
    with browser(create_app(container)) as made:
        yield made


async def key_of(container: Any, *scopes: KeyScope) -> Any:
    return await container.keys.create("acme", scopes or (KeyScope.READ, KeyScope.ADMIN))


def sign_in(client: TestClient, key: str) -> Any:
    form = re.search(r'name="form" value="([^"]+)"', client.get("/admin/sign-in").text)
    assert form is not None
    return client.post("/admin/sign-in", data={"key": key, "form": form[1]})


def socket_opens(client: TestClient, **headers: str) -> bool:
    cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    sent = {"host": "127.0.0.1", "upgrade": "websocket", "cookie": cookies, **headers}
    try:
        with client.websocket_connect(SOCKET, headers=sent) as socket:
            return str(socket.receive_text()).startswith('0{"sid"')
    except WebSocketDisconnect:
        return False


def test_on_loopback_the_page_opens_at_once(open_door: TestClient) -> None:
    assert open_door.get("/admin").headers["location"] == "/admin/"
    answer = open_door.get(PAGE)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert "Audit · Stratamem" in answer.text


@pytest.mark.parametrize("path", [PAGE, "/admin/sign-in", "/admin/assets/page.css", "/admin/nowhere"])
def test_every_answer_has_its_guards(open_door: TestClient, path: str) -> None:
    headers = open_door.get(path).headers
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy or "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]


def test_only_scripts_of_the_server_may_run_and_nothing_is_loaded_from_elsewhere(open_door: TestClient) -> None:
    answer = open_door.get(PAGE)
    nonce = re.search(r"'nonce-([^']+)'", answer.headers["content-security-policy"])
    assert nonce is not None
    scripts = re.findall(r"<script[^>]*>", answer.text)
    assert len(scripts) > 5
    assert all(f'nonce="{nonce[1]}"' in script for script in scripts)
    assert nonce[1] not in open_door.get(PAGE).text, "each answer has its own"
    loaded = re.findall(r'(?:src|href)="([^"]+)"|url\("([^"]+)"\)', answer.text)
    assert [one for pair in loaded if not (one := pair[0] or pair[1]).startswith("/admin/")] == []


def test_a_view_that_breaks_says_so_without_quoting_anything(open_door: TestClient, container: Any) -> None:
    container.admin.answers["overview"] = ZeroDivisionError("the diary says")
    answer = open_door.get("/admin/")
    assert (answer.status_code, "the diary" in answer.text) == (500, False)
    assert "Something went wrong on our side" in answer.text
    container.admin.answers["overview"] = StorageUnavailable("the database is away")
    answer = open_door.get("/admin/")
    assert (answer.status_code, "storage_unavailable" in answer.text) == (200, True), "it is live: it may come back"


def test_without_keys_a_name_of_the_web_gets_nothing(open_door: TestClient) -> None:
    answer = open_door.get(PAGE, headers={"host": "evil.example"})
    assert (answer.status_code, "forbidden" in answer.text) == (403, True)
    assert not socket_opens(open_door, host="evil.example", origin="http://evil.example")


def test_only_the_page_itself_opens_its_socket(open_door: TestClient) -> None:
    assert socket_opens(open_door, origin=HOME)
    assert not socket_opens(open_door, origin="http://evil.example")
    assert not socket_opens(open_door, origin="http://127.0.0.1:9999")
    assert not socket_opens(open_door, origin="null")
    assert not socket_opens(open_door)
    assert open_door.get(SOCKET.replace("=websocket", "=polling")).status_code == 404


def test_where_a_key_is_needed_strangers_see_a_form_and_nothing_else(shut_door: TestClient) -> None:
    answer = shut_door.get(PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/sign-in")
    assert shut_door.get("/admin/_nicegui/3.18.0/static/nicegui.js").status_code == 401
    assert not socket_opens(shut_door, origin=HOME)
    assert "<script" not in shut_door.get("/admin/sign-in").text


async def test_a_key_signs_in_and_stays_on_the_server(shut_door: TestClient, container: Any) -> None:
    made = await key_of(container)
    answer = sign_in(shut_door, made.token)
    assert (answer.status_code, answer.headers["location"]) == (303, "/admin/")
    cookie = answer.headers.get_list("set-cookie")[0]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/admin"))
    assert made.token not in cookie
    page = shut_door.get(PAGE)
    assert page.status_code == 200
    assert made.token not in page.text
    assert socket_opens(shut_door, origin=HOME)
    (entry,) = container.trail.entries
    assert (entry.action, entry.tenant_id, entry.caller, entry.status) == ("page.sign_in", "acme", made.key.key_id, 200)


async def test_a_revoked_key_is_out(shut_door: TestClient, container: Any) -> None:
    made = await key_of(container)
    sign_in(shut_door, made.token)
    assert shut_door.get(PAGE).status_code == 200
    await container.keys.revoke("acme", made.key.key_id)
    assert shut_door.get(PAGE).status_code == 303
    assert not socket_opens(shut_door, origin=HOME)


async def test_who_signs_out_is_out_with_every_tab(shut_door: TestClient, container: Any) -> None:
    sign_in(shut_door, (await key_of(container)).token)
    stolen = shut_door.cookies["stratamem_admin"]
    assert shut_door.post("/admin/sign-out").status_code == 303
    shut_door.cookies.set("stratamem_admin", stolen, path="/admin")
    assert shut_door.get(PAGE).status_code == 303


async def test_a_key_without_the_scope_or_a_wrong_one_does_not_sign_in(shut_door: TestClient, container: Any) -> None:
    reader = await key_of(container, KeyScope.READ)
    refused = sign_in(shut_door, reader.token)
    assert (refused.status_code, "scope &#x27;admin&#x27;" in refused.text) == (403, True)
    assert [entry.status for entry in container.trail.entries] == [403]
    wrong = sign_in(shut_door, "sm_<script>")
    assert (wrong.status_code, "<script>" in wrong.text) == (401, False)
    assert "stratamem_admin" not in shut_door.cookies


async def test_another_site_can_not_sign_somebody_in(shut_door: TestClient, container: Any) -> None:
    made = await key_of(container)
    assert shut_door.post("/admin/sign-in", data={"key": made.token, "form": "guessed"}).status_code == 403
    shut_door.cookies.clear()
    assert shut_door.post("/admin/sign-in", data={"key": made.token, "form": ""}).status_code == 403
    large = shut_door.post("/admin/sign-in", data={"key": "x" * 20_000})
    assert large.status_code == 403


async def test_a_load_of_the_page_counts_as_a_request(container: Any, make: Any) -> None:
    settings = container.settings.model_copy(
        update={"auth": AuthMode.REQUIRED, "limits": LimitSettings(key_requests_per_minute=3)}
    )
    limited = make.container(settings)
    with browser(create_app(limited)) as client:
        sign_in(client, (await key_of(limited)).token)
        assert [client.get(PAGE).status_code for _ in range(3)] == [200, 200, 429]


def test_the_page_can_be_turned_off_and_the_api_does_not_know_of_it(container: Any, open_door: TestClient) -> None:
    described = open_door.get("/openapi.json").json()
    container.settings = container.settings.model_copy(update={"admin_page": False})
    with browser(create_app(container)) as client:
        assert client.get("/admin").status_code == client.get("/admin/").status_code == 404
        assert client.get("/openapi.json").json() == described
