"""Two APIs and workers as processes of their own, over PostgreSQL and Redis: one memory, wherever one asks."""

import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.server import Process, Server, append, backlog, indexed, ok, recall, sound, texts, until

QUICK = {"JOBS__LEASE": 3, "JOBS__SWEEP_EVERY": 1, "JOBS__SWEEP_IDLE": 1}


@pytest.fixture(scope="module")
def apis(
    tmp_path_factory: pytest.TempPathFactory, new_postgres: Callable[[], str], broker: dict[str, str]
) -> Iterator[tuple[Server, Server]]:
    folder = tmp_path_factory.mktemp("separate")
    settings = {"DATABASE_URL": new_postgres(), **broker, **QUICK}
    one = Server(folder / "one", **settings)
    two = Server(folder / "two", **settings | {"NODE": "other"})
    one.start()  # alone: it makes the schema
    with one, two:
        yield one, two


@pytest.fixture(scope="module")
def worker(apis: tuple[Server, Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    settings = {name: value for name, value in apis[0].settings.items() if "PORT" not in name and "NODE" not in name}
    made = Process(tmp_path_factory.mktemp("worker") / "data", "worker")
    made.settings = settings
    made.spawn()
    yield made
    made.kill()


def test_one_api_finds_at_once_what_the_other_was_told(apis: tuple[Server, Server], worker: Process) -> None:
    for number in range(100):
        here, there = apis[number % 2], apis[1 - number % 2]
        marker = f"unique{uuid.uuid4().hex[:10]}"
        append(here.http, f"talk-{number % 3}", f"The {marker} is on shelf {number}.")
        found = recall(there.http, marker, top_k=1, session_ids=None if number % 4 else [f"talk-{number % 3}"])
        assert marker in found[0]["text"], number
    indexed(apis[0].http)
    for api in apis:
        tiers = sound(api.http)
        assert (tiers["longterm"]["items"], tiers["longterm"]["pending"]) == (100, 0)


def test_a_purge_is_verified_and_seen_everywhere(apis: tuple[Server, Server], worker: Process) -> None:
    one, two = apis
    append(one.http, "secret", "The quetzalcoatl statue is in the cellar.")
    indexed(one.http)
    assert "quetzalcoatl" in recall(two.http, "quetzalcoatl", top_k=1)[0]["text"]
    receipt = verified(one, "/v1/sessions/secret")
    assert receipt["purged"]["events"] == 1
    for api in apis:
        assert not [text for text in texts(recall(api.http, "quetzalcoatl", top_k=200)) if "quetzal" in text]
        assert api.http.get("/v1/sessions/secret").status_code == 404
        held = [p for p in (api.data / "index").rglob("*") if p.is_file() and b"quetzalcoatl" in p.read_bytes()]
        assert held == []
        sound(api.http)


def test_a_stopped_api_holds_up_no_purge(apis: tuple[Server, Server], worker: Process) -> None:
    one, two = apis
    append(one.http, "gone", "The axolotl swims in the bath.")
    indexed(one.http)
    recall(two.http, "axolotl")
    assert two.stop() == 0
    try:
        answer = one.http.delete("/v1/sessions/gone")
        assert answer.status_code == 200, answer.text
        assert answer.json()["verified"] is True
    finally:
        two.start()
    assert not [text for text in texts(recall(two.http, "axolotl", top_k=200)) if "axolotl" in text]
    held = [p for p in (two.data / "index").rglob("*") if p.is_file() and b"axolotl" in p.read_bytes()]
    assert held == []
    sound(two.http)


def test_a_killed_worker_is_replaced(apis: tuple[Server, Server], worker: Process) -> None:
    one, two = apis
    for part in range(4):
        append(one.http, "bulk", *(f"line {part} {n} of the novel about whales" for n in range(250)))
    until(lambda: any(op["state"] == "running" for op in backlog(one.http)), 30, what="the worker is at it")
    worker.kill()
    assert backlog(one.http), "it was done before it was killed: nothing is shown"
    worker.spawn()
    indexed(one.http, 120)
    for api in apis:
        tiers = sound(api.http)
        assert tiers["longterm"]["pending"] == 0
    log = ok(one.http.get("/v1/sessions/bulk"))
    assert log["event_count"] == 1000
    assert recall(two.http, "line 3 249 of the novel", top_k=1, session_ids=["bulk"])[0]["events"][0]["seq"] == 1000
    assert worker.stop() == 0
    worker.spawn()


def verified(api: Server, path: str) -> dict[str, dict[str, int]]:
    """The receipt of a purge, now or when the other followers have confirmed."""
    answer = api.http.delete(path)
    body = ok(answer, 200, 202)
    if answer.status_code == 202:
        where = f"/v1/operations/{body['operation_id']}"
        until(lambda: ok(api.http.get(where))["state"] == "succeeded", 60, what="the purge is confirmed")
        body = ok(api.http.get(where))["result"]
    assert body["verified"] is True
    return body  # type: ignore[no-any-return]
